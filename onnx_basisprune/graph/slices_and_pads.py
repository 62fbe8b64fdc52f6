"""Read what a Slice takes and what a Pad adds: in attributes or inputs, for all axes or some, by opset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

# A node's inputs from the second on, `None` where one is omitted.
Settings = Sequence[NDArray[Any] | None]


def read_slices(attributes: Mapping[str, Any], settings: Settings, rank: int) -> dict[int, slice]:
    """Return what a Slice takes, by axis, in the order in which the node states it.

    Args:
        attributes: They say it up to opset 9.
        settings: Starts, ends, axes and steps, `[n]` integers each; they say it from opset 10 on.
        rank: Of the input.
    """
    if "starts" in attributes:
        starts, ends, axes, steps = attributes["starts"], attributes["ends"], attributes.get("axes"), None
    else:
        starts, ends, axes, steps = (None if item is None else item.tolist() for item in [*settings, None, None][:4])
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    return {axis % rank: slice(*part) for axis, *part in zip(axes, starts, ends, steps, strict=True)}


def read_pads(attributes: Mapping[str, Any], settings: Settings, rank: int) -> dict[int, tuple[int, int]]:
    """Return what a Pad adds before and after each axis that it names, in the order in which the node states it.

    Args:
        attributes: They say it up to opset 10.
        settings: Pads, fill value and axes, integers `[2n]` and `[n]`; they say it from opset 11 on.
        rank: Of the input.
    """
    pads, _, axes = [*settings, None, None, None][:3]
    values = attributes["pads"] if pads is None else pads.tolist()
    count = len(values) // 2
    named = range(rank) if axes is None else axes.tolist()
    return {axis % rank: (int(values[at]), int(values[at + count])) for at, axis in enumerate(named)}
