"""ONNX's Resize, Upsample, GridSample and AffineGrid. Conventions as in `torch_ops_math`.

Resize is separable: along each axis every output position is a weighted sum of a few input positions. The
positions and weights come from numpy once per geometry, the sums are gathers in torch, so gradients come by
themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Tensor = torch.Tensor
Ints = Sequence[int]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class _Sampling:
    """How output positions read the input: Resize's attributes that are the same for all axes."""

    mode: str
    coordinates: str
    nearest: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False


def _locate(size: int, length: int, scale: float, region: tuple[float, float] | None, coordinates: str) -> Doubles:
    """Return the fractional input position that each of `length` output positions reads."""
    out = np.arange(length, dtype=np.float64)
    # The length that the scale asks for before it is rounded down: the transforms are written in it.
    resized = scale * size
    if coordinates == "align_corners":
        return out * (size - 1) / (resized - 1) if length > 1 else np.zeros(length)
    if coordinates == "asymmetric":
        return out / scale
    if coordinates == "tf_half_pixel_for_nn":
        return (out + 0.5) / scale
    if coordinates == "pytorch_half_pixel":
        return (out + 0.5) / scale - 0.5 if length > 1 else np.zeros(length)
    if coordinates == "half_pixel_symmetric":
        centre = size / 2 * (1 - length / resized)
        return centre + (out + 0.5) / scale - 0.5
    if coordinates == "tf_crop_and_resize":
        start, end = region or (0.0, 1.0)
        if length == 1:
            return np.full(1, 0.5 * (start + end) * (size - 1))
        return start * (size - 1) + out * (end - start) * (size - 1) / (length - 1)
    if coordinates == "half_pixel":
        return (out + 0.5) / scale - 0.5
    raise ValueError(f"coordinate_transformation_mode {coordinates!r} isn't known")


def _round_position(position: Doubles, nearest: str, scale: float) -> Doubles:
    if nearest == "simple":  # opset 10: what onnxruntime does there
        rounded = np.ceil(position) if scale < 1 else np.floor(position)
    elif nearest == "floor":
        rounded = np.floor(position)
    elif nearest == "ceil":
        rounded = np.ceil(position)
    elif nearest == "round_prefer_ceil":
        rounded = np.floor(position + 0.5)
    else:
        rounded = np.ceil(position - 0.5)
    return rounded


def _weigh(distance: Doubles, sampling: _Sampling) -> Doubles:
    """The kernel at a distance from its centre: a triangle, or Keys' cubic."""
    d = np.abs(distance)
    if sampling.mode == "linear":
        triangle: Doubles = np.maximum(1 - d, 0.0)
        return triangle
    a = sampling.cubic
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


@lru_cache(maxsize=256)
def _find_taps(
    size: int, length: int, scale: float, region: tuple[float, float] | None, sampling: _Sampling
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Work out one axis: which input positions each output position reads, with which weights.

    Returns:
        Positions `[taps, length]` (int64), weights `[taps, length]` (float32), and for `tf_crop_and_resize` a
        mask `[length]` of the output positions outside of the input.
    """
    position = _locate(size, length, scale, region, sampling.coordinates)
    outside = None
    if sampling.coordinates == "tf_crop_and_resize":
        outside = torch.from_numpy((position < 0) | (position > size - 1))
    if sampling.mode == "nearest":
        taps = _round_position(position, sampling.nearest, scale)[None]
        weights = np.ones_like(taps)
    else:
        stretch = max(1.0, 1.0 / scale) if sampling.antialias else 1.0
        reach = math.ceil((1 if sampling.mode == "linear" else 2) * stretch)
        taps = np.floor(position)[None] + np.arange(1 - reach, reach + 1)[:, None]
        weights = _weigh((taps - position) / stretch, sampling)
        if sampling.exclude_outside:
            weights = np.where((taps < 0) | (taps > size - 1), 0.0, weights)
        weights = weights / weights.sum(axis=0)
    clipped = np.clip(taps, 0, size - 1).astype(np.int64)
    return torch.from_numpy(clipped), torch.from_numpy(weights.astype(np.float32)), outside


def _resample_axis(x: Tensor, axis: int, taps: tuple[Tensor, Tensor, Tensor | None], extrapolation: float) -> Tensor:
    positions, weights, outside = taps
    shape = (-1, *(1,) * (x.dim() - axis - 1))
    if len(positions) == 1:
        y = x.index_select(axis, positions[0].to(x.device))
    else:
        total = sum(
            x.index_select(axis, position.to(x.device)) * weight.to(x.device).reshape(shape)
            for position, weight in zip(positions, weights, strict=True)
            if bool(weight.any())
        )
        y = torch.as_tensor(total)
    if outside is not None and bool(outside.any()):
        y = torch.where(outside.to(x.device).reshape(shape), torch.full_like(y, extrapolation), y)
    return y


def _resolve_target(
    x: Tensor, chosen: Ints, scales: Sequence[float] | None, sizes: Ints | None, policy: str
) -> tuple[list[int], list[float]]:
    """Return output lengths and scales of the chosen axes."""
    inputs = [x.shape[axis] for axis in chosen]
    if scales is not None:
        return [math.floor(scale * size) for scale, size in zip(scales, inputs, strict=True)], list(scales)
    if sizes is None:
        raise ValueError("neither scales nor sizes are given")
    ratios = [length / size for length, size in zip(sizes, inputs, strict=True)]
    if policy == "stretch":
        return list(sizes), ratios
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    # Half up, as the spec's round_int says; Python would round half to even.
    return [math.floor(ratio * size + 0.5) for size in inputs], [ratio] * len(inputs)


def _read_list(values: Tensor | None) -> list[Any] | None:
    return None if values is None or values.numel() == 0 else values.tolist()


def resize(
    x: Tensor,
    second: Tensor | None = None,
    third: Tensor | None = None,
    sizes_input: Tensor | None = None,
    *,
    antialias: int = 0,
    axes: Ints | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
    opset: int,
) -> Tensor:
    """Resize: inputs are X and scales in opset 10; X, roi, scales and sizes from 11 on."""
    if opset < 11:
        roi, scales_input = None, second
        sampling = _Sampling(mode, "asymmetric", "simple")
    else:
        roi, scales_input = _read_list(second), third
        sampling = _Sampling(
            mode,
            coordinate_transformation_mode,
            nearest_mode,
            cubic_coeff_a,
            bool(exclude_outside),
            bool(antialias),
        )
    chosen = [axis % x.dim() for axis in axes] if axes is not None else list(range(x.dim()))
    lengths, scales = _resolve_target(
        x, chosen, _read_list(scales_input), _read_list(sizes_input), keep_aspect_ratio_policy
    )
    crops = sampling.coordinates == "tf_crop_and_resize" and roi is not None
    y = x if x.is_floating_point() else x.double()
    for index, (axis, length, scale) in enumerate(zip(chosen, lengths, scales, strict=True)):
        region = (roi[index], roi[index + len(chosen)]) if crops and roi is not None else None
        if length == x.shape[axis] and scale == 1.0 and region in (None, (0.0, 1.0)):
            continue
        taps = _find_taps(x.shape[axis], length, scale, region, sampling)
        y = _resample_axis(y, axis, taps, extrapolation_value)
    return y.to(x.dtype)


def upsample(
    x: Tensor,
    scales_input: Tensor | None = None,
    *,
    mode: str = "nearest",
    scales: Sequence[float] | None = None,
) -> Tensor:
    """Upsample, up to opset 9: scales are an attribute in 7 and 8, an input in 9."""
    factors = scales_input if scales_input is not None else torch.tensor(scales)
    return resize(x, factors, mode=mode, opset=10)


def sample_grid(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Tensor:
    """GridSample; opset 16 to 19 say `bilinear` and `bicubic` for what is `linear` and `cubic` from 20 on."""
    torch_mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return functional.grid_sample(x, grid, torch_mode, padding_mode, bool(align_corners))


def make_affine_grid(theta: Tensor, size: Tensor, *, align_corners: int = 0) -> Tensor:
    """AffineGrid."""
    return functional.affine_grid(theta, size.tolist(), bool(align_corners))


RESIZE_OPS: dict[str, Callable[..., Any]] = {
    "AffineGrid": make_affine_grid,
    "GridSample": sample_grid,
    "Resize": resize,
    "Upsample": upsample,
}
