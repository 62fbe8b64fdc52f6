"""Regress removed channels on kept ones, so that what they told their consumers isn't lost (METHOD section 4).

    x_removed ≈ C (x_kept - m_kept) + m_removed = C x_kept + t        centred: t = m_removed - C m_kept
    x_removed ≈ C x_kept                                              through the origin: t = 0

A consumer `W_kept x_kept + W_removed x_removed` becomes `(W_kept + W_removed C) x_kept + W_removed t`. The regression
is pointwise, so it holds at every tap of a kernel; only the constant is wrong where taps read zero padding.

It takes the kept channels to be what they are in the original. In a deep cut they aren't: `planning.refit` starts from
these weights and fits what comes out of each layer to what really goes in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.planning.shrinkage import RIDGE
from onnx_basisprune.planning.triangle import Triangle

Matrix = NDArray[np.float64]

# Of all channels' uncentred moments: a variance below this is what rounding leaves of a constant, or of a channel that
# is all but silent beside those that go and can't speak for them.
_FLOOR = 1e-9


@dataclass(frozen=True)
class ReadStatistics:
    """Moments of a consumer's input, as sums that add up over shards.

    Attributes:
        total: `sum x`, `[C]` float64, over images and positions.
        outer: `sum x xᵀ`, `[C, C]`.
        positions: Number of summed positions.
        images: Number of images that they are of.
    """

    total: Matrix
    outer: Triangle
    positions: int
    images: int

    @property
    def mean(self) -> Matrix:
        """Mean of `x`, `[C]`."""
        return self.total / self.positions

    @property
    def second(self) -> Matrix:
        """Second moment of `x`, `[C, C]`."""
        return self.outer.average(self.positions)

    @property
    def covariance(self) -> Matrix:
        """Covariance of `x`, `[C, C]`."""
        covariance = self.second
        covariance -= np.outer(self.mean, self.mean)
        return covariance

    def select(self, order: NDArray[np.int64]) -> ReadStatistics:
        """Return those of some of the channels, in the order given."""
        outer = Triangle.of(self.outer.full()[np.ix_(order, order)])
        return ReadStatistics(self.total[order], outer, self.positions, self.images)


def regress_removed(
    statistics: ReadStatistics, kept: NDArray[np.bool_], weights: Matrix, padded: float, can_shift: bool
) -> tuple[Matrix, Matrix]:
    """Return what the kept channels say about the removed ones.

    Args:
        statistics: Moments of the consumer's input.
        kept: `[C]`, which channels stay.
        weights: `[C, C]`, `sum_taps Wᵀ W` of the consumer: how much errors of channels matter to it.
        padded: Share of the consumer's taps that read padding.
        can_shift: Whether the consumer can take a constant.

    Returns:
        `C [removed, kept]` and `t [removed]`, of the better of the centred regression and the one through the origin.
    """
    gone = ~kept
    second = statistics.second
    importance = weights[np.ix_(gone, gone)]
    floor = _FLOOR * float(np.mean(np.diag(second))) + np.finfo(np.float64).tiny
    origin, origin_error = _solve(second, kept, floor)
    nothing = np.zeros(int(gone.sum()))
    if not can_shift:
        return origin, nothing
    mean = statistics.mean
    centred, centred_error = _solve(statistics.covariance, kept, floor)
    shift = mean[gone] - centred @ mean[kept]
    with_shift = float(np.sum(importance * centred_error)) + padded * float(shift @ importance @ shift)
    return (centred, shift) if with_shift < float(np.sum(importance * origin_error)) else (origin, nothing)


def _solve(moments: Matrix, kept: NDArray[np.bool_], floor: float) -> tuple[Matrix, Matrix]:
    """Return `C = M_gk (M_kk + ridge)⁻¹` and the error's second moment.

    That is `M_gg - C M_kg - M_gk Cᵀ + C M_kk Cᵀ`, with `C (M_kk + ridge) Cᵀ = C M_kg`.
    """
    gone = ~kept
    inner = moments[np.ix_(kept, kept)]
    ridge = RIDGE * max(0.0, float(np.mean(np.diag(inner)))) + floor
    cross = moments[np.ix_(gone, kept)]
    inner[np.diag_indices(len(inner))] += ridge
    coefficients = np.linalg.solve(inner, cross.T).T
    error = moments[np.ix_(gone, gone)] - coefficients @ cross.T - ridge * (coefficients @ coefficients.T)
    return coefficients, error
