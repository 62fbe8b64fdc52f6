"""Read what a Slice takes and what a Pad adds: in attributes or inputs, for all axes or some, by opset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.graph.channel_tracer import CONTRADICTION, UntraceableError

# A node's inputs from the second on, `None` where one is omitted.
Settings = Sequence[NDArray[Any] | Sequence[int] | None]


def read_slices(attributes: Mapping[str, Any], settings: Settings, rank: int) -> dict[int, slice]:
    """Return what a Slice takes, by axis, in the order in which the node states it.

    Args:
        attributes: They say it up to opset 9.
        settings: Starts, ends, axes and steps, `[n]` integers each; they say it from opset 10 on.
        rank: Of the input.

    Raises:
        UntraceableError: They aren't integers, not equally many, or name axes that the input hasn't.
    """
    if "starts" in attributes:
        settings = [attributes["starts"], attributes.get("ends"), attributes.get("axes")]
    starts, ends, axes, steps = [*settings, None, None, None][:4]
    first, last = _list_integers(starts), _list_integers(ends)
    named = range(len(first)) if axes is None else _list_integers(axes)
    strides = [1] * len(first) if steps is None else _list_integers(steps)
    if not len(first) == len(last) == len(named) == len(strides) or 0 in strides or not _are_axes(named, rank):
        raise UntraceableError(CONTRADICTION)
    return {axis % rank: slice(*part) for axis, *part in zip(named, first, last, strides, strict=True)}


def read_pads(attributes: Mapping[str, Any], settings: Settings, rank: int) -> dict[int, tuple[int, int]]:
    """Return what a Pad adds before and after each axis that it names, in the order in which the node states it.

    Args:
        attributes: They say it up to opset 10.
        settings: Pads, fill value and axes, integers `[2n]` and `[n]`; they say it from opset 11 on.
        rank: Of the input.

    Raises:
        UntraceableError: As `read_slices`.
    """
    pads, _, axes = [*settings, None, None, None][:3]
    values = _list_integers(attributes.get("pads") if pads is None else pads)
    named = range(rank) if axes is None else _list_integers(axes)
    count = len(named)
    if len(values) != 2 * count or not _are_axes(named, rank):
        raise UntraceableError(CONTRADICTION)
    return {axis % rank: (values[at], values[at + count]) for at, axis in enumerate(named)}


def _list_integers(values: Any) -> list[int]:
    """Return a vector of integers as a list.

    Raises:
        UntraceableError: It isn't one.
    """
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise UntraceableError(CONTRADICTION)
    return [int(value) for value in array]


def _are_axes(axes: Iterable[int], rank: int) -> bool:
    """Return whether a tensor of this rank has all of these axes."""
    return all(-rank <= axis < rank for axis in axes)
