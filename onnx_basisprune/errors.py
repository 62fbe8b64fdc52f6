"""Every error that basisprune raises on purpose; the command line prints each as one line.

A message names the node or file, what was found, what was expected, and what to do.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # numpy would slow down `--help`
    from numpy.typing import NDArray

_LONGEST_QUOTE = 200
# PyTorch, onnxruntime and the C++ library, in lower case.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "failed to allocate", "bad allocation", "bad_alloc")


class BasispruneError(Exception):
    """Base of all errors raised on purpose: exit code 1, no traceback."""


class ModelError(BasispruneError):
    """The ONNX file can't be read, is invalid, or isn't an image classifier."""


class UnsupportedOpError(ModelError):
    """The graph has an operator that the PyTorch executor can't run."""


class DataError(BasispruneError):
    """Images or labels can't be read or don't fit the model."""


class ReportError(BasispruneError):
    """A report can't be read, or isn't one of this release's format."""


class MissingLibraryError(BasispruneError):
    """A library that only some commands need isn't installed."""


class OutputError(BasispruneError):
    """A result can't be written where it was asked to go."""


class ConfigError(BasispruneError):
    """An option has a value that can't be used: exit code 2, like wrong usage."""


class PlanError(BasispruneError):
    """A saved plan can't be read, or doesn't fit the model."""


class OutOfMemoryError(BasispruneError):
    """Memory doesn't suffice for batches of the chosen size."""


class ValidationError(BasispruneError):
    """The written model doesn't do what the plan predicted.

    Attributes:
        evidence: Arrays that show it, by name: what went in, and what came out of each runtime.
    """

    def __init__(self, message: str, evidence: Mapping[str, NDArray[Any]] | None = None) -> None:
        super().__init__(message)
        self.evidence = dict(evidence or {})


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an outside library's error says that memory didn't suffice; each says it in its own words."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(phrase in text for phrase in _OUT_OF_MEMORY)


def quote(name: object) -> str:
    """Return a name from a model or a file for an error message: one line, bounded, printable.

    Args:
        name: Anything whose text comes from outside (node name, path, label).

    Returns:
        The text in single quotes, shortened to 200 characters; what can't be printed is escaped (control characters,
        those that turn the direction of writing, code points that mean nothing).
    """
    text = str(name)
    shortened = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:_LONGEST_QUOTE])
    return f"'{shortened}…'" if len(text) > _LONGEST_QUOTE else f"'{shortened}'"


def summarize_error(error: BaseException) -> str:
    """Return an outside library's message as one short line, quoted."""
    lines = str(error).strip().splitlines()
    return quote((lines[0] if lines else type(error).__name__).rstrip(". "))


def describe_write_error(path: Path, error: OSError, needed: int | None = None) -> str:
    """Return why a file can't be written, in one sentence.

    Args:
        path: The file, as the user knows it.
        error: What the system says.
        needed: Bytes that were to be written, where that is known.

    Returns:
        The system's words; where the disk is full, also how much is free in the file's folder.
    """
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno == errno.ENOSPC:
        reason += _describe_room(path.parent, needed)
    return f"{quote(path)} can't be written: {reason}."


def _describe_room(folder: Path, needed: int | None) -> str:
    """Return how much is needed and free, in brackets; nothing where the system doesn't tell."""
    import shutil

    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return ""
    wanted = "" if needed is None else f"{needed:,} bytes needed, "
    return f" ({wanted}{free:,} bytes free)"
