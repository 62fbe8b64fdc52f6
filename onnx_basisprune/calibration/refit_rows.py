"""What a layer is fitted on: rows of its inputs, at all taps of its window, and of what the original has there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onnx_basisprune.calibration.stepper import Stepper
from onnx_basisprune.calibration.torch_ops_conv import pad_spatial, resolve_pads
from onnx_basisprune.planning.refit import MapMoments, RefitLayer

# Of the chunks, every fourth is held back: at least one is fitted and one held back.
_HELD_BACK_EVERY = 4
# Multiply-adds for one layer's moments, and elements of one chunk's rows, at most; but this many rows for each input.
# Beyond that some positions of a map stand for all: neighbours tell nearly the same.
_MOST_PRODUCTS, _MOST_ELEMENTS, _FEWEST_ROWS = 5e10, 1 << 26, 16


def collect_moments(layer: RefitLayer, original: Stepper, compressed: Stepper) -> tuple[MapMoments, MapMoments]:
    """Return the moments of a layer's map: of the chunks that are fitted, and of those that are held back.

    Args:
        layer: The layer, before which the compressed graph stands.
        original: The original graph, behind the layer's target.
        compressed: The compressed graph.
    """
    fitted, held_back = _PairSums(layer.groups), _PairSums(layer.groups)
    for index, (z, y) in enumerate(_list_rows(layer, original, compressed)):
        sums = held_back if index % _HELD_BACK_EVERY == 1 else fitted
        sums.add(z, y)
    return fitted.moments, held_back.moments


def _list_rows(
    layer: RefitLayer, original: Stepper, compressed: Stepper
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield `z [m, q]` and `y [m, C]` of each chunk."""
    names = [name for name in (layer.source, layer.skip) if name]
    ours = compressed.peek(max(map(compressed.find_producer, names)) + 1, names)
    kept, generator = torch.from_numpy(layer.kept), np.random.default_rng(0)
    for mine, theirs in zip(ours, original.peek(0, [layer.target]), strict=True):
        y = theirs[layer.target].index_select(layer.axis, kept)
        if layer.rows is not None:
            y = y.index_select(layer.rows[0], torch.from_numpy(layer.rows[1]))
        if layer.skip:
            y = y - mine[layer.skip]
        y = y.movedim(layer.axis, 1)
        z = mine[layer.source]
        windows = z.movedim(layer.axis, 1) if layer.window is None else list_windows(z, *layer.window)
        places = _choose_places(layer, y.shape, windows.shape, compressed.count_chunks(), generator)
        yield _to_rows(windows, y.ndim - 2, places), _to_rows(y, y.ndim - 2, places)


def list_windows(x: torch.Tensor, kernel: Sequence[int], attributes: Mapping[str, Any]) -> torch.Tensor:
    """Return what a Conv's kernel sees at each position: `[n, C, *positions, *kernel]`, a view of the padded input.

    Args:
        x: `[n, C, *spatial]`.
        kernel: Its sizes.
        attributes: The Conv's, by ONNX name.
    """
    ones = [1] * len(kernel)
    strides, dilations = attributes.get("strides") or ones, attributes.get("dilations") or ones
    pads, auto_pad = attributes.get("pads"), attributes.get("auto_pad", "NOTSET")
    x = pad_spatial(x, *resolve_pads(x.shape[2:], kernel, strides, dilations, pads, auto_pad))
    for axis, (size, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True), start=2):
        x = x.unfold(axis, (size - 1) * dilation + 1, stride)[..., ::dilation]
    return x


def _choose_places(
    layer: RefitLayer, outputs: Sequence[int], windows: Sequence[int], chunks: int, generator: np.random.Generator
) -> NDArray[np.int64] | None:
    """Return which positions of each map stand for all, `None` for all of them."""
    if layer.form != "weight":
        return None
    positions, spatial = int(np.prod(outputs[2:])), len(outputs) - 2
    inputs = windows[1] * int(np.prod(windows[2 + spatial :]))
    rows = max(_MOST_PRODUCTS * layer.groups / inputs**2, _FEWEST_ROWS * inputs / layer.groups) / chunks
    count = max(1, int(min(rows, _MOST_ELEMENTS / inputs) / outputs[0]))
    return np.sort(generator.choice(positions, count, replace=False)) if count < positions else None


def _to_rows(tensor: torch.Tensor, spatial: int, places: NDArray[np.int64] | None) -> torch.Tensor:
    """Return `[n, C, *positions, *taps]` as a row per image and position: the channels, each with its taps."""
    width = tensor.shape[1] * int(np.prod(tensor.shape[2 + spatial :]))
    if places is not None:
        index = map(torch.from_numpy, np.unravel_index(places, tensor.shape[2 : 2 + spatial]))
        chosen: tuple[Any, ...] = (slice(None), slice(None), *index)
        tensor, spatial = tensor[chosen], 1
    return tensor.movedim(1, 1 + spatial).reshape(-1, width)


class _PairSums:
    """Sums of the products of two kinds of rows, in float64, from float32 products on shifted rows.

    Attributes:
        moments: The sums of all rows so far, unshifted; set by the first rows.
    """

    moments: MapMoments

    def __init__(self, groups: int) -> None:
        self._groups = groups
        self._shifts: tuple[torch.Tensor, torch.Tensor] | None = None

    def add(self, z: torch.Tensor, y: torch.Tensor) -> None:
        """Add rows `z [m, g·q]` and `y [m, g·C]`."""
        z, y = (item.view(len(item), self._groups, -1) for item in (z, y))
        shifts = self._shifts or (z.mean(dim=0), y.mean(dim=0))
        z, y = z - shifts[0], y - shifts[1]
        products = (torch.einsum("mgi,mgj->gij", item, z) for item in (z, y))
        total_z, total_y, zz, yz = (item.double().numpy() for item in (z.sum(0), y.sum(0), *products))
        added = MapMoments(total_z, total_y, zz, yz, len(z)).shift(*(shift.double().numpy() for shift in shifts))
        self.moments = added if self._shifts is None else self.moments + added
        self._shifts = shifts
