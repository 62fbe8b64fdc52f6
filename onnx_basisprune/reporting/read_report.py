"""A compression report back from its JSON: every field is checked against the dataclasses that wrote it."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from onnx_basisprune.documents import read_document
from onnx_basisprune.errors import ReportError, quote
from onnx_basisprune.results import FORMAT_VERSION, CompressionReport

# Larger than any count, and small enough to be computed with as a floating-point number.
_BEYOND = 2**63
# A key that only this kind of JSON has, for the error that tells what it is instead.
_OTHER_KINDS = {"runs": "benchmark", "accuracy": "evaluate", "nodes": "inspect"}
_EXPECTED = {bool: "true or false", int: "a whole number from 0 to 2^63", float: "a number", str: "text"}


def read_report(path: Path) -> CompressionReport:
    """Read what `compress --report` has written.

    Fields that have a default may be missing: they were added later. Keys that aren't known are passed over, as a newer
    release may have added them without changing the format's version.

    Args:
        path: The JSON file, UTF-8.

    Returns:
        The report. Where a number is null (it was no finite one) it is NaN; paths of `config` are text.

    Raises:
        ReportError: The file can't be read, isn't JSON or no report of this version, or a field is missing or of
            another type than the report's; the message names it.
    """
    values = _load_json(path)
    if not isinstance(values, dict):
        raise ReportError(f"{quote(path)} holds {_name_kind(values)}; expected {_REPORT}.")
    version = values.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int):
        raise ReportError(f"{quote(path)} has no format_version; expected {_REPORT}.")
    if version != FORMAT_VERSION:
        raise ReportError(
            f"{quote(path)} has format_version {version}; expected {FORMAT_VERSION}: read it with the release of "
            "basisprune that wrote it, or write it again."
        )
    command = next((name for key, name in _OTHER_KINDS.items() if key in values), None)
    if command is not None and "compressed" not in values:
        raise ReportError(f"{quote(path)} is the JSON of `basisprune {command}`; expected {_REPORT}.")
    try:
        report = _convert(values, CompressionReport, "")
    except _Mismatch as error:
        raise ReportError(f"{quote(path)}: {error}; expected {_REPORT}.") from None
    assert isinstance(report, CompressionReport)  # noqa: S101  # for mypy: it is what was asked for
    return report


_REPORT = "the report of `basisprune compress --report`"


class _Mismatch(Exception):  # noqa: N818  # becomes a ReportError that names the file
    """A value isn't what its field holds."""


def _load_json(path: Path) -> Any:
    """Return a file's JSON; strict, so that NaN and infinities are refused."""
    try:
        return json.loads(read_document(path), parse_constant=_refuse_constant)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ReportError(f"{quote(path)} can't be read ({reason}): check the path.") from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{quote(path)} isn't valid JSON ({quote(error)}): write the report again.") from error


def _refuse_constant(name: str) -> NoReturn:
    """Refuse what JSON doesn't know."""
    raise ValueError(f"{name} is no JSON number")


def _convert(value: Any, kind: Any, where: str) -> Any:
    """Return a JSON value as the type that its field is declared with.

    Args:
        value: As `json` reads it.
        kind: A dataclass, `bool`, `int`, `float`, `str`, `Any`, a tuple, dict or optional of these.
        where: Keys down to the value, for errors.

    Raises:
        _Mismatch: It is of another type.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        inner = next(option for option in arguments if option is not type(None))
        return None if value is None else _convert(value, inner, where)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _convert_fields(_check(value, dict, where), kind, where)
    if origin is dict:
        items = _check(value, dict, where).items()
        return {key: _convert(item, arguments[1], f"{where}.{key}") for key, item in items}
    if origin is tuple:
        return _convert_items(_check(value, list, where), arguments, where)
    return _convert_scalar(value, kind, where)


def _convert_fields(values: Mapping[str, Any], kind: Any, where: str) -> Any:
    """Return a dataclass of a JSON object."""
    found = {}
    for name, (hint, is_required) in _list_fields(kind).items():
        place = f"{where}.{name}" if where else name
        if name in values:
            found[name] = _convert(values[name], hint, place)
        elif is_required:
            raise _Mismatch(f"{quote(place)} is missing")
    return kind(**found)


@cache
def _list_fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Return a dataclass's fields: the type of each, and whether it must be given."""
    hints = get_type_hints(kind)
    return {
        field.name: (
            hints[field.name],
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(kind)
    }


def _convert_items(values: list[Any], arguments: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    """Return a tuple of a JSON array: as long as it comes, or with one type for each place."""
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(values)
    if len(values) != len(arguments):
        raise _Mismatch(f"{quote(where)} has {len(values)} items, not {len(arguments)}")
    return tuple(
        _convert(item, kind, f"{where}[{index}]")
        for index, (item, kind) in enumerate(zip(values, arguments, strict=True))
    )


def _convert_scalar(value: Any, kind: type, where: str) -> Any:
    """Return a number, text or truth value; null stands for a number that isn't finite."""
    if kind is float:
        if value is None:
            return math.nan
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    elif kind is int:
        # All whole numbers of a report are counts; bool is an int in Python.
        fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _BEYOND
    else:
        fits = isinstance(value, kind)
    if not fits:
        raise _Mismatch(f"{quote(where)} is {_name_kind(value)}, not {_EXPECTED[kind]}")
    try:
        return kind(value)
    except OverflowError:
        raise _Mismatch(f"{quote(where)} is a number too large") from None


def _check(value: Any, kind: type, where: str) -> Any:
    """Return the value if it is a JSON array or object, as asked."""
    if not isinstance(value, kind):
        raise _Mismatch(f"{quote(where)} is {_name_kind(value)}, not {'an object' if kind is dict else 'an array'}")
    return value


def _name_kind(value: Any) -> str:
    """Return a JSON value in words: scalars as they are, the others by their kind."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    return quote(json.dumps(value))
