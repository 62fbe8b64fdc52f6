"""ONNX's convolutions, matrix products and the padding arithmetic they share with pooling.

Conventions as in `torch_ops_math`. Shapes are channels first, `[N, C, *spatial]`; ONNX writes `pads` as all
beginnings, then all ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

Tensor = torch.Tensor
Ints = Sequence[int]

_CONV: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def resolve_pads(
    sizes: Ints, kernel: Ints, strides: Ints, dilations: Ints, pads: Ints | None, auto_pad: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Work out what is padded before and after each spatial axis.

    Args:
        sizes: Spatial sizes of the input.
        kernel: Spatial sizes of the kernel.
        strides: One stride per axis.
        dilations: One dilation per axis.
        pads: The attribute, all beginnings then all ends, or `None`.
        auto_pad: `NOTSET`, `VALID`, `SAME_UPPER` or `SAME_LOWER`.

    Returns:
        Padding at the beginnings and at the ends.
    """
    rank = len(kernel)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        begins, ends = [], []
        for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
            needed = (-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size
            small, large = max(needed, 0) // 2, (max(needed, 0) + 1) // 2
            begins.append(small if auto_pad == "SAME_UPPER" else large)
            ends.append(large if auto_pad == "SAME_UPPER" else small)
        return tuple(begins), tuple(ends)
    if auto_pad == "VALID" or pads is None:
        return (0,) * rank, (0,) * rank
    return tuple(pads[:rank]), tuple(pads[rank:])


def pad_spatial(x: Tensor, begins: Ints, ends: Ints, value: float = 0.0) -> Tensor:
    """Pad (or crop, where negative) the last axes of a tensor with a constant."""
    if not any(begins) and not any(ends):
        return x
    widths: list[int] = []
    for begin, end in zip(reversed(begins), reversed(ends), strict=True):
        widths += [begin, end]
    return functional.pad(x, widths, value=value)


def _pick(table: dict[int, Callable[..., Tensor]], rank: int) -> Callable[..., Tensor]:
    if rank not in table:
        raise ValueError(f"{rank} spatial axes; expected 1, 2 or 3")
    return table[rank]


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,  # noqa: ARG001 - the weight tells
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """Conv in one, two or three dimensions, grouped or not."""
    rank = weight.dim() - 2
    function = _pick(_CONV, rank)
    stride: Any = strides or 1
    dilation: Any = dilations or 1
    if auto_pad == "NOTSET":
        if pads is None:
            return function(x, weight, bias, stride, 0, dilation, group)
        begins = pads[:rank]
        if begins == pads[rank:]:
            return function(x, weight, bias, stride, begins, dilation, group)
    ones = (1,) * rank
    begins, ends = resolve_pads(x.shape[2:], weight.shape[2:], strides or ones, dilations or ones, pads, auto_pad)
    if begins == ends:
        return function(x, weight, bias, stride, begins, dilation, group)
    return function(pad_spatial(x, begins, ends), weight, bias, stride, 0, dilation, group)


def _resolve_transpose_pads(
    sizes: Ints, full: Ints, strides: Ints, pads: Ints | None, auto_pad: str, output_shape: Ints | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Work out what a ConvTranspose crops at the beginnings and ends of its full output."""
    same = auto_pad in ("SAME_UPPER", "SAME_LOWER")
    if not same and output_shape is None:
        return resolve_pads(sizes, full, strides, strides, pads, auto_pad)
    wanted = (
        output_shape[-len(full) :]
        if output_shape is not None
        else [size * stride for size, stride in zip(sizes, strides, strict=True)]
    )
    begins, ends = [], []
    for length, target in zip(full, wanted, strict=True):
        # A negative surplus extends the output: the spec's formula has no floor at zero.
        surplus = length - target
        half = surplus // 2
        begins.append(half if auto_pad == "SAME_UPPER" else surplus - half)
        ends.append(surplus - half if auto_pad == "SAME_UPPER" else half)
    return tuple(begins), tuple(ends)


def convolve_transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,  # noqa: ARG001 - the weight tells
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """ConvTranspose: the full output, extended by `output_padding`, cropped by the pads, then the bias."""
    rank = weight.dim() - 2
    function = _pick(_CONV_TRANSPOSE, rank)
    ones, zeros = (1,) * rank, (0,) * rank
    stride, dilation, extra = strides or ones, dilations or ones, output_padding or zeros
    full = [
        (size - 1) * step + (width - 1) * spread + 1 + more
        for size, step, width, spread, more in zip(x.shape[2:], stride, weight.shape[2:], dilation, extra, strict=True)
    ]
    begins, ends = _resolve_transpose_pads(x.shape[2:], full, stride, pads, auto_pad, output_shape)
    if begins == ends and min(begins) >= 0 and not any(extra):
        return function(x, weight, bias, stride, begins, 0, group, dilation)
    y = function(x, weight, None, stride, 0, 0, group, dilation)
    margins = [more - end for more, end in zip(extra, ends, strict=True)]
    y = pad_spatial(y, [-begin for begin in begins], margins)
    return y if bias is None else y + bias.reshape(-1, *ones)


def multiply_general(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """Gemm: `alpha * A B + beta * C`; the usual classifier is one linear call."""
    if transA:
        a = a.t()
    if alpha == 1.0 and beta == 1.0 and a.is_floating_point() and (c is None or c.dim() == 1):
        return functional.linear(a, b if transB else b.t(), c)
    product = torch.matmul(a, b.t() if transB else b)
    if alpha != 1.0:
        product = (alpha * product).to(product.dtype)
    if c is None or beta == 0.0:
        return product
    return product + (c if beta == 1.0 else (beta * c).to(c.dtype))


def multiply_matrices(a: Tensor, b: Tensor) -> Tensor:
    """MatMul with numpy's broadcasting."""
    return torch.matmul(a, b)


def sum_products(*tensors: Tensor, equation: str) -> Tensor:
    """Einsum."""
    return torch.einsum(equation.replace(" ", ""), *tensors)


CONV_OPS: dict[str, Callable[..., Any]] = {
    "Conv": convolve,
    "ConvTranspose": convolve_transposed,
    "Einsum": sum_products,
    "Gemm": multiply_general,
    "MatMul": multiply_matrices,
}
