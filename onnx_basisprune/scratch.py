"""A folder for files that nobody but the run sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from onnx_basisprune.errors import OutputError, describe_write_error

_REMEDY = (
    "That is the place for temporary files: make room there, or name another folder in the environment variable TMPDIR."
)


@contextmanager
def make_scratch_folder() -> Iterator[Path]:
    """Make a folder among the system's temporary files; it is gone afterwards, with all that is in it.

    Yields:
        The folder.

    Raises:
        OutputError: It can't be made, or something in it can't be written; the message names `TMPDIR`.
    """
    try:
        # On Windows a file that is still open can't be removed; that must not hide why a run failed.
        scratch = TemporaryDirectory(prefix="basisprune-", ignore_cleanup_errors=True)
    except OSError as error:
        raise OutputError(f"{_describe(error)} {_REMEDY}") from error
    with scratch as folder:
        try:
            yield Path(folder)
        except OutputError as error:
            raise OutputError(f"{error} {_REMEDY}") from error


def _describe(error: OSError) -> str:
    """Return why the folder can't be made: without a usable place there is none to name."""
    return describe_write_error(Path(error.filename), error) if error.filename else f"{error.strerror or error}."
