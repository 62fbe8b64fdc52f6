"""Bases: exact at full rank, optimal at every other, balanced, and finite on degenerate layers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_basisprune.planning.basis import (
    expand_mean,
    find_reduced_space,
    make_fisher_basis,
    make_pair,
    make_svd_basis,
)
from onnx_basisprune.planning.shrinkage import shrink
from onnx_basisprune.planning.triangle import Triangle
from onnx_basisprune.planning.types import Basis, ConvStatistics, ReducedSpace

Matrix = NDArray[np.float64]
# [C_out, K, rank of W]
SHAPES = {
    "wide": (5, 12, 5),
    "tall": (12, 5, 5),
    "square": (6, 6, 6),
    "singular wide": (6, 10, 3),
    "singular tall": (10, 6, 3),
    "one output": (1, 4, 1),
    "one input": (4, 1, 1),
}


class Layer:
    """A random Conv as a matrix, with outputs and gradients at a number of positions."""

    def __init__(self, seed: int, shape: tuple[int, int, int], positions: int = 200, images: int = 20) -> None:
        generator = np.random.default_rng(seed)
        c_out, k, rank = shape
        self.W = generator.standard_normal((c_out, rank)) @ generator.standard_normal((rank, k))
        self.b = generator.standard_normal(c_out)
        mixing = generator.standard_normal((k, k)) * np.geomspace(1, 0.1, k)
        self.x = generator.standard_normal((positions, k)) @ mixing + generator.standard_normal(k)
        self.g = generator.standard_normal((positions, c_out)) @ generator.standard_normal((c_out, c_out))
        self.images = images

    @property
    def y(self) -> Matrix:
        return self.x @ self.W.T + self.b

    def measure(self, space: ReducedSpace | None) -> ConvStatistics:
        t = self.y if space is None else (self.y - self.b) @ space.U
        g = self.g if space is None else self.g @ space.U
        return ConvStatistics(t.sum(axis=0), Triangle.of(t.T @ t), Triangle.of(g.T @ g), len(t), self.images)

    def make(self, kind: str, *, reduce: bool = True) -> Basis:
        space = find_reduced_space(self.W) if reduce else None
        moments = self.measure(space)
        center = expand_mean(moments, space, self.b)
        if kind == "svd":
            return make_svd_basis(self.W, center)
        return make_fisher_basis(self.W, moments, space, center)

    def find_loss(self, basis: Basis, kept: NDArray[np.int64], gamma: Matrix) -> float:
        """Return tr(Gamma E[(y-y')(y-y')ᵀ]) for the rewritten Conv."""
        filters, scaling, bias = make_pair(self.W, self.b, basis, kept)
        error = self.y - (self.x @ filters.T @ scaling.T + bias)
        return float(np.trace(gamma @ error.T @ error)) / len(error)


def trust(moments: ConvStatistics) -> Matrix:
    """Return Gamma as far as its samples are to be trusted, with its ridge."""
    gamma = shrink(moments.gamma, moments.positions)
    return gamma + 1e-3 * np.mean(np.diag(gamma)) * np.eye(len(gamma))


@pytest.mark.parametrize("kind", ["fisher", "svd"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_full_rank_computes_the_same(kind: str, shape: tuple[int, int, int]) -> None:
    layer = Layer(1, shape)
    basis = layer.make(kind)
    filters, scaling, bias = make_pair(layer.W, layer.b, basis, np.arange(len(basis.R)))
    assert len(basis.R) == shape[2]
    # float64: 1e-9 of the largest output.
    atol = 1e-9 * np.abs(layer.y).max()
    np.testing.assert_allclose(layer.x @ filters.T @ scaling.T + bias, layer.y, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", ["fisher", "svd"])
@pytest.mark.parametrize("shape", [(6, 9, 6), (9, 6, 6), (6, 9, 3)], ids=str)
@pytest.mark.parametrize("rank", [1, 2])
def test_what_is_removed_keeps_its_mean(kind: str, shape: tuple[int, int, int], rank: int) -> None:
    layer = Layer(2, shape)
    basis = layer.make(kind)
    filters, scaling, bias = make_pair(layer.W, layer.b, basis, np.arange(rank))
    pair_mean = (layer.x @ filters.T @ scaling.T + bias).mean(axis=0)
    # float64: 1e-9 of the largest output.
    np.testing.assert_allclose(pair_mean, layer.y.mean(axis=0), rtol=0, atol=1e-9 * np.abs(layer.y).max())


def test_literal_variant_keeps_the_bias() -> None:
    layer = Layer(3, (6, 9, 6))
    basis = make_svd_basis(layer.W, layer.b)
    filters, scaling, bias = make_pair(layer.W, layer.b, basis, np.arange(2))
    np.testing.assert_allclose(bias, layer.b, rtol=1e-12)
    U, D, Vt = np.linalg.svd(layer.W)
    # The best rank-2 approximation of W, float64.
    np.testing.assert_allclose(scaling @ filters, (U[:, :2] * D[:2]) @ Vt[:2], rtol=0, atol=1e-12 * D[0])


@pytest.mark.parametrize("kind", ["fisher", "svd"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_filters_and_columns_have_equal_norms(kind: str, shape: tuple[int, int, int]) -> None:
    layer = Layer(4, shape)
    basis = layer.make(kind)
    filters = np.linalg.norm(basis.R @ layer.W, axis=1)
    assert filters.min() > 0
    np.testing.assert_allclose(np.linalg.norm(basis.A, axis=0), filters, rtol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.sampled_from([(4, 9, 4), (7, 4, 4), (6, 6, 6)]),
    data=st.data(),
)
def test_fisher_is_optimal_at_every_rank(seed: int, shape: tuple[int, int, int], data: st.DataObject) -> None:
    layer = Layer(seed, shape)
    space = find_reduced_space(layer.W)
    moments = layer.measure(space)
    basis, svd = layer.make("fisher"), layer.make("svd")
    U = np.eye(shape[0]) if space is None else space.U
    gamma = trust(moments)
    values, vectors = np.linalg.eigh(gamma)
    H = (vectors * np.sqrt(values)) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(H @ moments.sigma @ H)[::-1]
    # Errors lie in the space of the weights, so Gamma there is all that counts.
    outer = U @ gamma @ U.T
    rank = data.draw(st.integers(1, len(basis.R)))
    kept = np.arange(rank)
    loss = layer.find_loss(basis, kept, outer)
    # float64, sums of squares of a few hundred positions: 1e-8 of the whole loss.
    slack = 1e-8 * eigenvalues.sum()
    assert loss == pytest.approx(eigenvalues[rank:].sum(), rel=0, abs=slack)
    assert loss <= layer.find_loss(svd, kept, outer) + slack
    # Any other projection of that rank, with the best bias.
    left, right = np.random.default_rng(seed).standard_normal((2, len(U), rank))
    rival = Basis(np.linalg.pinv(left) if seed % 2 else right.T, left, basis.center)
    assert loss <= layer.find_loss(rival, kept, outer) + slack


@pytest.mark.parametrize("positions", [4, 8, 16])
def test_few_samples_project_along_no_steep_directions(positions: int) -> None:
    basis = Layer(9, (64, 128, 64), positions).make("fisher")
    for rank in (1, 2, 3, 4, 8, 16, 32, 63):
        projection = basis.A[:, :rank] @ basis.R[:rank]
        np.testing.assert_allclose(projection @ projection, projection, rtol=0, atol=1e-9)
        # At a right angle it is 1. With Gamma taken at its word, up to 59: four such layers make it ten million.
        assert np.linalg.norm(projection, 2) < 1.5


def test_reduced_space_gives_the_full_space_result() -> None:
    layer = Layer(5, (12, 5, 5))
    reduced, full = layer.make("fisher"), layer.make("fisher", reduce=False)
    assert len(reduced.R) == len(full.R) == 5
    # In the full space the ridge adds a little of Gamma's invisible part: equal functions at full rank,
    # nearly equal losses below it.
    space = find_reduced_space(layer.W)
    assert space is not None
    gamma = space.U @ trust(layer.measure(space)) @ space.U.T
    total = layer.find_loss(full, np.arange(1), gamma)
    for rank in range(1, 6):
        kept = np.arange(rank)
        first, second = (layer.find_loss(basis, kept, gamma) for basis in (reduced, full))
        # The reduced one is optimal by construction; the full one's Gamma weights directions that y never takes.
        assert first <= second + 1e-9 * total
    assert_usable(full, layer.W, layer.b)


def test_reduced_space_equals_the_full_space_where_gamma_is_in_it() -> None:
    layer = Layer(6, (12, 5, 5), positions=20_000)
    space = find_reduced_space(layer.W)
    assert space is not None
    layer.g = layer.g @ space.U @ space.U.T
    reduced = layer.make("fisher")
    gamma = space.U @ layer.measure(space).gamma @ space.U.T
    full = layer.make("fisher", reduce=False)
    whole = layer.find_loss(reduced, np.arange(1), gamma)
    for rank in range(1, 6):
        losses = [layer.find_loss(basis, np.arange(rank), gamma) for basis in (reduced, full)]
        # The ridges differ (mean of 5 or of 12 diagonal entries): 1 % of the loss at rank 1.
        assert losses[0] == pytest.approx(losses[1], rel=0, abs=1e-2 * whole)


def test_wide_weights_have_no_reduced_space() -> None:
    assert find_reduced_space(np.ones((3, 3))) is None
    assert find_reduced_space(np.ones((3, 4))) is None


def test_reduced_space_leaves_out_singular_directions() -> None:
    layer = Layer(7, (10, 6, 3))
    space = find_reduced_space(layer.W)
    assert space is not None
    assert space.D.shape == (3,)
    assert (space.D > 0).all()
    np.testing.assert_allclose(space.U.T @ space.U, np.eye(3), atol=1e-12)


def assert_usable(basis: Basis, W: Matrix, b: Matrix) -> None:
    """The whole basis is finite and computes the same as W, to 1e-6 of its largest weight."""
    assert 1 <= len(basis.R) <= min(W.shape)
    for array in (basis.R, basis.A, basis.center):
        assert np.isfinite(array).all()
    filters, scaling, bias = make_pair(W, b, basis, np.arange(len(basis.R)))
    for array in (filters, scaling, bias):
        assert np.isfinite(array).all()
    np.testing.assert_allclose(scaling @ filters, W, rtol=0, atol=1e-6 * np.abs(W).max())


@pytest.mark.parametrize("shape", [(6, 9, 6), (9, 6, 6)], ids=["wide", "tall"])
@pytest.mark.parametrize("gamma", [0.0, 1.0])
@pytest.mark.parametrize("sigma", [0.0, 1.0])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize("gradient_scale", [1e-20, 1.0, 1e20])
def test_dead_layers_and_any_scale(
    shape: tuple[int, int, int], gamma: float, sigma: float, scale: float, gradient_scale: float
) -> None:
    layer = Layer(8, shape)
    layer.W *= scale
    layer.b *= scale
    layer.g *= gamma * gradient_scale
    layer.x *= sigma
    assert_usable(layer.make("fisher"), layer.W, layer.b)
    assert_usable(layer.make("svd"), layer.W, layer.b)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)], ids=["wide", "tall"])
@pytest.mark.parametrize("kind", ["fisher", "svd"])
def test_zero_weight(kind: str, shape: tuple[int, int]) -> None:
    layer = Layer(9, (*shape, 2))
    layer.W = np.zeros(shape)
    basis = layer.make(kind)
    assert len(basis.R) == 1
    assert_usable(basis, layer.W, layer.b)


@pytest.mark.parametrize("positions", [1, 3])
def test_fewer_positions_than_channels(positions: int) -> None:
    layer = Layer(10, (8, 12, 8), positions=positions, images=1)
    basis = layer.make("fisher")
    assert len(basis.R) == 8
    assert_usable(basis, layer.W, layer.b)


def test_constant_and_dead_channels_among_live_ones() -> None:
    layer = Layer(11, (8, 12, 8))
    layer.W[3] = 0.0
    layer.g[:, 5] = 0.0
    layer.W[6] *= 1e-12
    basis = layer.make("fisher")
    assert_usable(basis, layer.W, layer.b)


def test_components_come_in_the_order_of_their_eigenvalues() -> None:
    layer = Layer(12, (6, 9, 6))
    basis = layer.make("fisher")
    gamma = trust(layer.measure(None))
    single = [layer.find_loss(basis, np.delete(np.arange(6), i), gamma) for i in range(6)]
    assert single == sorted(single, reverse=True)
