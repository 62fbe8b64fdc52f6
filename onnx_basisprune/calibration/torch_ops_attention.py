"""ONNX's Attention and RotaryEmbedding. Conventions as in `torch_ops_math`.

Inside, tensors are `[batch, heads, length, head size]`; the 3-D form of the operators has the heads side by
side in the last axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from onnx_basisprune.calibration.torch_ops_shape import find_torch_type

Tensor = torch.Tensor


def _split_heads(x: Tensor, heads: int | None) -> Tensor:
    if x.dim() == 4:
        return x
    if not heads:
        raise ValueError("3-D inputs without the number of heads")
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def _allow_positions(
    queries: int, keys: int, offset: Tensor, is_causal: int, left: int, right: int, valid: Tensor | None
) -> Tensor:
    """Tell which keys each query may see by position alone.

    Args:
        queries: Number of queries.
        keys: Number of keys.
        offset: Keys before the first query, `[batch or 1, 1, 1, 1]`.
        is_causal: Whether later keys are hidden.
        left: How far back a query sees, -1 for no limit.
        right: How far ahead a query sees, -1 for no limit.
        valid: Number of keys that aren't padding, `[batch, 1, 1, 1]`.

    Returns:
        Boolean, `[batch or 1, 1, queries, keys]`.
    """
    columns = torch.arange(keys, device=offset.device)
    ahead = columns - torch.arange(queries, device=offset.device).reshape(-1, 1) - offset
    allowed = torch.ones_like(ahead, dtype=torch.bool)
    if is_causal:
        allowed = allowed & (ahead <= 0)
    if left >= 0:
        allowed = allowed & (ahead >= -left)
    if right >= 0:
        allowed = allowed & (ahead <= right)
    return allowed if valid is None else allowed & (columns < valid)


def _make_bias(mask: Tensor | None, allowed: Tensor, keys: int, like: Tensor) -> Tensor:
    """Add the given mask to the positions' one: 0 or the mask's value where a key is seen, else -inf."""
    hidden = torch.full((), -math.inf, dtype=like.dtype, device=like.device)
    bias = torch.where(allowed, torch.zeros_like(hidden), hidden)
    if mask is None:
        return bias
    if mask.dtype is torch.bool:
        mask = torch.where(mask, torch.zeros_like(hidden), hidden)
    missing = keys - mask.shape[-1]  # a shorter mask hides what it doesn't cover
    return bias + (functional.pad(mask, (0, missing), value=-math.inf) if missing > 0 else mask)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    valid_lengths: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    output_count: int,
) -> tuple[Tensor | None, ...]:
    """Attention, with grouped heads, masks, windows and a cache of past keys and values."""
    flat = query.dim() == 3
    q = _split_heads(query, q_num_heads)
    k, v = _split_heads(key, kv_num_heads), _split_heads(value, kv_num_heads)
    offset = torch.zeros(1, 1, 1, 1, dtype=torch.int64, device=q.device)
    valid = None
    if past_key is not None and past_value is not None:
        offset = offset + past_key.shape[2]
        k, v = torch.cat([past_key, k], dim=2), torch.cat([past_value, v], dim=2)
    elif valid_lengths is not None:
        valid = valid_lengths.reshape(-1, 1, 1, 1)
        offset = valid - q.shape[2]
    present = (k, v)
    if q.shape[1] != k.shape[1]:
        repeats = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    root = math.sqrt(1.0 / math.sqrt(q.shape[3]) if scale is None else scale)
    products = torch.matmul(q * root, (k * root).transpose(2, 3))
    capped = softcap * torch.tanh(products / softcap) if softcap > 0 else products
    keys = k.shape[2]
    allowed = _allow_positions(q.shape[2], keys, offset, is_causal, left_window_size, right_window_size, valid)
    bias = _make_bias(mask, allowed, keys, capped)
    biased = capped + bias
    wide = biased if softmax_precision is None else biased.to(find_torch_type(softmax_precision))
    # A query that sees no key at all gets zeros, where softmax would give NaN, in the gradient too.
    blind = torch.isneginf(bias).all(dim=-1, keepdim=True)
    weights = torch.softmax(wide.masked_fill(blind, 0.0), dim=-1).masked_fill(blind, 0.0).to(query.dtype)
    y = torch.matmul(weights, v)
    if flat:
        y = y.transpose(1, 2).flatten(2)
    inner = (capped, capped, biased, weights)[qk_matmul_output_mode]
    return (y, *present, inner.to(query.dtype))[:output_count]


def rotate_positions(
    x: Tensor,
    cosines: Tensor,
    sines: Tensor,
    positions: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """RotaryEmbedding: turns pairs of features by angles that grow with the position."""
    heads = _split_heads(x, num_heads)
    width = rotary_embedding_dim or heads.shape[3]
    turned, rest = heads[..., :width], heads[..., width:]
    if positions is not None:
        cosines, sines = cosines[positions.long()], sines[positions.long()]
    cosines, sines = cosines.unsqueeze(1), sines.unsqueeze(1)
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = turned.chunk(2, dim=-1)
    pair = (cosines * first - sines * second, sines * first + cosines * second)
    rotated = torch.stack(pair, dim=-1).flatten(-2) if interleaved else torch.cat(pair, dim=-1)
    y = torch.cat([rotated, rest], dim=-1)
    return y.transpose(1, 2).reshape(x.shape) if x.dim() == 3 else y


ATTENTION_OPS: dict[str, Callable[..., Any]] = {
    "Attention": attend,
    "RotaryEmbedding": rotate_positions,
}
