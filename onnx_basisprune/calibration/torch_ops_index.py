"""ONNX's operators that read or write by index. Conventions as in `torch_ops_math`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Tensor = torch.Tensor

_SCATTER_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _wrap(indices: Tensor, size: int | Tensor) -> Tensor:
    """Turn negative indices into positive ones, as int64."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Gather: whole slices along one axis."""
    size = x.shape[axis]
    if indices.dim() == 0:
        return x.select(axis, int(indices.item()))
    axis = axis % x.dim()
    flat = x.index_select(axis, _wrap(indices, size).reshape(-1))
    return flat.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """GatherElements."""
    return torch.gather(x, axis, _wrap(indices, x.shape[axis]))


def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """GatherND: the last axis of `indices` holds coordinates."""
    depth = indices.shape[-1]
    sizes = torch.tensor(x.shape[batch_dims : batch_dims + depth], device=x.device)
    coordinates = tuple(_wrap(indices, sizes).unbind(-1))
    rank = indices.dim() - 1
    batches = tuple(
        torch.arange(x.shape[axis], device=x.device).reshape(-1, *(1,) * (rank - axis - 1))
        for axis in range(batch_dims)
    )
    return x[batches + coordinates]


def scatter_elements(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    """ScatterElements (and Scatter, its name up to opset 10)."""
    positions = _wrap(indices, x.shape[axis])
    updates = updates.to(x.dtype)
    if reduction == "none":
        return x.scatter(axis, positions, updates)
    return x.scatter_reduce(axis, positions, updates, _SCATTER_REDUCTIONS[reduction])


def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """ScatterND: the addressed slices are rows of the flattened leading axes."""
    depth = indices.shape[-1]
    sizes = x.shape[:depth]
    coordinates = _wrap(indices, torch.tensor(sizes, device=x.device))
    flat = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=x.device)
    for axis, size in enumerate(sizes):
        flat = flat * size + coordinates[..., axis]
    rows = x.reshape(*(-1, *x.shape[depth:]) if x.shape[depth:] else (-1,))
    source = updates.to(x.dtype).reshape(-1, *rows.shape[1:])
    if reduction == "none":
        return rows.index_copy(0, flat.reshape(-1), source).reshape(x.shape)
    positions = flat.reshape(-1, *(1,) * (rows.dim() - 1)).expand(source.shape)
    return rows.scatter_reduce(0, positions, source, _SCATTER_REDUCTIONS[reduction]).reshape(x.shape)


def find_nonzero(x: Tensor) -> Tensor:
    """NonZero: one row of positions per axis."""
    return torch.nonzero(x).t()


def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    """Compress: slices whose condition holds; of the flattened input without an axis."""
    if axis is None:
        x, axis = x.reshape(-1), 0
    return x.index_select(axis, torch.nonzero(condition).reshape(-1))


def encode_one_hot(indices: Tensor, depth: Tensor, values: Tensor, *, axis: int = -1) -> Tensor:
    """OneHot: `values` holds off and on; indices outside of the range are off everywhere."""
    count = int(depth.item())
    axis = axis % (indices.dim() + 1)
    classes = torch.arange(count, device=indices.device).reshape(-1, *(1,) * (indices.dim() - axis))
    whole = indices.to(torch.int64)
    wrapped = torch.where(whole < 0, whole + count, whole).unsqueeze(axis)
    return torch.where(wrapped == classes, values[1], values[0])


def keep_triangle(x: Tensor, diagonal: Tensor | None = None, *, upper: int = 1) -> Tensor:
    """Trilu."""
    offset = 0 if diagonal is None else int(diagonal.item())
    return torch.triu(x, offset) if upper else torch.tril(x, offset)


INDEX_OPS: dict[str, Callable[..., Any]] = {
    "Compress": compress,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "NonZero": find_nonzero,
    "OneHot": encode_one_hot,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "Trilu": keep_triangle,
}
