"""The hidden folders in which results are made, and what is left of them where a run was killed.

A run marks its folder with a file that it keeps open and locked: the system lets go of it when the run ends, however
that happens. So a folder whose marker nobody holds is left over, whatever process numbers say, and one that is held is
a live run's.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_SUFFIX = ".partial"
_MARKER = ".held"
# What `tempfile` puts between prefix and suffix.
_RANDOM = "[a-z0-9_]{8}"
# Beside the new files while they are published: a file that was replaced, and that there was none.
_FORMER, _ABSENT = ".former", ".absent"


def claim_folder(path: Path) -> tuple[Path, BinaryIO]:
    """Make a hidden folder beside a result, after removing what killed runs have left of theirs.

    Args:
        path: The result.

    Returns:
        The folder, and its marker: to be closed before the folder is removed.

    Raises:
        OSError: It can't be made.
    """
    clear_leftovers(path)
    while True:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=_SUFFIX))
        try:
            marker = (folder / _MARKER).open("wb")
        except FileNotFoundError:  # another run took the empty folder for one that was left
            continue
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        # Where a file system has no locks, nobody can take it away either.
        if _try_lock(marker) is not False and (folder / _MARKER).exists():
            return folder, marker
        marker.close()


def clear_leftovers(path: Path) -> None:
    """Remove the folders that killed runs have left beside a result, after putting back what they had moved aside."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.{_RANDOM}{re.escape(_SUFFIX)}")
    # A folder that can't be listed has nothing that could be cleared.
    with suppress(OSError):
        for folder in [item for item in path.parent.iterdir() if pattern.fullmatch(item.name)]:
            _clear(folder, path)


def _clear(folder: Path, path: Path) -> None:
    """Remove one folder unless a run is at work in it, or it isn't one of ours."""
    with suppress(OSError):
        folder.rmdir()  # killed before it was marked
        return
    if folder.is_symlink():
        return
    with _take_over(folder / _MARKER) as is_left:
        if is_left:
            put_back(folder, path)
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _take_over(marker: Path) -> Iterator[bool]:
    """Hold a marker that no run holds; yields whether that worked."""
    if sys.platform == "win32":  # where a file that is open can't be removed
        try:
            marker.unlink()
        except OSError:
            yield False
        else:
            yield True
        return
    try:
        stream = marker.open("rb+")
    except OSError:  # not one of ours
        yield False
        return
    with stream:
        yield _try_lock(stream) is True


def _try_lock(stream: BinaryIO) -> bool | None:
    """Lock an open file; return whether that worked, `None` where the file system has no locks."""
    if sys.platform == "win32":
        return True  # open is locked enough
    import fcntl

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def move_aside(folder: Path, paths: tuple[Path, ...]) -> None:
    """Make room for files that are about to be published, so that `put_back` can undo it.

    Args:
        folder: Where they are staged.
        paths: Their final places, the first one's first: it must be gone before others than its own lie beside it.

    Raises:
        OSError: One can't be moved.
    """
    for path in paths[1:]:
        if not path.exists():
            (folder / f"{path.name}{_ABSENT}").touch()
    for path in paths:
        if path.exists():
            path.replace(folder / f"{path.name}{_FORMER}")


def put_back(folder: Path, first: Path) -> None:
    """Undo a publication that didn't come to its end; one that did, or hasn't begun, stays as it is.

    Args:
        folder: Where its files were staged.
        first: The final place of the one that is published last.

    Raises:
        OSError: A file can't be moved or removed.
    """
    if first.exists() or not (folder / first.name).exists():
        return
    for absent in folder.glob(f"*{_ABSENT}"):
        (first.parent / absent.stem).unlink(missing_ok=True)
        absent.unlink()
    # Never beside others than its own: the first one comes back last.
    for former in sorted(folder.glob(f"*{_FORMER}"), key=lambda item: item.stem == first.name):
        former.replace(first.parent / former.stem)
