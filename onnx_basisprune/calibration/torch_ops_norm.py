"""ONNX's normalisation operators and Dropout. Conventions as in `torch_ops_math`; channels are axis 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

Tensor = torch.Tensor


def _per_channel(vector: Tensor, x: Tensor) -> Tensor:
    return vector.reshape(-1, *(1,) * (x.dim() - 2))


def normalize_batch(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    training_mode: int = 0,
    output_count: int,
) -> Tensor | tuple[Tensor, ...]:
    """BatchNormalization; with `training_mode` by the batch's own moments.

    Up to opset 8 `spatial=0` has statistics per element instead of per channel.
    """
    if training_mode:
        axes = (0, *range(2, x.dim()))
        batch_variance, batch_mean = torch.var_mean(x, dim=axes, correction=0)
        y = functional.batch_norm(x, None, None, scale, bias, True, 0.0, epsilon)
        running = (
            mean * momentum + batch_mean * (1 - momentum),
            variance * momentum + batch_variance * (1 - momentum),
        )
        return (y, *running)[:output_count]
    if not spatial:
        return (x - mean) * (scale / torch.sqrt(variance + epsilon)) + bias
    if mean.requires_grad or variance.requires_grad:  # torch passes no gradient to running statistics
        factor = scale / torch.sqrt(variance + epsilon)
        return x * _per_channel(factor, x) + _per_channel(bias - mean * factor, x)
    return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)


def normalize_instance(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """InstanceNormalization: a group normalisation with one channel per group, which allows 1x1 maps."""
    return _normalize_by_group(x, x.shape[1], scale, bias, epsilon)


def normalize_group(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    epsilon: float = 1e-5,
    num_groups: int,
    stash_type: int = 1,
    opset: int,
) -> Tensor:
    """GroupNormalization: scale and bias are per group up to opset 20, per channel from 21 on."""
    del stash_type  # torch always reduces in float32
    if opset < 21:
        width = x.shape[1] // num_groups
        scale, bias = scale.repeat_interleave(width), bias.repeat_interleave(width)
    return _normalize_by_group(x, num_groups, scale, bias, epsilon)


def _normalize_by_group(x: Tensor, groups: int, scale: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    # Where x needs no gradient, but the others do, torch's backward pass crashes the process on channels-last images.
    if (scale.requires_grad or bias.requires_grad) and not x.requires_grad:
        x = x.contiguous()
    return torch.group_norm(x, groups, scale, bias, epsilon)


def normalize_layer(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    output_count: int,
) -> Tensor | tuple[Tensor, ...]:
    """LayerNormalization over `axis` and all that follow; mean and inverse deviation where they are named."""
    del stash_type  # torch always reduces in float32
    shape = x.shape[axis:]
    if output_count == 1 and scale.shape == shape and (bias is None or bias.shape == shape):
        return functional.layer_norm(x, shape, scale, bias, epsilon)
    axes = tuple(range(axis % x.dim(), x.dim()))
    variance, mean = torch.var_mean(x, dim=axes, correction=0, keepdim=True)
    inverse = torch.rsqrt(variance + epsilon)
    y = (x - mean) * inverse * scale
    return (y if bias is None else y + bias, mean, inverse)[:output_count]


def normalize_root_mean_square(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """RMSNormalization over `axis` and all that follow, reduced in float32."""
    axes = tuple(range(axis % x.dim(), x.dim()))
    wide = x.float() if stash_type == 1 and x.dtype in (torch.float16, torch.bfloat16) else x
    inverse = torch.rsqrt(wide.square().mean(dim=axes, keepdim=True) + epsilon)
    return (wide * inverse).to(x.dtype) * scale


def normalize_lp(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """LpNormalization; a zero vector stays zero."""
    norm = torch.linalg.vector_norm(x, ord=p, dim=axis, keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


def normalize_local_response(
    x: Tensor, *, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int
) -> Tensor:
    """LRN: windows of `size` channels, the longer half after the channel where `size` is even."""
    before, after = (size - 1) // 2, size // 2
    padded = functional.pad(x.square().flatten(2), (0, 0, before, after))
    sums = padded.unfold(1, size, 1).sum(dim=-1).reshape(x.shape)
    return x / (bias + alpha / size * sums) ** beta


def normalize_mean_variance(x: Tensor, *, axes: tuple[int, ...] = (0, 2, 3)) -> Tensor:
    """MeanVarianceNormalization, with the spec's 1e-9 beside the deviation."""
    variance, mean = torch.var_mean(x, dim=tuple(axes), correction=0, keepdim=True)
    return (x - mean) / (torch.sqrt(variance) + 1e-9)


def drop_out(
    x: Tensor,
    ratio_input: Tensor | None = None,
    training: Tensor | None = None,
    *,
    ratio: float = 0.5,  # noqa: ARG001 - of no effect outside training
    seed: int = 0,  # noqa: ARG001
    opset: int,
    output_count: int,
) -> Tensor | tuple[Tensor, Tensor]:
    """Dropout of a trained model: the identity, with a mask where one is named.

    The mask is all ones from opset 12 on; older ones leave it open, onnxruntime writes zeros.

    Raises:
        ValueError: The node asks for training's random zeros: the run wouldn't be reproducible.
    """
    drops = 0.5 if ratio_input is None else ratio_input.item()
    if training is not None and training.item() and drops > 0:
        raise ValueError("training_mode is set; export the model for inference")
    if output_count == 1:
        return x
    return x, torch.full_like(x, opset >= 12, dtype=torch.bool if opset >= 10 else x.dtype)


NORM_OPS: dict[str, Callable[..., Any]] = {
    "BatchNormalization": normalize_batch,
    "Dropout": drop_out,
    "GroupNormalization": normalize_group,
    "InstanceNormalization": normalize_instance,
    "LRN": normalize_local_response,
    "LayerNormalization": normalize_layer,
    "LpNormalization": normalize_lp,
    "MeanVarianceNormalization": normalize_mean_variance,
    "RMSNormalization": normalize_root_mean_square,
}
