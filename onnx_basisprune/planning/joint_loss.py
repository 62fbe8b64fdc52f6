"""What coupled channels lose together, as against one by one.

A gate's Taylor score tells what one channel loses while all others stay. Where many say nearly the same, each is worth
next to nothing, and so is the sum of their scores; but the last of them isn't. What a consumer `y = W x` loses once
only the channels K of x stay is what the regression on them leaves unexplained, in the loss's own metric:

    J(K) = tr(Gamma · sum_taps W_tap Sigma_x|K W_tapᵀ) = sum(M * Sigma_x|K)        M = sum_taps W_tapᵀ Gamma W_tap

with `Gamma` as in `ConvStatistics` and `Sigma_x|K` the Schur complement of the kept channels in `x`'s covariance. It
has the unit of the Taylor scores; spatial correlation is left out, as in the basis (METHOD section 2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

# Of the mean variance, as in the regression itself.
_RIDGE = 1e-4
# The counts at which the loss is computed grow by this factor; between them it is a straight line.
_GROWTH = 1.4


def measure_joint_loss(metric: Matrix, moments: Matrix) -> Vector:
    """Return what is lost where only the first `k` channels stay, for each k from 0 to C, `[C + 1]`.

    Args:
        metric: `M`, `[C, C]`, of channels in the order in which they stay longest.
        moments: Their covariance, or second moment where the consumer can't take a constant, `[C, C]`.
    """
    count, residual = len(moments), moments.astype(np.float64)
    ridge = _RIDGE * float(np.mean(np.diag(moments))) + np.finfo(np.float64).tiny
    stops = [0]
    losses = [float(np.sum(metric * residual))]
    while stops[-1] < count:
        begin = stops[-1]
        end = min(count, max(begin + 1, int(begin * _GROWTH)))
        pivot = residual[begin:end, begin:end] + ridge * np.eye(end - begin)
        residual = residual - residual[:, begin:end] @ np.linalg.solve(pivot, residual[begin:end])
        stops.append(end)
        losses.append(max(0.0, float(np.sum(metric * residual))))
    return np.interp(np.arange(count + 1), stops, losses)


def join_scores(scores: Vector, joint: Vector) -> Vector:
    """Return scores whose sums are what channels lose together.

    Args:
        scores: Taylor scores `[C]`, ascending: the first goes first.
        joint: What is lost where only the last `k` of them stay, for k from 0 to C, `[C + 1]`.

    Returns:
        `[C]`, ascending: the slopes of the convex minorant of the larger of both losses.
    """
    together = np.maximum(np.concatenate([[0.0], np.cumsum(scores)]), joint[::-1] - joint[-1])
    return _take_slopes(np.maximum.accumulate(together))


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
