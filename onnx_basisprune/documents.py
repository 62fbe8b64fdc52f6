"""Read small text files of strangers: regular ones, and no more of them than memory holds."""

from __future__ import annotations

import errno
from pathlib import Path

# In bytes; the report of a network of thousands of layers takes a hundredth.
LARGEST_DOCUMENT = 2**28


def read_document(path: Path) -> str:
    """Return a text file's content, UTF-8 with or without a mark of it.

    Raises:
        OSError: It can't be read, is no regular file (a pipe without a writer would never end, nor would a device), or
            is too large.
        ValueError: It isn't UTF-8.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    with path.open("rb") as stream:
        content = stream.read(LARGEST_DOCUMENT + 1)
    if len(content) > LARGEST_DOCUMENT:
        raise OSError(errno.EFBIG, f"it has more than {LARGEST_DOCUMENT // 2**20} MiB", str(path))
    return content.decode("utf-8-sig")
