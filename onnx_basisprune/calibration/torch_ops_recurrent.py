"""ONNX's LSTM. Conventions as in `torch_ops_math`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Tensor = torch.Tensor

_ACTIVATIONS = ["sigmoid", "tanh", "tanh"]  # of the gates, the cell's input and its output


def _run_direction(
    x: Tensor, W: Tensor, R: Tensor, bias: Tensor, peepholes: Tensor, h: Tensor, c: Tensor, clip: float, coupled: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one direction; gates are in ONNX's order: input, output, forget, cell.

    Args:
        x: `[length, batch, inputs]`.
        W: `[4·units, inputs]`.
        R: `[4·units, units]`.
        bias: `[4·units]`.
        peepholes: `[3·units]`: what the cell tells the input, output and forget gates.
        h: The first hidden state, `[batch, units]`.
        c: The first cell state, `[batch, units]`.
        clip: Bound of what activations are given.
        coupled: Whether the cell forgets as much as it takes in.

    Returns:
        Hidden states `[length, batch, units]`, and the last hidden and cell states.
    """
    p_in, p_out, p_forget = peepholes.chunk(3)
    states = []
    for step in torch.nn.functional.linear(x, W, bias):
        to_in, to_out, to_forget, to_cell = (step + h @ R.T).chunk(4, dim=-1)
        taken = torch.sigmoid((to_in + p_in * c).clamp(-clip, clip))
        kept = 1 - taken if coupled else torch.sigmoid((to_forget + p_forget * c).clamp(-clip, clip))
        c = kept * c + taken * torch.tanh(to_cell.clamp(-clip, clip))
        h = torch.sigmoid((to_out + p_out * c).clamp(-clip, clip)) * torch.tanh(c)
        states.append(h)
    return torch.stack(states), h, c


def run_lstm(
    x: Tensor,
    W: Tensor,
    R: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    first_h: Tensor | None = None,
    first_c: Tensor | None = None,
    peepholes: Tensor | None = None,
    *,
    activations: list[str] | None = None,
    activation_alpha: list[float] | None = None,  # noqa: ARG001 - the default activations have no parameters
    activation_beta: list[float] | None = None,  # noqa: ARG001
    clip: float = torch.inf,
    direction: str = "forward",
    hidden_size: int | None = None,  # noqa: ARG001 - the weights tell it
    input_forget: int = 0,
    layout: int = 0,
    output_count: int,
) -> tuple[Tensor, ...]:
    """LSTM in one or both directions, over sequences of one length, with its default activations."""
    if [name.lower() for name in activations or []] not in ([], _ACTIVATIONS, 2 * _ACTIVATIONS):
        raise ValueError(f"activations {activations}, where only the default ones are known")
    sequence = x.transpose(0, 1) if layout else x
    length, batch = sequence.shape[:2]
    directions, units = R.shape[0], R.shape[2]
    if lengths is not None and bool((lengths != length).any()):
        raise ValueError("sequences of different lengths")
    start = (batch, directions, units) if layout else (directions, batch, units)
    hs, cs = (x.new_zeros(start) if item is None else item for item in (first_h, first_c))
    if layout:
        hs, cs = hs.transpose(0, 1), cs.transpose(0, 1)
    bias = x.new_zeros(directions, 8 * units) if bias is None else bias
    peepholes = x.new_zeros(directions, 3 * units) if peepholes is None else peepholes
    results = []
    for at in range(directions):
        backwards = at == 1 or direction == "reverse"
        y, h, c = _run_direction(
            sequence.flip(0) if backwards else sequence,
            W[at],
            R[at],
            bias[at, : 4 * units] + bias[at, 4 * units :],
            peepholes[at],
            hs[at],
            cs[at],
            clip,
            input_forget,
        )
        results.append((y.flip(0) if backwards else y, h, c))
    ys, hs, cs = (torch.stack(items, dim=-3) for items in zip(*results, strict=True))
    if layout:
        ys, hs, cs = ys.permute(2, 0, 1, 3), hs.transpose(0, 1), cs.transpose(0, 1)
    return (ys, hs, cs)[:output_count]


RECURRENT_OPS: dict[str, Callable[..., Any]] = {"LSTM": run_lstm}
