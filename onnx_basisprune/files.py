"""Write results so that no file is ever lost or left half-written."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from onnx_basisprune.errors import OutputError, describe_write_error, quote
from onnx_basisprune.leftovers import claim_folder, move_aside, put_back

_BLOCK_BYTES = 2**24


def write_atomically(content: bytes, path: Path, *, force: bool) -> None:
    """Write a whole file or nothing: a temporary file in the same folder, then a rename.

    Args:
        content: The bytes to write.
        path: The final file.
        force: Replace an existing file.

    Raises:
        OutputError: The folder doesn't exist or can't be written, or the file exists and `force` is false.
    """
    with make_staging_folder(path, force=force) as folder:
        staged = folder / path.name
        with _explained(path, len(content)):
            staged.write_bytes(content)
        publish_files([staged], force=force)


def check_writable(path: Path, *, force: bool) -> None:
    """Refuse, before any work is done, a place where a result couldn't be written.

    Raises:
        OutputError: The folder doesn't exist or can't be written to, or the file exists and `force` is false.
    """
    _check_place(path, force=force)
    with _explained(path), tempfile.TemporaryFile(dir=path.parent):
        pass  # a folder that may be written to tells so


def _check_place(path: Path, *, force: bool) -> None:
    """Refuse a place that isn't free; whether it can be written to, the writing tells.

    Raises:
        OutputError: The folder doesn't exist, or the file exists and `force` is false.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{quote(path)}: the folder {quote(path.parent)} doesn't exist: create it first.")
    if path.is_dir():
        raise OutputError(f"{quote(path)} is a folder; expected a file name.")
    if path.exists() and not force:
        raise OutputError(f"{quote(path)} exists already: choose another name or add --force.")


@contextmanager
def make_staging_folder(path: Path, *, force: bool) -> Iterator[Path]:
    """Make a hidden folder beside a result, in which its files are written and tried before they get their names.

    Args:
        path: Where the result goes.
        force: Whether it may exist.

    Yields:
        The folder; it is gone afterwards, with all that is left in it. Those of runs that were killed go, too.

    Raises:
        OutputError: As `check_writable`, or the folder can't be made.
    """
    _check_place(path, force=force)
    with _explained(path):
        folder, marker = claim_folder(path)
    try:
        yield folder
    finally:
        # Where this fails the folder stays, with what it holds of the user's: the next run tries again.
        put_back(folder, path)
        marker.close()
        shutil.rmtree(folder, ignore_errors=True)


def publish_files(staged: Sequence[Path], *, force: bool) -> tuple[Path, ...]:
    """Move finished files out of their staging folder, into the one that it lies in.

    Where there are several, nobody ever sees the first with others than its own: an old first file goes before its
    companions are replaced, and the new one comes last.

    Args:
        staged: The files, all in one staging folder; the first refers to the others.
        force: Replace existing files.

    Returns:
        The final files, in the same order.

    Raises:
        OutputError: A file exists and `force` is false, or can't be replaced; the end of the staging folder puts all
            back as it was.
    """
    staging = staged[0].parent
    final = tuple(staging.parent / path.name for path in staged)
    for path in final:
        _check_place(path, force=force)
    with _explained(final[0], count_bytes(staged)):
        for path in staged:
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())
        if len(final) > 1:
            move_aside(staging, final)
        for source, path in zip(reversed(staged), reversed(final), strict=True):
            source.replace(path)
    return final


@contextmanager
def _explained(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn the system's errors into an `OutputError` of one line."""
    try:
        yield
    except OSError as error:
        raise OutputError(describe_write_error(path, error, needed)) from error


def count_bytes(files: Iterable[Path]) -> int:
    """Return the size of some files together."""
    return sum(path.stat().st_size for path in files)


def hash_files(files: Iterable[Path]) -> str:
    """Return the SHA-256 of some files' contents one after the other, as hexadecimal digits."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()
