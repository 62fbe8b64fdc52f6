"""Re-fit a layer to what the original computes, on what the compressed network really feeds it.

    z    what the map is applied to, in the compressed network     [q]
    y    what the original has there, of the channels that stay    [C]
    A    the map so far

    minimise  E|y - A' z - b'|² + lambda |A' - A|²
    A' = A + (S_yz - A S_zz) (S_zz + lambda I)⁻¹        b' = E[y] - A' E[z]

with the covariances `S_zz`, `S_yz`, or second moments where there is no bias (`b' = 0`). Rows of `A'` don't depend on
each other, so no weighting of channels (METHOD's `Gamma`) would change the fit. It is the asymmetric reconstruction of
Zhang et al. (arXiv 1505.06798, section 3.2), and a bias alone (`lambda = inf`) the correction of Nagel et al. (arXiv
1906.04721). Of several `lambda` that one is taken whose fit errs least on images held back.

What a map is depends on how many unknowns the images can tell:

- a layer's weight itself, applied to its inputs at all taps of its window (He et al., arXiv 1707.06168, section 3.1);
- of a pair's basis filters, `y` is what the scaling conv `S` would have to be given: `S⁺ (y - b)`;
- where there are too many inputs, `A` multiplies the weight from its output side, and is the identity so far.

Groups of channels that don't mix have a map each, and all matrices a first axis of groups: those of a grouped Conv, or
single channels where its weights are multiplied from their output side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
        form: `weight` where `A` is the layer's weight, `output` where `A` multiplies it from the left.
        source: Tensor of the compressed graph that `A` is applied to: the layer's input for `weight`, else its own
            output, bias included.
        target: Tensor of the original graph that holds `y`, or `y` plus what `skip` stands for.
        skip: Tensor of the compressed graph that is added to the layer's output, and that no layer behind this one
            changes; `""` for none. What is wrong in it, the layer makes up for.
        kept: `[C]` int64, which channels of `target` stay.
        axis: Channel axis of all three tensors.
        weight: The layer's weight.
        weight_axis: Its axis of output channels.
        bias: The initializer that holds its bias, `""` for none.
        bias_factor: What the bias is multiplied by (beta of a Gemm).
        window: For the `weight` of a Conv the sizes of its kernel, and its attributes by ONNX name; `None` where a row
            of the input is all that a row of the output depends on.
        groups: How many maps there are, each of as many channels.
        through: The weight of the scaling conv behind a pair's basis filters, whose bias is `bias` then; `""` for all
            other layers.
        rows: Another axis of `target` on which channels pass through the layer, and which of them stay; `None` for
            none.
    """

    name: str
    form: Literal["weight", "output"]
    source: str
    target: str
    skip: str
    kept: NDArray[np.int64]
    axis: int
    weight: str
    weight_axis: int
    bias: str
    bias_factor: float = 1.0
    window: tuple[tuple[int, ...], Mapping[str, Any]] | None = None
    groups: int = 1
    through: str = ""
    rows: tuple[int, NDArray[np.int64]] | None = None


@dataclass(frozen=True)
class MapMoments:
    """Moments of maps' inputs `z` and their wanted outputs `y`, as sums that add up over images.

    Attributes:
        z: `sum z`, `[g, q]` float64, over images and positions.
        y: `sum y`, `[g, C]`.
        zz: `sum z zᵀ`, `[g, q, q]`.
        yz: `sum y zᵀ`, `[g, C, q]`.
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
        return zz - _outer(z, z), yz - _outer(y, z)

    def shift(self, z: Matrix, y: Matrix) -> MapMoments:
        """Return the moments of `z + shift` and `y + shift`.

        Args:
            z: `[g, q]`, or `[1]` for all.
            y: `[g, C]`, or `[1]` for all.
        """
        z, y, n = np.broadcast_to(z, self.z.shape), np.broadcast_to(y, self.y.shape), self.positions
        return MapMoments(
            self.z + n * z,
            self.y + n * y,
            self.zz + _outer(self.z, z) + _outer(z, self.z) + n * _outer(z, z),
            self.yz + _outer(self.y, z) + _outer(y, self.z) + n * _outer(y, z),
            n,
        )

    def project(self, P: Matrix) -> MapMoments:
        """Return the moments of `z` and `P y`, for `P [r, C]`."""
        return MapMoments(self.z, self.y @ P.T, self.zz, P @ self.yz, self.positions)


def refit_map(fitted: MapMoments, held_back: MapMoments, A: Matrix, *, has_bias: bool) -> tuple[Matrix, Matrix]:
    """Return the maps that bring `z` nearest to `y`.

    Args:
        fitted: Moments of the images that layers are fitted on.
        held_back: Moments of other images, to choose the ridge by. No layer before may have been fitted on them: their
            inputs would look better than those of a stranger's images.
        A: The maps so far, `[g, C, q]`.
        has_bias: Whether the layer has a bias that can be set.

    Returns:
        `A'` in the shape of `A`, and `b' [g, C]`, zeros without a bias.
    """
    path = RidgePath(fitted, A, has_bias=has_bias)
    gains = path.measure_gains(held_back, _RIDGES)
    # In this form a ridge whose map isn't finite is never the best of several.
    return path.solve(_RIDGES[int(np.argmax(np.nan_to_num(gains, nan=-np.inf, posinf=-np.inf)))])


class RidgePath:
    """The maps for every ridge, from one eigendecomposition each.

    With `S_zz = Q diag(w) Qᵀ` and `G = (S_yz - A S_zz) Q`, `A' = A + G diag(s) Qᵀ` with `s = 1 / (w + lambda)`. What it
    loses on other images is then quadratic in `s`, and costs no product of matrices per ridge.
    """

    def __init__(self, moments: MapMoments, A: Matrix, *, has_bias: bool) -> None:
        """Decompose.

        Args:
            moments: Of the images to fit on.
            A: The maps so far, `[g, C, q]`.
            has_bias: Whether the layer has a bias that can be set.
        """
        self._moments, self._A, self._has_bias = moments, A, has_bias
        S_zz, residual = self._center(moments)
        self._w, self._Q = _decompose(S_zz)
        self._G = residual @ self._Q

    def solve(self, ridge: float) -> tuple[Matrix, Matrix]:
        """Return `A'` and `b'` for one ridge, relative to the mean variance of `z`; of infinity, for the bias alone."""
        A = self._A + (self._G * self._weigh(ridge)[:, None]) @ _transpose(self._Q)
        if not self._has_bias:
            return A, np.zeros(A.shape[:2])
        z, y = self._moments.z / self._moments.positions, self._moments.y / self._moments.positions
        return A, y - _apply(A, z)

    def measure_gains(self, moments: MapMoments, ridges: Sequence[float]) -> list[float]:
        """Return by how much the maps bring `E|y - A' z - b'|²` down on other images, but for a constant.

        Args:
            moments: Of these images.
            ridges: One for each choice of maps.
        """
        S_zz, residual = self._center(moments)
        # E|Δ z|² and 2 E(y - A z)ᵀ Δ z, with Δ = G diag(s) Qᵀ, as a quadratic and a linear form in s.
        quadratic = (_transpose(self._G) @ self._G) * (_transpose(self._Q) @ S_zz @ self._Q)
        linear = np.sum(self._G * (residual @ self._Q), axis=1)
        gains = []
        for ridge in ridges:
            s = self._weigh(ridge)
            loss = float(np.sum(s * _apply(quadratic, s)))
            offset = self._measure_offset(s, moments) if self._has_bias else 0.0
            gains.append(2.0 * float(np.sum(linear * s)) - loss - offset)
        return gains

    def _measure_offset(self, s: Matrix, moments: MapMoments) -> float:
        """Return `|E[y] - A' E[z] - b'|²` over other images: how wrong the bias is there."""
        z = moments.z / moments.positions - self._moments.z / self._moments.positions
        y = moments.y / moments.positions - self._moments.y / self._moments.positions
        moved = _apply(self._A, z) + _apply(self._G, s * _apply(_transpose(self._Q), z))
        return float(np.sum(np.square(y - moved)))

    def _center(self, moments: MapMoments) -> tuple[Matrix, Matrix]:
        """Return `S_zz` and `S_yz - A S_zz` of some images."""
        S_zz, S_yz = moments.center(has_bias=self._has_bias)
        return S_zz, S_yz - self._A @ S_zz

    def _weigh(self, ridge: float) -> Matrix:
        """Return `s`, `[g, q]`: the inverse of each eigenvalue and the ridge together."""
        if not np.isfinite(ridge):
            return np.zeros_like(self._w)
        # The floor is one of second moments: the covariances of what hardly varies are rounding alone.
        squares = np.diagonal(self._moments.zz, axis1=1, axis2=2).mean(axis=1, keepdims=True)
        floor = _FLOOR * squares / self._moments.positions + np.finfo(np.float64).tiny
        level = ridge * np.maximum(self._w.mean(axis=1, keepdims=True), 0.0) + floor
        s: Matrix = 1.0 / (np.maximum(self._w, 0.0) + level)
        return s


def _decompose(S: Matrix) -> tuple[Matrix, Matrix]:
    """Return the eigenvalues and eigenvectors of symmetric matrices; NaN where any isn't finite."""
    try:
        w, Q = np.linalg.eigh(S)
    except np.linalg.LinAlgError:
        return np.full(S.shape[:2], np.nan), np.full(S.shape, np.nan)
    return w, Q


def _outer(x: Matrix, y: Matrix) -> Matrix:
    """Return `x yᵀ` for each group."""
    return x[:, :, None] * y[:, None, :]


def _transpose(A: Matrix) -> Matrix:
    """Return `Aᵀ` for each group."""
    return np.swapaxes(A, 1, 2)


def _apply(A: Matrix, z: Matrix) -> Matrix:
    """Return `A z` for each group."""
    product: Matrix = (A @ z[:, :, None])[:, :, 0]
    return product
