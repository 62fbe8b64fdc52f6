"""Made-up images to time a model with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.errors import ConfigError, ModelError, quote
from onnx_basisprune.planning.types import TensorSpec

# In elements, 4 GiB in float32.
_LARGEST_IMAGE = 2**30


def draw_input(
    inputs: Sequence[TensorSpec], batch_size: int | None, image_shape: Sequence[int] | None, seed: int
) -> dict[str, NDArray[Any]]:
    """Draw a random batch for a model with one input.

    Args:
        inputs: The model's inputs.
        batch_size: Images in the batch; `None` for the model's own, or 1 where it is dynamic.
        image_shape: One image's shape without the batch; needed where the model leaves dimensions open.
        seed: The same seed, type and shape give the same values.

    Returns:
        The input's name with `[batch_size, *image_shape]`: standard normal values, or 0..255 for whole
        numbers.

    Raises:
        ConfigError: The batch size or image shape doesn't fit the model, or a dimension is left open.
        ModelError: The model doesn't have one numeric input.
    """
    if len(inputs) != 1:
        names = ", ".join(quote(spec.name) for spec in inputs)
        raise ModelError(
            f"The model has {len(inputs)} inputs ({names}); expected the images only; give each of the others a "
            "value by --feed NAME=VALUE."
        )
    spec = inputs[0]
    shape = _resolve_shape(spec, batch_size, image_shape)
    if prod(shape[1:]) > _LARGEST_IMAGE:
        raise ConfigError(
            f"Input {quote(spec.name)} would have the shape {quote(list(shape))}; expected at most {_LARGEST_IMAGE:,} "
            "elements for one image: give a smaller shape."
        )
    rng = np.random.default_rng(seed)
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind == "f":
        return {spec.name: rng.standard_normal(shape, dtype=np.float32).astype(dtype)}
    if dtype.kind in "iu":
        values = rng.integers(0, min(int(np.iinfo(dtype).max), 255) + 1, size=shape)
        return {spec.name: values.astype(dtype)}
    raise ModelError(
        f"Input {quote(spec.name)} is {quote(spec.dtype)}; expected floating-point or whole numbers, as images are."
    )


def _resolve_shape(spec: TensorSpec, batch_size: int | None, image_shape: Sequence[int] | None) -> tuple[int, ...]:
    """Return the input's shape with every open dimension filled in."""
    name, wanted = quote(spec.name), None if image_shape is None else tuple(image_shape)
    declared = spec.shape
    if declared is None:
        if wanted is None:
            raise ConfigError(f"Input {name} doesn't state its shape; give the shape of one image.")
        declared = (None,) * (1 + len(wanted))
    if wanted is not None and len(wanted) == len(declared) and declared[0]:  # no batch axis: one image at a time
        batch_size, declared = batch_size or 1, (1, *declared)
        return _resolve_shape(replace(spec, shape=declared), batch_size, wanted)[1:]
    if batch_size is not None and declared[0] not in (None, batch_size):
        raise ConfigError(
            f"Input {name} has a fixed batch of {declared[0]}, but the batch size asked for is {batch_size}; "
            f"use {declared[0]}, or export the model with a dynamic batch."
        )
    if wanted is None:
        wanted = tuple(size or 0 for size in declared[1:])
    fits = len(wanted) == len(declared) - 1 and all(
        size > 0 and fixed in (None, size) for size, fixed in zip(wanted, declared[1:], strict=True)
    )
    if not fits:
        found = "none" if image_shape is None else list(wanted)
        text = ", ".join("?" if size is None else str(size) for size in declared[1:])
        raise ConfigError(
            f"Input {name} takes images of shape [{text}], but the shape asked for is {found}; give the "
            "shape of one image, where ? is any size."
        )
    return (batch_size or declared[0] or 1, *wanted)
