"""ONNX's operators on shapes and layouts, and those that make tensors. Conventions as in `torch_ops_math`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

Tensor = torch.Tensor
Ints = Sequence[int]

# ONNX's TensorProto.DataType codes that torch can hold and compute with.
TORCH_TYPES: dict[int, torch.dtype] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.uint16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    12: torch.uint32,
    13: torch.uint64,
    16: torch.bfloat16,
}


def find_torch_type(code: int) -> torch.dtype:
    """Return the torch type for an ONNX data type code.

    Raises:
        ValueError: torch has no such type (string, complex, 4-bit and 8-bit floats).
    """
    if code not in TORCH_TYPES:
        raise ValueError(f"ONNX data type {code} has no PyTorch counterpart here")
    return TORCH_TYPES[code]


def cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:  # noqa: ARG001
    """Cast; `saturate` and `round_mode` only concern the 8-bit floats, which aren't supported."""
    target = find_torch_type(to)
    if x.is_floating_point() and target in (torch.uint16, torch.uint32, torch.uint64):
        return x.to(torch.int64).to(target)
    return x.to(target)


def cast_like(x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:  # noqa: ARG001
    """CastLike."""
    return x.to(like.dtype)


def make_constant(
    *,
    value: Tensor | None = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Ints | None = None,
) -> Tensor:
    """Constant in each of its numeric forms."""
    if value is not None:
        return value
    if value_float is not None or value_floats is not None:
        return torch.tensor(value_floats if value_float is None else value_float, dtype=torch.float32)
    return torch.tensor(value_ints if value_int is None else value_int, dtype=torch.int64)


def fill_shape(shape: Tensor, *, value: Tensor | None = None) -> Tensor:
    """ConstantOfShape: zeros of float32 by default."""
    if value is None:
        return torch.zeros(shape.tolist(), dtype=torch.float32)
    return torch.full(shape.tolist(), value.item(), dtype=value.dtype)


def count_range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Range over scalars: `ceil((limit - start) / delta)` elements, none where that is negative."""
    first, last, step = start.item(), limit.item(), delta.item()
    count = max(math.ceil((last - first) / step), 0)
    return (torch.arange(count, dtype=start.dtype) * step + first).to(start.dtype)


def make_eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    """EyeLike: ones on the k-th diagonal."""
    rows, columns = x.shape
    eye = np.eye(rows, columns, k)
    return torch.from_numpy(eye).to(x.dtype if dtype is None else find_torch_type(dtype))


def read_shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """Shape, or a slice of it, as int64."""
    return torch.tensor(x.shape[start:end], dtype=torch.int64)


def count_elements(x: Tensor) -> Tensor:
    """Size as an int64 scalar."""
    return torch.tensor(x.numel(), dtype=torch.int64)


def reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    """Reshape; 0 copies the input's dimension unless `allowzero`."""
    target = shape.tolist()
    if not allowzero:
        target = [x.shape[axis] if size == 0 else size for axis, size in enumerate(target)]
    return x.reshape(target)


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Flatten to a matrix."""
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def squeeze(x: Tensor, axes_input: Tensor | None = None, *, axes: Ints | None = None) -> Tensor:
    """Squeeze: axes are an attribute up to opset 12, an input from 13 on."""
    chosen = axes_input.tolist() if axes_input is not None else axes
    if chosen is None:
        return x.squeeze()
    for axis in chosen:
        if x.shape[axis] != 1:
            raise ValueError(f"axis {axis} has size {x.shape[axis]}; expected 1")
    return x.squeeze(tuple(chosen))


def unsqueeze(x: Tensor, axes_input: Tensor | None = None, *, axes: Ints | None = None) -> Tensor:
    """Unsqueeze: axes count in the output's shape, in any order."""
    chosen = axes_input.reshape(-1).tolist() if axes_input is not None else axes or ()
    rank = x.dim() + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = x.unsqueeze(axis)
    return x


def transpose(x: Tensor, *, perm: Ints | None = None) -> Tensor:
    """Transpose; reverses the axes by default."""
    return x.permute(tuple(reversed(range(x.dim()))) if perm is None else tuple(perm))


def concatenate(*tensors: Tensor, axis: int) -> Tensor:
    """Concat."""
    return torch.cat(tensors, dim=axis)


def split(
    x: Tensor,
    sizes: Tensor | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    split: Ints | None = None,
    output_count: int,
) -> tuple[Tensor, ...]:
    """Split: sizes are an attribute up to opset 12; without sizes the last part may be smaller."""
    chosen = sizes.tolist() if sizes is not None else split
    if chosen is None:
        parts = num_outputs or output_count
        total = x.shape[axis]
        size = -(-total // parts)
        chosen = [max(min(size, total - index * size), 0) for index in range(parts)]
    return torch.split(x, list(chosen), dim=axis)


def slice_tensor(
    x: Tensor,
    starts_input: Tensor | None = None,
    ends_input: Tensor | None = None,
    axes_input: Tensor | None = None,
    steps_input: Tensor | None = None,
    *,
    axes: Ints | None = None,
    ends: Ints | None = None,
    starts: Ints | None = None,
) -> Tensor:
    """Slice: all but steps are attributes up to opset 9; Python's slices clamp just as ONNX does."""
    starts = starts_input.tolist() if starts_input is not None else starts or ()
    ends = ends_input.tolist() if ends_input is not None else ends or ()
    axes = axes_input.tolist() if axes_input is not None else axes
    axes = range(len(starts)) if axes is None else axes
    steps = steps_input.tolist() if steps_input is not None else (1,) * len(starts)
    window = [slice(None)] * x.dim()
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step > 0:
            # Clamped here: of bounds near the largest number torch warns on stderr.
            window[axis] = slice(*slice(start, end, step).indices(x.shape[axis]))
        else:  # torch has no negative steps
            positions = range(*slice(start, end, step).indices(x.shape[axis]))
            x = x.index_select(axis, torch.tensor(positions, dtype=torch.int64, device=x.device))
    return x[tuple(window)]


def expand(x: Tensor, shape: Tensor) -> Tensor:
    """Expand: both ways, as numpy broadcasts."""
    target: tuple[int, ...] = torch.broadcast_shapes(x.shape, tuple(shape.tolist()))  # type: ignore[no-untyped-call]
    return x.expand(target)


def tile(x: Tensor, repeats: Tensor) -> Tensor:
    """Tile."""
    return x.repeat(repeats.tolist())


def _pad_by_index(x: Tensor, axis: int, begin: int, end: int, mode: str) -> Tensor:
    """Pad one axis by reading positions again; numpy's own padding tells which."""
    size = x.shape[axis]
    positions = np.arange(max(-begin, 0), size - max(-end, 0))
    positions = np.pad(positions, (max(begin, 0), max(end, 0)), mode=mode)  # type: ignore[call-overload]
    return x.index_select(axis, torch.from_numpy(positions).to(x.device, torch.int64))


def pad(
    x: Tensor,
    pads_input: Tensor | None = None,
    constant: Tensor | None = None,
    axes: Tensor | None = None,
    *,
    mode: str = "constant",
    pads: Ints | None = None,
    value: float = 0.0,
) -> Tensor:
    """Pad: widths are an attribute up to opset 10, an input from 11 on; negative ones crop."""
    widths = pads_input.reshape(-1).tolist() if pads_input is not None else list(pads or ())
    chosen = axes.tolist() if axes is not None else range(x.dim())
    count = len(chosen)
    pairs = {axis % x.dim(): (widths[i], widths[i + count]) for i, axis in enumerate(chosen)}
    if mode != "constant":
        for axis, (begin, end) in pairs.items():
            if begin or end:
                x = _pad_by_index(x, axis, begin, end, mode)
        return x
    flat = [width for axis in reversed(range(x.dim())) for width in pairs.get(axis, (0, 0))]
    return functional.pad(x, flat, value=value if constant is None else constant.item())


def move_depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """DepthToSpace in depth-column-row or column-row-depth order."""
    n, channels, height, width = x.shape
    depth = channels // blocksize**2
    if mode == "DCR":
        x = x.reshape(n, blocksize, blocksize, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, depth, blocksize, blocksize, height, width).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, depth, height * blocksize, width * blocksize)


def move_space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """SpaceToDepth; `mode` came with opset 28."""
    n, depth, height, width = x.shape
    x = x.reshape(n, depth, height // blocksize, blocksize, width // blocksize, blocksize)
    x = x.permute(0, 3, 5, 1, 2, 4) if mode == "DCR" else x.permute(0, 1, 3, 5, 2, 4)
    return x.reshape(n, depth * blocksize**2, height // blocksize, width // blocksize)


def pass_through(x: Tensor) -> Tensor:
    """Identity."""
    return x


SHAPE_OPS: dict[str, Callable[..., Any]] = {
    "Cast": cast,
    "CastLike": cast_like,
    "Concat": concatenate,
    "Constant": make_constant,
    "ConstantOfShape": fill_shape,
    "DepthToSpace": move_depth_to_space,
    "Expand": expand,
    "EyeLike": make_eye_like,
    "Flatten": flatten,
    "Identity": pass_through,
    "Pad": pad,
    "Range": count_range,
    "Reshape": reshape,
    "Shape": read_shape,
    "Size": count_elements,
    "Slice": slice_tensor,
    "SpaceToDepth": move_space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
