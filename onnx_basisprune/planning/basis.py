"""Bases of a Conv's output (METHOD sections 1 and 2).

A Conv is the linear map `y = W x + b` with `W [C_out, K]`. A basis is a pair of maps with `y - b ≈ A R (y - b)`; the
rows of `R W` are its basis filters. Where `C_out > K`, `y - b` lives in the K dimensions of the thin SVD
`W = U D Vᵀ`, and all is done on `t = Uᵀ(y - b)`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.planning.shrinkage import shrink
from onnx_basisprune.planning.types import Basis, ConvStatistics, ReducedSpace

FloatMatrix = NDArray[np.float64]

_GAMMA_RIDGE = 1e-3
_SIGMA_RIDGE = 1e-6
_SMALLEST_FILTER = 1e-7
_SINGULAR = 1e-10


def find_reduced_space(W: FloatMatrix) -> ReducedSpace | None:
    """Return the thin SVD space of a weight with more outputs than inputs, `None` for other weights.

    Args:
        W: `[C_out, K]` float64.

    Returns:
        Its `U` and `D`, singular values of zero left out, where `C_out > K`.
    """
    if W.shape[0] <= W.shape[1]:
        return None
    U, D, _ = np.linalg.svd(W, full_matrices=False)
    keep = D > _SMALLEST_FILTER * max(D[0], np.finfo(np.float64).tiny)  # noqa: SIM300
    keep[0] = True
    return ReducedSpace(U[:, keep], D[keep])


def expand_mean(statistics: ConvStatistics, space: ReducedSpace | None, b: FloatMatrix) -> FloatMatrix:
    """Return `mu = E[y]`, `[C_out]`, from statistics that may be of the reduced space."""
    return statistics.mu if space is None else b + space.U @ statistics.mu


def make_svd_basis(W: FloatMatrix, center: FloatMatrix) -> Basis:
    """Return the published basis: `W = U D Vᵀ`, filters `D Vᵀ` mapped back by `U`, balanced.

    Args:
        W: `[C_out, K]` float64.
        center: `[C_out]`, the mean of `y` (or its bias, for the literal published variant).

    Source: Wong et al., arXiv 2108.02893, section 3.1; centring as in METHOD section 2.
    """
    U, _, _ = np.linalg.svd(W, full_matrices=False)
    return _finish_basis(U.T, U, W, center)


def make_fisher_basis(
    W: FloatMatrix, statistics: ConvStatistics, space: ReducedSpace | None, center: FloatMatrix
) -> Basis:
    """Return the data-aware basis that minimises `tr(Gamma E[(y-y')(y-y')ᵀ])` at every rank.

        H Hᵀ = Gamma' + 1e-3·mean(diag Gamma)·I      H = I where Gamma = 0
        Q, lambda = eigh(Hᵀ Sigma H), largest first
        R = Qᵀ Hᵀ      A = H⁻ᵀ Q

    H is the Cholesky factor: any root gives the same R and A, up to signs, as roots differ by a rotation that Q undoes.

    Gamma' is Gamma as far as its samples are to be trusted (`planning.shrinkage`). Where they are few, Gamma itself is
    all but singular, `A R` of a cut a projection along directions far from a right angle, and what other images have
    there is made larger by each layer: a RegNet of eleven blocks gave a million times its logits. Here every position
    counts as a sample: with images alone, ResNet-20 on 32 of them fell 15 points further at half its MACs.

    Args:
        W: `[C_out, K]` float64.
        statistics: Moments of `y`, or of `t` where `space` is given.
        space: The reduced space of a weight with `C_out > K`, else `None`.
        center: `[C_out]`, the mean of `y`.

    Returns:
        A basis of full rank (fewer components only where W itself is singular), largest eigenvalue first.
    """
    gram = W @ W.T if space is None else np.diag(space.D**2)
    H = _take_root(shrink(statistics.gamma, statistics.positions))
    Q = np.linalg.eigh(H.T @ _add_ridge(statistics.sigma, gram) @ H)[1][:, ::-1]
    R, A = (H @ Q).T, np.linalg.solve(H.T, Q)
    if space is not None:
        R, A = R @ space.U.T, space.U @ A
    return _finish_basis(R, A, W, center)


def _take_root(gamma: FloatMatrix) -> FloatMatrix:
    """Return the lower triangular root `H` of the ridged Gamma, the identity where Gamma is zero."""
    ridge = _GAMMA_RIDGE * float(np.mean(np.diag(gamma)))
    if not ridge > 0.0:
        return np.eye(len(gamma))
    while (root := _find_cholesky(gamma, ridge)) is None:
        ridge *= 10  # rounding has left less than nothing in some direction
    return root


def _add_ridge(sigma: FloatMatrix, gram: FloatMatrix) -> FloatMatrix:
    """Make a rank-deficient Sigma positive definite on the space of the weights."""
    if _find_cholesky(sigma, -_SINGULAR * float(np.linalg.norm(sigma))) is not None:
        return sigma
    trace = float(np.trace(gram))
    if trace <= 0.0:
        return sigma
    # Dead outputs (all-zero Sigma) still need an order: that of the weights.
    scale = float(np.trace(sigma)) / trace if np.trace(sigma) > 0.0 else 1.0
    return sigma + _SIGMA_RIDGE * scale * gram


def _find_cholesky(matrix: FloatMatrix, ridge: float) -> FloatMatrix | None:
    """Return the Cholesky factor of a symmetric matrix with a ridge, `None` where that isn't positive definite."""
    ridged = matrix.copy()
    ridged[np.diag_indices(len(ridged))] += ridge
    try:
        return np.linalg.cholesky(ridged)
    except np.linalg.LinAlgError:
        return None


def _finish_basis(R: FloatMatrix, A: FloatMatrix, W: FloatMatrix, center: FloatMatrix) -> Basis:
    """Drop empty components and balance the others.

    Each component's filter `R_i W` and column `A_i` get equal norms: unbalanced factors made the
    recovery diverge (METHOD section 2).
    """
    filters = np.linalg.norm(R @ W, axis=1)
    columns = np.linalg.norm(A, axis=0)
    keep = filters > _SMALLEST_FILTER * max(float(filters.max(initial=0.0)), np.finfo(np.float64).tiny)
    if not keep.any():
        keep[0] = True  # an all-zero weight: one component that does nothing
    balance = np.ones_like(filters)
    np.sqrt(columns / np.where(filters > 0.0, filters, 1.0), out=balance, where=(filters > 0.0) & (columns > 0.0))
    return Basis((balance[:, None] * R)[keep], (A / balance)[:, keep], center)


def make_pair(
    W: FloatMatrix, b: FloatMatrix, basis: Basis, kept: NDArray[np.int64], shift: FloatMatrix | None = None
) -> tuple[FloatMatrix, FloatMatrix, FloatMatrix]:
    """Return the weights of the rewritten Conv for the components that are kept.

    Args:
        W: `[C_out, K]`.
        b: `[C_out]`.
        basis: Its basis.
        kept: Indices of the components that stay, `[r]`.
        shift: `[C_out]`, a constant that is to be added to `W x`, for channels of `x` that were removed.

    Returns:
        Basis filters `R W [r, K]`, scaling weight `A [C_out, r]`, and bias `b' = mu - A R (mu - b)` of shape `[C_out]`:
        what is removed keeps its mean.
    """
    R, A = basis.R[kept].astype(np.float64), basis.A[:, kept].astype(np.float64)
    bias = basis.center - A @ (R @ (basis.center - b))
    return R @ W, A, bias if shift is None else bias + A @ (R @ shift)
