"""The two gradient passes over the graph (METHOD section 2): moments, then component scores.

Both stream over batches: a Conv's output is used when it is computed, its gradient when it comes back, and only sums
of the size of the Conv's channels remain. Products are float32 on values shifted by the first batch's mean, sums are
float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from onnx_basisprune.calibration.gradient_pass import (
    CalibrationBatch,
    GradientHook,
    GradientPass,
    ReadEdge,
    ReadStart,
)
from onnx_basisprune.errors import ModelError, quote
from onnx_basisprune.planning.triangle import Triangle
from onnx_basisprune.planning.types import Basis, ConvStatistics, ReducedSpace


class RowSums:
    """Sum and second moment of rows, in float64, from float32 products on shifted rows.

    Attributes:
        total: `sum t`, `[q]`.
        outer: The triangle of `sum t tᵀ`, `[q, q]`.
        count: Rows.
    """

    def __init__(self, q: int) -> None:
        self.total = np.zeros(q)
        self.outer = Triangle(q)
        self.count = 0
        self._shift: torch.Tensor | None = None

    def add(self, rows: torch.Tensor) -> None:
        """Add rows `[m, q]`."""
        if self._shift is None:
            self._shift = rows.mean(dim=0)
        centered = rows - self._shift
        # Back from shifted to plain sums, in float64: plain sums add up over shards.
        sums, shift, count = centered.sum(dim=0).double().numpy(), self._shift.double().numpy(), len(rows)
        self.count += count
        self.total += sums + count * shift
        _add_products(self.outer, centered)
        for start, block in self.outer.blocks():
            stop = start + len(block)
            block += np.outer(shift[start:stop], sums[start:] + count * shift[start:])
            block += np.outer(sums[start:stop], shift[start:])


class _Moments:
    """Sums of one Conv's outputs and gradients."""

    def __init__(self, channels: int, space: ReducedSpace | None, bias: NDArray[np.float64]) -> None:
        q = channels if space is None else space.U.shape[1]
        self.sums = RowSums(q)
        self.gradient_outer = Triangle(q)
        self._U = None if space is None else torch.from_numpy(space.U).float()
        self._b = torch.from_numpy(bias).float()

    def add_output(self, y: torch.Tensor) -> GradientHook:
        """Add a batch of outputs `[n, C, ...]`; the returned hook adds their gradients."""
        self.sums.add(_to_rows(y) if self._U is None else (_to_rows(y) - self._b) @ self._U)
        return self.add_gradient

    def add_gradient(self, gradient: torch.Tensor) -> None:
        """Add a batch of gradients `[n, C, ...]`."""
        g = _to_rows(gradient)
        if self._U is not None:
            g = g @ self._U
        _add_products(self.gradient_outer, g)


def _add_products(outer: Triangle, rows: torch.Tensor) -> None:
    """Add `rowsᵀ rows` of `[m, q]` to a triangle."""
    for start, block in outer.blocks():
        block += (rows[:, start : start + len(block)].T @ rows[:, start:]).numpy()


def _to_rows(y: torch.Tensor) -> torch.Tensor:
    """Return `[n, C, ...]` as one row per image and position, `[n·P, C]`; a view where channels are last."""
    return y.flatten(2).transpose(1, 2).reshape(-1, y.shape[1])


def collect_statistics(
    gradient_pass: GradientPass,
    batches: Iterable[CalibrationBatch],
    biases: Mapping[str, NDArray[np.float64]],
    spaces: Mapping[str, ReducedSpace | None],
    progress: Callable[[int], None] | None = None,
    reads: Mapping[ReadEdge, ReadStart] | None = None,
) -> dict[str, ConvStatistics]:
    """Run the first pass: the moments of every Conv in `biases`.

    Args:
        gradient_pass: How to run the graph.
        batches: The calibration images.
        biases: Conv name → `b [C_out]`, zeros where the Conv has none.
        spaces: Conv name → the reduced space in which its moments are taken, `None` for plain outputs.
        progress: Called with the number of images done in each batch.
        reads: What else is watched in the same run, see `GradientPass.run`.

    Returns:
        The statistics by Conv name, of those that the loss depends on.

    Raises:
        ModelError: Outputs or gradients of a Conv aren't finite.
    """
    moments = {name: _Moments(len(bias), spaces[name], bias) for name, bias in biases.items()}
    watch = {name: item.add_output for name, item in moments.items()}
    images = gradient_pass.run(batches, watch, progress, reads=reads)
    _check_finite(moments)
    return {
        name: ConvStatistics(item.sums.total, item.sums.outer, item.gradient_outer, item.sums.count, images)
        for name, item in moments.items()
        if item.sums.count
    }


def _check_finite(moments: Mapping[str, _Moments]) -> None:
    """Refuse sums that hold NaN or infinity, naming the node nearest to the cause.

    Raises:
        ModelError: There are such sums.
    """
    remedy = "check the preprocessing and the node's weights, or leave the node out with --exclude"
    for name, item in moments.items():
        if not np.isfinite(item.sums.outer.values).all():
            raise ModelError(
                f"Node {quote(name)} gives outputs that are NaN or so large that their squares overflow; expected "
                f"finite ones: {remedy}."
            )
    # Gradients come from behind: the last node that has them is the nearest.
    for name, item in reversed(list(moments.items())):
        if not np.isfinite(item.gradient_outer.values).all():
            raise ModelError(
                f"The loss gradient at node {quote(name)} isn't finite; expected finite gradients: look behind it "
                f"for an operator without a derivative at some values, such as the square root at 0."
            )


class _Scores:
    """Sum over images of one Conv's squared gate gradients."""

    def __init__(self, basis: Basis) -> None:
        self.total = np.zeros(len(basis.R))
        self._R = torch.from_numpy(basis.R).float()
        self._A = torch.from_numpy(basis.A).float()
        self._center = torch.from_numpy(basis.center).float()

    def add_output(self, y: torch.Tensor) -> GradientHook:
        """Hold a batch of outputs until the returned hook is given their gradients."""
        return lambda gradient: self._add(y, gradient)

    def _add(self, y: torch.Tensor, gradient: torch.Tensor) -> None:
        """Add `(sum_p (R_i (y_p - mu)) · (A_iᵀ g_p))²` for every image and component."""
        images, channels = y.shape[:2]
        centered = _to_rows(y) - self._center
        g = _to_rows(gradient)
        positions = len(centered) // images
        if positions >= 2 * channels:
            # One product per image instead of two per position: sum_p R (y - mu) gᵀ A = R (sum_p (y - mu) gᵀ) A.
            M = torch.bmm(
                centered.view(images, positions, channels).transpose(1, 2),
                g.view(images, positions, channels),
            )
            gates = ((self._R @ M) * self._A.T).sum(dim=2)
        else:
            product = (centered @ self._R.T) * (g @ self._A)
            gates = product.view(images, positions, -1).sum(dim=1)
        self.total += gates.double().square().sum(dim=0).numpy()


def score_components(
    gradient_pass: GradientPass,
    batches: Iterable[CalibrationBatch],
    bases: Mapping[str, Basis],
    progress: Callable[[int], None] | None = None,
    reads: Mapping[ReadEdge, ReadStart] | None = None,
    end_batch: Callable[[int], None] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Run the second pass: the Taylor score of a gate on every centred component of every basis.

        I_i = mean_n (sum_p (R_i (y_p - mu)) · (A_iᵀ g_p))²

    Args:
        gradient_pass: How to run the graph.
        batches: The calibration images, the same as in the first pass.
        bases: Conv name → its basis.
        progress: Called with the number of images done in each batch.
        reads: What else is watched in the same run, see `GradientPass.run`.
        end_batch: Called with the number of images after each batch.

    Returns:
        Scores `[r]` by Conv name, at least 0.
    """
    scores = {name: _Scores(basis) for name, basis in bases.items()}
    watch = {name: item.add_output for name, item in scores.items()}
    images = gradient_pass.run(batches, watch, progress, reads=reads, end_batch=end_batch)
    return {name: item.total / images for name, item in scores.items()}
