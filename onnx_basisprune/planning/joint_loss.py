"""What coupled channels lose together, as against one by one, and in which order they are worth keeping.

A gate's Taylor score tells what one channel loses while all others stay. Where many say nearly the same, each is worth
next to nothing, and so is the sum of their scores; but the last of them isn't. What a consumer of `x` loses once only
the channels K stay is what the regression on them leaves unexplained, in the loss's own metric:

    J(K) = sum(M * Sigma_x|K)        M = mean_n[sum_p h_p h_pᵀ],  h = dL/dx

with `Sigma_x|K` the Schur complement of the kept channels in `x`'s covariance. It has the unit of the Taylor scores,
but takes positions to be independent: how much they aren't, the Taylor scores tell.

The channels to keep are chosen one by one, each the one that takes most off J: subset selection by orthogonal least
squares (Chen, Cowan and Grant, 1991). With `R = Sigma_x|K`, `N = R M R` and `d = R_cc + ridge`, keeping `c` takes off
`N_cc / d`, and

    R' = R - d z zᵀ        N' = N - z bᵀ - b zᵀ        z = R_c / d,  b = N_c - N_cc z / 2

Only the column of the channel that was chosen and the diagonals are needed for the next one, so that the whole matrices
are brought up to date for many channels at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.planning.triangle import Triangle

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

# So many channels are chosen before the matrices are brought up to date.
_BLOCK = 128
# Keeps channels of equal slopes in their order.
_TILT = 1e-6


@dataclass(frozen=True)
class JointLoss:
    """What one reading of channels loses.

    Attributes:
        metric: `M`, `[C, C]`, how much errors matter to the loss.
        moments: The channels' covariance, or second moment where the consumer can't take a constant, `[C, C]`.
        ridge: Of the regression.
    """

    metric: Matrix
    moments: Matrix
    ridge: float

    @property
    def alone(self) -> Vector:
        """What each channel loses alone and without a regression, `[C]`."""
        return np.diag(self.metric) * np.diag(self.moments)


def rank_channels(losses: Sequence[JointLoss], fixed: Vector) -> tuple[NDArray[np.int64], Vector]:
    """Return channels in the order in which they are worth keeping, and what each takes off the loss in its turn.

    Args:
        losses: Of all that read them.
        fixed: What a channel loses whatever else is kept, `[C]`.

    Returns:
        `[C]` int64, the most important first, and `[C]` gains.
    """
    residuals = [_Residual(item) for item in losses]
    rest, order, gains = np.arange(len(fixed)), [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    while len(rest):
        picked, taken = _choose(residuals, fixed[rest])
        for residual in residuals:
            residual.settle(picked)
        order.append(rest[picked])
        gains.append(taken)
        rest = np.delete(rest, picked)
    return np.concatenate(order), np.concatenate(gains)


def spread_losses(gains: Vector) -> Vector:
    """Return scores whose sums are what channels lose together, for channels that go in the reverse order.

    Args:
        gains: What each channel takes off the loss, `[C]`, the most important first.

    Returns:
        `[C]`, in the same order, descending, strictly so where they aren't zero: the slopes of the convex minorant of
        the losses.
    """
    slopes = _take_slopes(np.concatenate([[0.0], np.cumsum(gains[::-1])]))
    return (slopes * (1 + _TILT * np.linspace(0, 1, len(slopes))))[::-1]


class _Residual:
    """What is unexplained of channels that haven't been chosen: `R` and `N`, `[c, c]`, and what comes off them yet."""

    def __init__(self, loss: JointLoss) -> None:
        """Choose no channel yet."""
        self._R = loss.moments
        self._N = _multiply_symmetric(loss.moments, loss.metric @ loss.moments)
        self._ridge = loss.ridge + np.finfo(np.float64).tiny
        self._begin_block()

    def _begin_block(self) -> None:
        self._diag_R, self._diag_N = np.diag(self._R).copy(), np.diag(self._N).copy()
        self._count = 0
        self._z, self._b = np.empty((2, _BLOCK, len(self._R)))
        self._d = np.empty(_BLOCK)

    @property
    def gains(self) -> Vector:
        """What each channel would take off the loss, `[c]`."""
        gains: Vector = np.maximum(self._diag_N, 0.0) / (np.maximum(self._diag_R, 0.0) + self._ridge)
        return gains

    def keep(self, channel: int) -> None:
        """Choose a channel."""
        z, b, d = self._z[: self._count], self._b[: self._count], self._d[: self._count]
        R = self._R[channel] - (d * z[:, channel]) @ z
        N = self._N[channel] - b[:, channel] @ z - z[:, channel] @ b
        new_d = max(R[channel], 0.0) + self._ridge
        new_z = R / new_d
        new_b = N - 0.5 * N[channel] * new_z
        self._diag_R -= new_d * new_z * new_z
        self._diag_N -= 2 * new_z * new_b
        self._z[self._count], self._b[self._count], self._d[self._count] = new_z, new_b, new_d
        self._count += 1

    def settle(self, chosen: NDArray[np.int64]) -> None:
        """Bring the matrices up to date, and leave the channels out that were chosen."""
        rest = np.delete(np.arange(len(self._R)), chosen)
        z, b = self._z[: self._count, rest], self._b[: self._count, rest]
        self._R, self._N = (matrix.take(rest, axis=0).take(rest, axis=1) for matrix in (self._R, self._N))
        self._R -= (self._d[: self._count, None] * z).T @ z
        mixed = z.T @ b
        self._N -= mixed
        self._N -= mixed.T
        self._begin_block()


def _multiply_symmetric(first: Matrix, second: Matrix) -> Matrix:
    """Return a product that is known to be symmetric, from half of it."""
    half = Triangle(len(first))
    for start, block in half.blocks():
        np.matmul(first[start : start + len(block)], second[:, start:], out=block)
    return half.full()


def _choose(residuals: Sequence[_Residual], fixed: Vector) -> tuple[NDArray[np.int64], Vector]:
    """Return the best channels of those that are left, a block at most, and what each takes off in its turn."""
    picked, taken, open_ = list[int](), list[float](), np.zeros(len(fixed))
    for _ in range(min(_BLOCK, len(fixed))):
        total = sum((residual.gains for residual in residuals), fixed)
        best = int(np.argmax(total + open_))
        picked.append(best)
        taken.append(float(total[best]))
        open_[best] = -np.inf
        for residual in residuals:
            residual.keep(best)
    return np.array(picked, dtype=np.int64), np.array(taken)


def _take_slopes(values: Vector) -> Vector:
    """Return the slopes of the greatest convex function below values at 0, 1, 2 and so on."""
    corners: list[int] = []
    for index in range(len(values)):
        while len(corners) > 1 and _is_above(values, corners[-2], corners[-1], index):
            corners.pop()
        corners.append(index)
    lengths = np.diff(corners)
    return np.repeat(np.diff(values[corners]) / lengths, lengths)


def _is_above(values: Vector, left: int, middle: int, right: int) -> bool:
    """Return whether a point isn't below the line between two others."""
    rise = (values[right] - values[left]) / (right - left)
    return bool(values[middle] >= values[left] + rise * (middle - left))
