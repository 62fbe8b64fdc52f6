"""ONNX's reductions, sorting and cumulative operators. Conventions as in `torch_ops_math`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

Tensor = torch.Tensor
Axes = tuple[int, ...]


def _sum(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return x.sum(dim=axes, keepdim=keep, dtype=x.dtype)


def _average(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(dim=axes, keepdim=keep)
    count = math.prod(x.shape[axis] for axis in axes)
    return torch.div(_sum(x, axes, keep), count, rounding_mode="trunc")


def _multiply(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    for axis in axes:
        x = x.prod(dim=axis, keepdim=True, dtype=x.dtype)
    return x if keep else x.squeeze(axes)


def _find_extreme(x: Tensor, axes: Axes, keep: bool, *, largest: bool) -> Tensor:
    if x.numel() == 0:
        shape = [1 if axis in axes else size for axis, size in enumerate(x.shape) if keep or axis not in axes]
        if x.is_floating_point():
            empty = -math.inf if largest else math.inf
        elif x.dtype is torch.bool:
            empty = not largest
        else:
            empty = torch.iinfo(x.dtype).min if largest else torch.iinfo(x.dtype).max
        return torch.full(shape, empty, dtype=x.dtype)
    return x.amax(dim=axes, keepdim=keep) if largest else x.amin(dim=axes, keepdim=keep)


def _sum_magnitudes(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return _sum(x.abs(), axes, keep)


def _sum_squares(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    return _sum(x * x, axes, keep)


def _find_length(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    if x.is_floating_point():
        length: Tensor = torch.linalg.vector_norm(x, dim=axes, keepdim=keep)
        return length
    return torch.sqrt(_sum_squares(x.double(), axes, keep)).to(x.dtype)


def _log_sum(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    total = _sum(x, axes, keep)
    return torch.log(total) if x.is_floating_point() else torch.log(total.double()).to(x.dtype)


def _log_sum_exp(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.logsumexp(x, dim=axes, keepdim=keep)
    return torch.logsumexp(x.double(), dim=axes, keepdim=keep).to(x.dtype)


def reduce_axes(
    function: Callable[[Tensor, Axes, bool], Tensor],
    x: Tensor,
    axes_input: Tensor | None = None,
    *,
    axes: Sequence[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """Run one of the Reduce operators: axes are an attribute in older opsets, an input in newer ones.

    Without axes all are reduced, or with `noop_with_empty_axes` none.

    Args:
        function: Reduces over the given non-negative axes, keeping them as size 1 or not.
        x: Any shape.
        axes_input: int64 vector.
        axes: The same as an attribute.
        keepdims: Whether reduced axes stay as size 1.
        noop_with_empty_axes: Whether no axes means no reduction.

    Returns:
        The reduced tensor, in the type of `x`.
    """
    chosen = axes_input.tolist() if axes_input is not None else axes
    if chosen:
        positive = tuple(sorted(axis % x.dim() for axis in chosen))
    else:
        positive = () if noop_with_empty_axes else tuple(range(x.dim()))
    if positive:
        return function(x, positive, bool(keepdims))
    # No axis is reduced (or x is a scalar), yet square, logarithm and the like still apply to each element.
    return function(x.unsqueeze(-1), (x.dim(),), False)


def find_best(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0, largest: bool) -> Tensor:
    """ArgMax and ArgMin: the first index of the best value, or the last."""
    search = torch.argmax if largest else torch.argmin
    if not select_last_index:
        return search(x, dim=axis, keepdim=bool(keepdims))
    return x.shape[axis] - 1 - search(x.flip(axis), dim=axis, keepdim=bool(keepdims))


def sort_top(
    x: Tensor,
    k_input: Tensor | None = None,
    *,
    axis: int = -1,
    k: int | None = None,
    largest: int = 1,
    sorted: int = 1,  # noqa: A002, ARG001 - sorted is one of the orders that `sorted=0` allows
) -> tuple[Tensor, Tensor]:
    """TopK; among equal values the lower index comes first, hence a stable sort."""
    if k_input is None and k is None:
        raise ValueError("k is given neither as attribute nor as input")
    count = k if k_input is None else int(k_input.item())
    values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)  # type: ignore[arg-type]


def accumulate(
    function: Callable[..., Tensor],
    neutral: int,
    x: Tensor,
    axis: Tensor,
    *,
    exclusive: int = 0,
    reverse: int = 0,
) -> Tensor:
    """CumSum and CumProd; `exclusive` leaves out the element itself."""
    along = int(axis.item())
    if reverse:
        x = x.flip(along)
    if exclusive:
        first = torch.full_like(x.narrow(along, 0, 1), neutral)
        x = torch.cat([first, x.narrow(along, 0, x.shape[along] - 1)], dim=along)
    total = function(x, dim=along, dtype=x.dtype)
    return total.flip(along) if reverse else total


REDUCE_OPS: dict[str, Callable[..., Any]] = {
    "ArgMax": partial(find_best, largest=True),
    "ArgMin": partial(find_best, largest=False),
    "CumProd": partial(accumulate, torch.cumprod, 1),
    "CumSum": partial(accumulate, torch.cumsum, 0),
    "ReduceL1": partial(reduce_axes, _sum_magnitudes),
    "ReduceL2": partial(reduce_axes, _find_length),
    "ReduceLogSum": partial(reduce_axes, _log_sum),
    "ReduceLogSumExp": partial(reduce_axes, _log_sum_exp),
    "ReduceMax": partial(reduce_axes, partial(_find_extreme, largest=True)),
    "ReduceMean": partial(reduce_axes, _average),
    "ReduceMin": partial(reduce_axes, partial(_find_extreme, largest=False)),
    "ReduceProd": partial(reduce_axes, _multiply),
    "ReduceSum": partial(reduce_axes, _sum),
    "ReduceSumSquare": partial(reduce_axes, _sum_squares),
    "TopK": sort_top,
}
