"""Write results so that no file is ever lost or left half-written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from onnx_basisprune.errors import OutputError, quote


def write_atomically(content: bytes, path: Path, *, force: bool) -> None:
    """Write a whole file or nothing: a temporary file in the same folder, then a rename.

    Args:
        content: The bytes to write.
        path: The final file.
        force: Replace an existing file.

    Raises:
        OutputError: The folder doesn't exist or can't be written, or the file exists and `force` is false.
    """
    check_writable(path, force=force)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".partial", delete=False
        ) as stream:
            temporary = Path(stream.name)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # NamedTemporaryFile makes the file private to its owner; a result gets the ordinary rights.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{quote(path)} can't be written: {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_writable(path: Path, *, force: bool) -> None:
    """Refuse, before any work is done, a place where a result couldn't be written.

    Raises:
        OutputError: The folder doesn't exist, or the file exists and `force` is false.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{quote(path)}: the folder {quote(path.parent)} doesn't exist: create it first.")
    if path.is_dir():
        raise OutputError(f"{quote(path)} is a folder; expected a file name.")
    if path.exists() and not force:
        raise OutputError(f"{quote(path)} exists already: choose another name or add --force.")
