"""The least-squares fit of a layer: by hand, against direct computation, and as an optimum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_basisprune.planning.refit import MapMoments, RidgePath, refit_map

Matrix = NDArray[np.float64]


def collect(z: Matrix, y: Matrix, groups: int = 1) -> MapMoments:
    """Moments of rows `z [n, g·q]` and `y [n, g·C]`."""
    z, y = (item.reshape(len(item), groups, -1) for item in (z, y))
    zz, yz = (np.einsum("ngi,ngj->gij", item, z) for item in (z, y))
    return MapMoments(z.sum(axis=0), y.sum(axis=0), zz, yz, len(z))


def split(z: Matrix, y: Matrix) -> list[MapMoments]:
    return [collect(z[start::2], y[start::2]) for start in (0, 1)]


def assert_same(one: MapMoments, other: MapMoments) -> None:
    assert one.positions == other.positions
    for name in ("z", "y", "zz", "yz"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-10, atol=1e-10)


# By hand: z of mean 0 and covariance diag(1, 4), y_1 = 3 z_1 + z_2 / 2 + 7, y_2 = 1 - z_2.
Z = np.array([[1.0, 2.0], [1.0, -2.0], [-1.0, 2.0], [-1.0, -2.0]])
Y = np.stack([3.0 * Z[:, 0] + 0.5 * Z[:, 1] + 7.0, 1.0 - Z[:, 1]], axis=1)


@pytest.mark.parametrize(
    ("ridge", "expected"),
    [
        (0.0, [[3.0, 0.5], [0.0, -1.0]]),
        # lambda = 2.5: residuals [[2, 2], [0, -8]] over variances 3.5 and 6.5, added to the identity.
        (1.0, [[1 + 2 / 3.5, 2 / 6.5], [0.0, 1 - 8 / 6.5]]),
        (np.inf, [[1.0, 0.0], [0.0, 1.0]]),
    ],
)
def test_two_channels_by_hand(ridge: float, expected: list[list[float]]) -> None:
    A, b = RidgePath(collect(Z, Y), np.eye(2)[None], has_bias=True).solve(ridge)
    np.testing.assert_allclose(A, [expected], rtol=0, atol=1e-9)
    np.testing.assert_allclose(b, [[7.0, 1.0]], rtol=0, atol=1e-9)


def test_a_factor_per_channel_by_hand() -> None:
    A, b = RidgePath(collect(Z, Y, groups=2), np.ones((2, 1, 1)), has_bias=True).solve(0.0)
    np.testing.assert_allclose(A, [[[3.0]], [[-1.0]]], rtol=0, atol=1e-9)
    np.testing.assert_allclose(b, [[7.0], [1.0]], rtol=0, atol=1e-9)


def test_without_a_bias_by_hand() -> None:
    """Of z = 1, 3 and y = 2, 4 through the origin: (2 + 12) / (1 + 9)."""
    moments = collect(np.array([[1.0], [3.0]]), np.array([[2.0], [4.0]]))
    A, b = RidgePath(moments, np.ones((1, 1, 1)), has_bias=False).solve(0.0)
    np.testing.assert_allclose(A, [[[1.4]]], rtol=0, atol=1e-9)
    assert b.tolist() == [[0.0]]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_moments_add_up_shift_and_are_projected(groups: int) -> None:
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((30, 4)), rng.standard_normal((30, 8))
    whole = collect(z, y, groups)
    assert_same(collect(z[:11], y[:11], groups) + collect(z[11:], y[11:], groups), whole)
    one, other = rng.standard_normal(4), rng.standard_normal(8)
    shifted = whole.shift(one.reshape(groups, -1), other.reshape(groups, -1))
    assert_same(shifted, collect(z + one, y + other, groups))
    assert_same(whole.shift(one[:1], other[:1]), collect(z + one[0], y + other[0], groups))
    P = rng.standard_normal((3, 8))
    assert_same(collect(z, y).project(P), collect(z, y @ P.T))


@pytest.mark.parametrize("has_bias", [False, True])
def test_groups_are_fitted_apart(*, has_bias: bool) -> None:
    rng = np.random.default_rng(8)
    z, y, A = rng.standard_normal((50, 6)) + 1, rng.standard_normal((50, 4)), rng.standard_normal((2, 2, 3))
    found, b = RidgePath(collect(z, y, groups=2), A, has_bias=has_bias).solve(0.1)
    for group in range(2):
        part = collect(z[:, 3 * group : 3 * group + 3], y[:, 2 * group : 2 * group + 2])
        expected, constant = RidgePath(part, A[group : group + 1], has_bias=has_bias).solve(0.1)
        np.testing.assert_allclose(found[group], expected[0], rtol=1e-10)
        np.testing.assert_allclose(b[group], constant[0], rtol=1e-10)


RIDGES = (1e-3, 0.1, 1.0, np.inf)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
def test_gains_are_those_of_the_rows_but_for_a_constant(groups: int, *, has_bias: bool) -> None:
    rng = np.random.default_rng(1)
    z, y = rng.standard_normal((50, 6)) + 1, rng.standard_normal((50, 3)) - 2
    other_z, other_y = 2 * rng.standard_normal((40, 6)) - 1, rng.standard_normal((40, 3))
    A = rng.standard_normal((groups, 3 // groups, 6 // groups))
    path = RidgePath(collect(z, y, groups), A, has_bias=has_bias)
    errors = []
    for fit, b in map(path.solve, RIDGES):
        mapped = np.einsum("gcq,ngq->ngc", fit, other_z.reshape(40, groups, -1)) + b
        errors.append(np.square(other_y - mapped.reshape(40, -1)).sum(axis=1).mean())
    gains = path.measure_gains(collect(other_z, other_y, groups), RIDGES)
    np.testing.assert_allclose(np.subtract(gains, gains[-1]), np.subtract(errors[-1], errors), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("rows", [200, 12])
def test_each_map_solves_its_equations(*, rows: int, has_bias: bool) -> None:
    """Also with fewer rows than inputs."""
    rng = np.random.default_rng(5)
    z, y, A = rng.standard_normal((rows, 20)) + 1, rng.standard_normal((rows, 7)), rng.standard_normal((7, 20))
    moments = collect(z, y)
    S_zz, S_yz = moments.center(has_bias=has_bias)
    for ridge in RIDGES[:-1]:
        level = ridge * np.trace(S_zz[0]) / 20 * np.eye(20)
        expected = A + np.linalg.solve(S_zz[0] + level, (S_yz[0] - A @ S_zz[0]).T).T
        found, _ = RidgePath(moments, A[None], has_bias=has_bias).solve(ridge)
        np.testing.assert_allclose(found, expected[None], rtol=0, atol=1e-8)


def test_what_is_not_finite_is_passed_on() -> None:
    """The guard over all layers sees it, and undoes the fit."""
    moments = MapMoments(np.zeros((1, 2)), np.zeros((1, 2)), np.full((1, 2, 2), np.nan), np.zeros((1, 2, 2)), 5)
    A, _ = refit_map(moments, moments, np.eye(2)[None], has_bias=True)
    assert np.isnan(A).any()


@given(seed=st.integers(0, 999), q=st.integers(1, 6), channels=st.integers(1, 6), has_bias=st.booleans())
@settings(max_examples=25, deadline=None)
def test_what_is_linear_is_found(seed: int, q: int, channels: int, *, has_bias: bool) -> None:
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((200, q)) + 1.0
    A, b = rng.standard_normal((channels, q)), rng.standard_normal(channels) * has_bias
    found, constant = refit_map(*split(z, z @ A.T + b), np.zeros((1, channels, q)), has_bias=has_bias)
    # The smallest ridge is 1e-4 of the variance; a sample of 200 rows has directions of a fifth of it.
    np.testing.assert_allclose(found[0], A, rtol=0, atol=5e-3)
    np.testing.assert_allclose(constant[0], b, rtol=0, atol=2e-2)


@pytest.mark.parametrize("has_bias", [False, True])
def test_what_is_right_stays(*, has_bias: bool) -> None:
    """Also in directions in which z never varies."""
    rng = np.random.default_rng(2)
    z = rng.standard_normal((60, 3)) @ rng.standard_normal((3, 8))
    A, b = rng.standard_normal((5, 8)), rng.standard_normal(5) * has_bias
    found, constant = refit_map(*split(z, z @ A.T + b), A[None], has_bias=has_bias)
    np.testing.assert_allclose(found[0], A, rtol=0, atol=1e-8)
    np.testing.assert_allclose(constant[0], b, rtol=0, atol=1e-8)


def test_no_other_map_is_nearer() -> None:
    rng = np.random.default_rng(3)
    z, y = rng.standard_normal((80, 4)), rng.standard_normal((80, 3))
    moments = collect(z, y)
    (A,), (b,) = RidgePath(moments, rng.standard_normal((1, 3, 4)), has_bias=True).solve(0.0)
    least = np.square(y - z @ A.T - b).sum()
    for _ in range(10):
        other_A, other_b = A + 0.1 * rng.standard_normal(A.shape), b + 0.1 * rng.standard_normal(3)
        assert np.square(y - z @ other_A.T - other_b).sum() > least


def test_few_rows_are_not_believed() -> None:
    """With fewer rows than inputs, y of mere noise around the map so far leaves it nearly as it was."""
    rng = np.random.default_rng(4)
    A, z = rng.standard_normal((10, 40)), rng.standard_normal((24, 40))
    y = z @ A.T + 3.0 * rng.standard_normal((24, 10))
    fresh = rng.standard_normal((2000, 40))

    def miss(found: Matrix) -> float:
        return float(np.square(fresh @ (found - A).T).mean())

    (found,), _ = refit_map(*split(z, y), A[None], has_bias=False)
    (greedy,), _ = RidgePath(collect(z, y), A[None], has_bias=False).solve(1e-4)
    assert miss(found) < 0.2 * miss(greedy)


def test_silent_inputs_change_nothing() -> None:
    moments = [MapMoments(np.zeros((1, 3)), np.ones((1, 2)), np.zeros((1, 3, 3)), np.zeros((1, 2, 3)), 5)] * 2
    A, b = refit_map(*moments, np.ones((1, 2, 3)), has_bias=True)
    assert (A == 1.0).all()
    np.testing.assert_allclose(b, 0.2, rtol=1e-12)
