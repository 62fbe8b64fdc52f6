"""What a caller in Python gives for options, held to the types that the configs state.

The command line and the config file hand over values of the right types; Python lets everything through.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from onnx_basisprune.errors import ConfigError

_TEXTS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text",
    Path: "a path",
    NoneType: "None",
}


def check_types(kind: type, values: Mapping[str, Any]) -> None:
    """Refuse values that aren't of the type of their option.

    Args:
        kind: A config.
        values: By field; names that aren't fields are left to the config.

    Raises:
        ConfigError: A value is of another type, or none of its option's choices.
    """
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name in hints and not _fits(value, hints[name]):
            raise ConfigError(f"--{name.replace('_', '-')} is {value!r}; expected {_describe(hints[name])}.")


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of a type; paths may be text, too."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin is tuple:
        return isinstance(value, (tuple, list)) and all(_fits(item, parts[0]) for item in value)
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    return isinstance(value, (str, PathLike) if hint is Path else hint)


def _describe(hint: Any) -> str:
    """Return a type in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(_describe, parts))
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}" if len(parts) > 1 else repr(parts[0])
    if origin is tuple:
        return f"a list, each {_describe(parts[0])}"
    return _TEXTS.get(hint, str(hint))
