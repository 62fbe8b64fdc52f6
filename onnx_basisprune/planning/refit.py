"""Re-fit a layer's output-side map to what the original computes, on what the compressed network really feeds it.

    z    what the map is applied to, in the compressed network     [q]
    y    what the original has there, of the channels that stay    [C]
    A    the map so far (a pair's scaling weight; the identity after a Conv that is whole)

    minimise  E|y - A' z - b'|² + lambda |A' - A|²
    A' = A + (S_yz - A S_zz) (S_zz + lambda I)⁻¹        b' = E[y] - A' E[z]

with the covariances `S_zz`, `S_yz`, or second moments where there is no bias (`b' = 0`). Rows of `A'` don't depend on
each other, so no weighting of channels (METHOD's `Gamma`) would change the fit. It is the asymmetric reconstruction of
Zhang et al. (arXiv 1505.06798, section 3.2) for a basis that is given, and a bias alone (`lambda = inf`) the correction
of Nagel et al. (arXiv 1906.04721). Of several `lambda` that one is taken whose fit errs least on images held back. A
depthwise or grouped Conv gets one factor per channel: all matrices are diagonals then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

# Relative to the mean variance of z.
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, np.inf)
_FLOOR = 1e-12


@dataclass(frozen=True)
class RefitLayer:
    """A layer of the compressed graph whose map is re-fitted.

    Attributes:
        name: Its node's name.
        form: `scaling` where `A` is the weight of a pair's scaling conv, `output` where `A` multiplies the whole weight
            from the left, `factors` for one factor per output channel.
        source: Tensor of the compressed graph that `A` is applied to; but for `scaling`, the layer's own output, bias
            included.
        target: Tensor of the original graph that holds `y`, or `y` plus what `skip` stands for.
        skip: Tensor of the compressed graph that is added to the layer's output, and that no layer behind this one
            changes; `""` for none. What is wrong in it, the layer makes up for.
        kept: `[C]` int64, which channels of `target` stay.
        axis: Channel axis of all three tensors.
        weight: The layer's weight.
        weight_axis: Its axis of output channels.
        bias: The initializer that holds its bias, `""` for none.
        bias_factor: What the bias is multiplied by (beta of a Gemm).
    """

    name: str
    form: Literal["scaling", "output", "factors"]
    source: str
    target: str
    skip: str
    kept: NDArray[np.int64]
    axis: int
    weight: str
    weight_axis: int
    bias: str
    bias_factor: float = 1.0


@dataclass(frozen=True)
class MapMoments:
    """Moments of a map's input `z` and its wanted output `y`, as sums that add up over images.

    Attributes:
        z: `sum z`, `[q]` float64, over images and positions.
        y: `sum y`, `[C]`.
        zz: `sum z zᵀ`, `[q, q]`; only its diagonal, `[C]`, for factors.
        yz: `sum y zᵀ`, `[C, q]`; only its diagonal, `[C]`, for factors.
        positions: Number of summed positions.
    """

    z: Matrix
    y: Matrix
    zz: Matrix
    yz: Matrix
    positions: int

    def __add__(self, other: MapMoments) -> MapMoments:
        """Merge the moments of disjoint sets of images."""
        return MapMoments(
            self.z + other.z,
            self.y + other.y,
            self.zz + other.zz,
            self.yz + other.yz,
            self.positions + other.positions,
        )

    def center(self, *, has_bias: bool) -> tuple[Matrix, Matrix]:
        """Return `S_zz` and `S_yz`: covariances, or second moments where there is no bias."""
        zz, yz = self.zz / self.positions, self.yz / self.positions
        if not has_bias:
            return zz, yz
        z, y = self.z / self.positions, self.y / self.positions
        return (zz - z * z, yz - y * z) if zz.ndim == 1 else (zz - np.outer(z, z), yz - np.outer(y, z))

    def shift(self, z: Matrix, y: Matrix) -> MapMoments:
        """Return the moments of `z + shift` and `y + shift`.

        Args:
            z: `[q]`.
            y: `[C]`.
        """
        n, product = self.positions, np.multiply if self.zz.ndim == 1 else np.outer
        return MapMoments(
            self.z + n * z,
            self.y + n * y,
            self.zz + product(self.z, z) + product(z, self.z) + n * product(z, z),
            self.yz + product(self.y, z) + product(y, self.z) + n * product(y, z),
            n,
        )


def refit_map(fitted: MapMoments, held_back: MapMoments, A: Matrix, *, has_bias: bool) -> tuple[Matrix, Matrix]:
    """Return the map that brings `z` nearest to `y`.

    Args:
        fitted: Moments of the images that layers are fitted on.
        held_back: Moments of other images, to choose the ridge by. No layer before may have been fitted on them: their
            inputs would look better than those of a stranger's images.
        A: The map so far, `[C, q]`; `[C]` for factors.
        has_bias: Whether the layer has a bias that can be set.

    Returns:
        `A'` in the shape of `A`, and `b' [C]`, zeros without a bias.
    """
    fits = [solve_map(fitted, A, ridge, has_bias=has_bias) for ridge in _RIDGES]
    return min(fits, key=lambda fit: measure_error(held_back, *fit, has_bias=has_bias))


def measure_error(moments: MapMoments, A: Matrix, b: Matrix, *, has_bias: bool) -> float:
    """Return `E|y - A z - b|² - c`, where `c` depends on `y` alone.

    Args:
        moments: Of `z` and `y`.
        A: `[C, q]`, or `[C]` for factors.
        b: `[C]`.
        has_bias: Whether errors are taken around the means (`c = tr S_yy`), or `b` is zero (`c = E|y|²`).
    """
    S_zz, S_yz = moments.center(has_bias=has_bias)
    product = A * S_zz if A.ndim == 1 else A @ S_zz
    error = float(np.sum((product - 2.0 * S_yz) * A))
    if has_bias:
        z = moments.z / moments.positions
        error += float(np.sum(np.square(moments.y / moments.positions - (A * z if A.ndim == 1 else A @ z) - b)))
    return error


def solve_map(moments: MapMoments, A: Matrix, ridge: float, *, has_bias: bool) -> tuple[Matrix, Matrix]:
    """Return `A'` and `b'` for one ridge, relative to the mean variance of `z`; of infinity, for the bias alone."""
    if np.isfinite(ridge):
        S_zz, S_yz = moments.center(has_bias=has_bias)
        if A.ndim == 1:
            level = (ridge + _FLOOR) * float(np.mean(S_zz)) + np.finfo(np.float64).tiny
            A = A + (S_yz - A * S_zz) / (np.maximum(S_zz, 0.0) + level)
        else:
            level = (ridge + _FLOOR) * float(np.mean(np.diag(S_zz))) + np.finfo(np.float64).tiny
            A = A + np.linalg.solve(S_zz + level * np.eye(len(S_zz)), (S_yz - A @ S_zz).T).T
    if not has_bias:
        return A, np.zeros(len(A))
    z = moments.z / moments.positions
    return A, moments.y / moments.positions - (A * z if A.ndim == 1 else A @ z)
