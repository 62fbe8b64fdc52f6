"""Inputs beside the images: each run is fed the value that the user gives them by `--feed NAME=VALUE`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.errors import ConfigError, quote
from onnx_basisprune.planning.types import FedInput, TensorSpec

_WORDS = {"true": 1, "false": 0}
# In elements; many times what a mask of a large image has.
_LARGEST_VALUE = 2**26


def resolve_feeds(texts: Collection[str], inputs: Sequence[TensorSpec]) -> tuple[FedInput, ...]:
    """Return what some of a model's inputs are fed.

    A value is a number, `true` or `false`, which fills the input, or as many numbers as it has elements, separated by
    commas; where the first dimension is the batch, those of one image are enough.

    Args:
        texts: `NAME=VALUE` each.
        inputs: The model's inputs without a default.

    Raises:
        ConfigError: There is no such input, or the value doesn't fit its type or shape.
    """
    specs, fed = {spec.name: spec for spec in inputs}, dict[str, FedInput]()
    for text in texts:
        name, sign, value = text.rpartition("=")
        if not sign or not name:
            raise ConfigError(f"--feed {quote(text)}; expected NAME=VALUE, such as temperature=1.")
        if name not in specs:
            known = ", ".join(quote(spec) for spec in specs) or "none"
            raise ConfigError(f"--feed {quote(text)}: the model has no input of this name without a default: {known}.")
        if name in fed:
            raise ConfigError(f"--feed gives {quote(name)} twice; expected one value.")
        fed[name] = _read_value(specs[name], value)
    return tuple(fed.values())


def list_free(inputs: Sequence[TensorSpec], fed: Sequence[FedInput]) -> tuple[TensorSpec, ...]:
    """Return the inputs that aren't fed a value of their own."""
    names = {item.name for item in fed}
    return tuple(spec for spec in inputs if spec.name not in names)


def _read_value(spec: TensorSpec, text: str) -> FedInput:
    """Return what an input is fed."""
    option = f"--feed {quote(f'{spec.name}={text}')}"
    shape = spec.shape or ()
    is_per_image = bool(shape) and shape[0] is None
    sizes = [size or 0 for size in (shape[1:] if is_per_image else shape)]
    if 0 in sizes or prod(sizes) > _LARGEST_VALUE:
        shown = ", ".join("?" if size is None else str(size) for size in shape)
        raise ConfigError(
            f"{option}: the input has the shape [{shown}]; expected fixed sizes (but for the batch) and at most "
            f"{_LARGEST_VALUE:,} elements: export the model with fixed sizes."
        )
    numbers = _read_numbers(text, spec, option)
    if len(numbers) == 1:
        value = np.broadcast_to(numbers.reshape(()), sizes)
    elif len(numbers) in (prod(sizes), prod(sizes[1:])):
        value = np.broadcast_to(numbers.reshape(sizes if len(numbers) == prod(sizes) else sizes[1:]), sizes)
    else:
        raise ConfigError(f"{option}: {len(numbers)} numbers; expected 1, or {prod(sizes)} for the shape {sizes}.")
    return FedInput(spec.name, np.ascontiguousarray(value).reshape(sizes), is_per_image)


def _read_numbers(text: str, spec: TensorSpec, option: str) -> NDArray[Any]:
    """Return the numbers of a value, `[n]`, in the input's type."""
    try:
        dtype = np.dtype(spec.dtype)
    except (TypeError, ValueError):  # such as of "seq(tensor(float))"; of a map, numpy reads the comma
        dtype = np.dtype(object)
    if dtype.kind not in "fiub":
        raise ConfigError(f"{option}: the input is {quote(spec.dtype)}; expected one that takes numbers.")
    words = [word.strip().lower() for word in text.split(",")]
    try:
        numbers = [_WORDS.get(word) if word in _WORDS else _parse_number(word) for word in words]
        values = np.array(numbers)
        result = values.astype(dtype)
    except (ValueError, OverflowError, TypeError) as error:
        raise ConfigError(f"{option}; expected numbers, true or false, separated by commas.") from error
    if dtype.kind in "iub" and not np.array_equal(result, values):
        raise ConfigError(f"{option}: the input is {dtype}, which doesn't hold this value.")
    return result


def _parse_number(word: str) -> float:
    """Return a number, a whole one as `int`."""
    try:
        return int(word)
    except ValueError:
        return float(word)
