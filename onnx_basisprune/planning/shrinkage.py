"""How far second moments of few samples are to be trusted.

Channels that are measured on few images seem to tell more about each other than they do: what is regressed on them fits
these images, and no others. The oracle approximating shrinkage of Chen, Wiesel, Eldar and Hero (arXiv 0907.4698, eq.
23) mixes a matrix with a multiple of the identity, in the share that lets it err least for Gaussian samples:

    S' = (1 - rho) S + rho · mean(diag S) · I
    rho = ((1 - 2/C) tr S² + tr² S) / ((n + 1 - 2/C) (tr S² - tr² S / C))

What the positions of one image show of its channels isn't independent: `n` counts images for them. For a basis' Gamma
it counts positions (`planning.basis`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

# The least ridge of a regression of channels, of the mean variance.
RIDGE = 1e-4
# A share of 1 would be a ridge without end.
_MOST = 0.5


def find_shrinkage(moments: Matrix, samples: int) -> float:
    """Return `rho`, from 0 to 1, for second moments `[C, C]` of so many independent samples."""
    size = len(moments)
    trace, squares = float(np.trace(moments)), float(np.sum(moments * moments))
    spread = squares - trace**2 / size
    if not spread > 0:
        return 1.0
    return min(1.0, ((1 - 2 / size) * squares + trace**2) / ((samples + 1 - 2 / size) * spread))


def find_ridge(covariance: Matrix, samples: int) -> float:
    """Return the ridge, in the unit of the variances, that a regression within `S'` comes to."""
    rho = min(find_shrinkage(covariance, samples), _MOST)
    return max(RIDGE, rho / (1 - rho)) * max(0.0, float(np.mean(np.diag(covariance))))


def shrink(moments: Matrix, samples: int) -> Matrix:
    """Return `S'`, `[C, C]`."""
    rho, size = find_shrinkage(moments, samples), len(moments)
    shrunk = (1 - rho) * moments
    shrunk[np.diag_indices(size)] += rho * float(np.trace(moments)) / size
    return shrunk
