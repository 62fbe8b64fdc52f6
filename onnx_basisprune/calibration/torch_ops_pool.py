"""ONNX's pooling operators. Conventions as in `torch_ops_math`, padding arithmetic from `torch_ops_conv`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from onnx_basisprune.calibration.torch_ops_conv import pad_spatial, resolve_pads

Tensor = torch.Tensor
Ints = Sequence[int]

_MAX_POOL: dict[int, Callable[..., Any]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
_AVERAGE_POOL: dict[int, Callable[..., Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}
_CONV: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


@dataclass(frozen=True)
class _Window:
    """A pooling window on one input: everything per spatial axis, `spill` is added by ceil mode."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    spill: tuple[int, ...]

    @property
    def is_torch_native(self) -> bool:
        """Whether torch's own pooling takes these pads: equal ones, at most half the kernel."""
        return self.begins == self.ends and all(
            0 <= 2 * begin <= width for begin, width in zip(self.begins, self.kernel, strict=True)
        )


def _resolve_window(
    x: Tensor,
    kernel: Ints,
    strides: Ints | None,
    dilations: Ints | None,
    pads: Ints | None,
    auto_pad: str,
    ceil_mode: int,
) -> _Window:
    rank = len(kernel)
    if rank not in _CONV or x.dim() != rank + 2:
        raise ValueError(f"kernel of {rank} axes on an input of {x.dim()}; expected 1 to 3 spatial axes")
    step, spread = tuple(strides or (1,) * rank), tuple(dilations or (1,) * rank)
    begins, ends = resolve_pads(x.shape[2:], kernel, step, spread, pads, auto_pad)
    spill = [0] * rank
    if ceil_mode and auto_pad == "NOTSET":
        for axis in range(rank):
            size = x.shape[2 + axis]
            reach = size + begins[axis] + ends[axis] - (kernel[axis] - 1) * spread[axis] - 1
            last = -(-reach // step[axis])
            if last * step[axis] >= size + begins[axis]:  # a window mustn't start in the end padding
                last -= 1
            spill[axis] = max(last * step[axis] - reach, 0)
    return _Window(tuple(kernel), step, spread, begins, ends, tuple(spill))


def _sum_window(x: Tensor, window: _Window) -> Tensor:
    """Sum over a window of an already padded input, by a convolution with ones per channel."""
    rank = len(window.kernel)
    planes = x.reshape(-1, 1, *x.shape[2:])
    ones = torch.ones(1, 1, *window.kernel, dtype=x.dtype, device=x.device)
    with torch.autocast(x.device.type, enabled=False):
        sums = _CONV[rank](planes, ones, None, window.strides, 0, window.dilations)
    return sums.reshape(*x.shape[:2], *sums.shape[2:])


def _extend(ends: Ints, spill: Ints) -> tuple[int, ...]:
    return tuple(end + more for end, more in zip(ends, spill, strict=True))


def pool_average(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Ints | None = None,
    kernel_shape: Ints,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """AveragePool: what ceil mode adds beyond the padding is never counted."""
    window = _resolve_window(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    if window.is_torch_native and not any(window.spill) and max(window.dilations) == 1:
        pool = _AVERAGE_POOL[len(window.kernel)]
        return pool(x, window.kernel, window.strides, window.begins, False, bool(count_include_pad))
    ends = _extend(window.ends, window.spill)
    sums = _sum_window(pad_spatial(x, window.begins, ends), window)
    plane = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype, device=x.device)
    if count_include_pad:
        plane = pad_spatial(plane, window.begins, window.ends, 1.0)
        plane = pad_spatial(plane, [0] * len(ends), window.spill)
    else:
        plane = pad_spatial(plane, window.begins, ends)
    return sums / _sum_window(plane, window)


def pool_lp(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    kernel_shape: Ints,
    p: int = 2,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """LpPool."""
    window = _resolve_window(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    padded = pad_spatial(x.abs() ** p, window.begins, _extend(window.ends, window.spill))
    return _sum_window(padded, window) ** (1.0 / p)


def _flatten_indices(local: Tensor, x: Tensor, padded: Tensor, begins: Ints, storage_order: int) -> Tensor:
    """Turn torch's indices in one padded plane into ONNX's indices in the whole unpadded tensor."""
    rest = local
    coordinates: list[Tensor] = []
    for size, begin in zip(reversed(padded.shape[2:]), reversed(begins), strict=True):
        coordinates.append(rest % size - begin)
        rest = torch.div(rest, size, rounding_mode="floor")
    sizes = list(reversed(x.shape[2:]))
    if storage_order:
        coordinates, sizes = coordinates[::-1], sizes[::-1]
    flat = torch.zeros_like(local)
    for coordinate, size in zip(reversed(coordinates), reversed(sizes), strict=True):
        flat = flat * size + coordinate
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device) * math.prod(x.shape[2:])
    return flat + planes.reshape(x.shape[0], x.shape[1], *(1,) * len(begins))


def pool_max(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    kernel_shape: Ints,
    pads: Ints | None = None,
    storage_order: int = 0,
    strides: Ints | None = None,
    output_count: int,
) -> Tensor | tuple[Tensor, Tensor]:
    """MaxPool, with the flat indices of the maxima as second output where the node names one."""
    window = _resolve_window(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    pool = _MAX_POOL[len(window.kernel)]
    values = x if x.is_floating_point() else x.double()
    if output_count == 1 and window.is_torch_native and not any(window.spill):
        return pool(values, window.kernel, window.strides, window.begins, window.dilations).to(x.dtype)  # type: ignore[no-any-return]
    padded = pad_spatial(values, window.begins, _extend(window.ends, window.spill), -math.inf)
    if output_count == 1:
        return pool(padded, window.kernel, window.strides, 0, window.dilations).to(x.dtype)  # type: ignore[no-any-return]
    best, local = pool(padded, window.kernel, window.strides, 0, window.dilations, return_indices=True)
    return best.to(x.dtype), _flatten_indices(local, x, padded, window.begins, storage_order)


def pool_average_globally(x: Tensor) -> Tensor:
    """GlobalAveragePool over all spatial axes, kept as size 1."""
    return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)


def pool_max_globally(x: Tensor) -> Tensor:
    """GlobalMaxPool; the gradient goes to one maximum, as in pooling, where `amax` would share it."""
    return x.flatten(2).max(dim=-1).values.reshape(*x.shape[:2], *(1,) * (x.dim() - 2))


def pool_lp_globally(x: Tensor, *, p: int = 2) -> Tensor:
    """GlobalLpPool."""
    return (x.abs() ** p).sum(dim=tuple(range(2, x.dim())), keepdim=True) ** (1.0 / p)


POOL_OPS: dict[str, Callable[..., Any]] = {
    "AveragePool": pool_average,
    "GlobalAveragePool": pool_average_globally,
    "GlobalLpPool": pool_lp_globally,
    "GlobalMaxPool": pool_max_globally,
    "LpPool": pool_lp,
    "MaxPool": pool_max,
}
