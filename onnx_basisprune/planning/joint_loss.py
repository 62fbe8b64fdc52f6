"""What coupled channels lose together, as against one by one, and in which order they are worth keeping.

A gate's Taylor score tells what one channel loses while all others stay. Where many say nearly the same, each is worth
next to nothing, and so is the sum of their scores; but the last of them isn't. What a consumer of `x` loses once only
the channels K stay is what the regression on them leaves unexplained, in the loss's own metric:

    J(K) = sum(M * Sigma_x|K)        M = mean_n[sum_p h_p h_pᵀ],  h = dL/dx

with `Sigma_x|K` the Schur complement of the kept channels in `x`'s covariance. It has the unit of the Taylor scores,
but takes positions to be independent: how much they aren't, the Taylor scores tell.

The channels to keep are chosen one by one, each the one that takes most off J: subset selection by orthogonal least
squares (Chen, Cowan and Grant, 1991). With `R = Sigma_x|K` and `N = R M R`, keeping `c` takes off `N_cc / R_cc`, and
both change by matrices of rank one and two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

# So many channels, or this share of them, are chosen among so many times as many before all others are brought up to
# date.
_BLOCK, _BLOCK_SHARE, _CANDIDATES = 32, 1 / 24, 4
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
    rest, order, gains = np.arange(len(fixed)), [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    states = [_Residual.start(item) for item in losses]
    count = max(_BLOCK, round(_BLOCK_SHARE * len(fixed)))
    while len(rest):
        total = _sum_gains(states, fixed[rest])
        candidates = np.argsort(-total, kind="stable")[: _CANDIDATES * count]
        picked, taken = _choose([state.take(candidates) for state in states], fixed[rest][candidates], count)
        block = candidates[picked]
        states = [state.keep(block) for state in states]
        order.append(rest[block])
        gains.append(taken)
        rest = np.delete(rest, block)
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


@dataclass
class _Residual:
    """What is unexplained of channels that haven't been chosen.

    Attributes:
        R: `Sigma_x|K`, `[c, c]`.
        N: `R M R`, `[c, c]`.
        ridge: Of the regression.
    """

    R: Matrix
    N: Matrix
    ridge: float

    @classmethod
    def start(cls, loss: JointLoss) -> _Residual:
        """Return what it is before any channel is chosen."""
        R = loss.moments
        return cls(R, R @ loss.metric @ R, loss.ridge + np.finfo(np.float64).tiny)

    @property
    def gains(self) -> Vector:
        """What each channel would take off the loss, `[c]`."""
        return np.maximum(np.diag(self.N), 0.0) / (np.maximum(np.diag(self.R), 0.0) + self.ridge)

    def take(self, index: NDArray[np.int64]) -> _Residual:
        """Return that of some of the channels."""
        return _Residual(self.R[np.ix_(index, index)], self.N[np.ix_(index, index)], self.ridge)

    def keep(self, block: NDArray[np.int64]) -> _Residual:
        """Return that of all others, once some channels have been chosen."""
        rest = np.delete(np.arange(len(self.R)), block)
        inner = self.R[np.ix_(block, block)] + self.ridge * np.eye(len(block))
        crossed = self.R[np.ix_(block, rest)]
        Z = np.linalg.solve(inner, crossed)
        # N' = N - N_rb Z - Zᵀ N_br + Zᵀ N_bb Z, as N less a matrix and its transpose.
        mixed = (self.N[np.ix_(rest, block)] - 0.5 * Z.T @ self.N[np.ix_(block, block)]) @ Z
        R, N = self.R[np.ix_(rest, rest)], self.N[np.ix_(rest, rest)]
        R -= crossed.T @ Z
        N -= mixed
        N -= mixed.T
        return _Residual(R, N, self.ridge)

    def fix(self, channel: int) -> None:
        """Bring all up to date after one channel was chosen; what is left of itself stays in its place."""
        r, n = self.R[:, channel].copy(), self.N[:, channel].copy()
        z = r / (max(r[channel], 0.0) + self.ridge)
        mixed = np.outer(n, z)
        self.R -= np.outer(r, z)
        self.N += n[channel] * np.outer(z, z) - mixed - mixed.T


def _sum_gains(states: Sequence[_Residual], fixed: Vector) -> Vector:
    """Return what each channel would take off all losses."""
    return sum((state.gains for state in states), fixed)


def _choose(states: Sequence[_Residual], fixed: Vector, count: int) -> tuple[NDArray[np.int64], Vector]:
    """Return the best of some channels, `count` at most, one after the other, and what each takes off."""
    picked, taken, open_ = list[int](), list[float](), np.zeros(len(fixed))
    for _ in range(min(count, len(fixed))):
        total = _sum_gains(states, fixed)
        best = int(np.argmax(total + open_))
        picked.append(best)
        taken.append(float(total[best]))
        open_[best] = -np.inf
        for state in states:
            state.fix(best)
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
