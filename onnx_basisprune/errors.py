"""Every error that basisprune raises on purpose; the command line prints each as one line.

A message names the node or file, what was found, what was expected, and what to do.
"""

from __future__ import annotations

_LONGEST_QUOTE = 200


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


class ValidationError(BasispruneError):
    """The written model doesn't do what the plan predicted."""


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
