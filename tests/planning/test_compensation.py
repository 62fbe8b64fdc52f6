"""What kept channels say about removed ones: recovery, constants, padding, degenerate channels."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_basisprune.planning.compensation import ReadStatistics, regress_removed
from onnx_basisprune.planning.triangle import Triangle

Matrix = NDArray[np.float64]
KEPT = np.array([True, False, True, True, False, True])


def gather(x: Matrix) -> ReadStatistics:
    return ReadStatistics(x.sum(axis=0), Triangle.of(x.T @ x), len(x), 1_000_000)


def draw(mean: float, seed: int = 0, count: int = 500) -> Matrix:
    """Four kept channels of unequal scale, then two that are linear in them and of the same mean."""
    rng = np.random.default_rng(seed)
    x = np.zeros((count, 6))
    x[:, KEPT] = mean + rng.standard_normal((count, 4)) * [1.0, 2.0, 0.5, 1.5]
    return x


def test_exact_recovery_through_the_origin() -> None:
    rng = np.random.default_rng(1)
    mixture = rng.standard_normal((2, 4))
    x = draw(0.0)
    x[:, ~KEPT] = x[:, KEPT] @ mixture.T
    C, t = regress_removed(gather(x), KEPT, np.eye(6), 0.0, can_shift=False)
    # A ridge of 1e-4 of the mean variance.
    np.testing.assert_allclose(C, mixture, rtol=0, atol=2e-3)
    np.testing.assert_array_equal(t, 0.0)


def test_exact_recovery_with_a_constant() -> None:
    mixture = np.random.default_rng(1).standard_normal((2, 4))
    x = draw(3.0)
    x[:, ~KEPT] = x[:, KEPT] @ mixture.T + [5.0, -7.0]
    C, t = regress_removed(gather(x), KEPT, np.eye(6), 0.0, can_shift=True)
    np.testing.assert_allclose(C, mixture, rtol=0, atol=2e-3)
    # What the ridge takes from C, times means of 3, is in t.
    np.testing.assert_allclose(t, [5.0, -7.0], rtol=0, atol=2e-2)
    # What is lost on average is nothing, exactly.
    np.testing.assert_allclose(x[:, KEPT].mean(axis=0) @ C.T + t, x[:, ~KEPT].mean(axis=0), rtol=1e-12)


def test_without_a_place_for_it_no_constant() -> None:
    x = draw(3.0)
    x[:, ~KEPT] = [5.0, -7.0]
    C, t = regress_removed(gather(x), KEPT, np.eye(6), 0.0, can_shift=False)
    assert not t.any()
    expected = np.linalg.lstsq(x[:, KEPT], x[:, ~KEPT], rcond=None)[0].T
    np.testing.assert_allclose(C, expected, rtol=0, atol=1e-2)  # the ridge


def test_least_squares_where_recovery_cannot_be_exact() -> None:
    rng = np.random.default_rng(2)
    x = draw(1.0)
    x[:, ~KEPT] = rng.standard_normal((len(x), 2)) + 0.5 * x[:, [0]] + 4.0
    C, t = regress_removed(gather(x), KEPT, np.eye(6), 0.0, can_shift=True)
    design = np.c_[x[:, KEPT], np.ones(len(x))]
    expected = np.linalg.lstsq(design, x[:, ~KEPT], rcond=None)[0].T
    np.testing.assert_allclose(C, expected[:, :-1], rtol=0, atol=1e-3)
    np.testing.assert_allclose(t, expected[:, -1], rtol=0, atol=5e-3)


def measure_error(x: Matrix, C: Matrix, t: Matrix, importance: Matrix, padded: float) -> float:
    """Mean squared error at a consumer, and what the constant does to the share of taps that read zeros."""
    inner = x[:, ~KEPT] - x[:, KEPT] @ C.T - t
    return float(np.einsum("ni,ij,nj->", inner, importance, inner) / len(x) + padded * t @ importance @ t)


@pytest.mark.parametrize("mean", [0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("padded", [0.0, 0.05, 0.3, 0.9])
def test_the_better_of_both_is_chosen(mean: float, padded: float) -> None:
    rng = np.random.default_rng(3)
    x = draw(mean)
    x[:, ~KEPT] = x[:, KEPT] @ rng.standard_normal((4, 2)) * 0.3 + 0.2 * rng.standard_normal((len(x), 2)) + 0.7 * mean
    root = rng.standard_normal((6, 6))
    weights = root @ root.T
    importance = weights[np.ix_(~KEPT, ~KEPT)]
    origin = regress_removed(gather(x), KEPT, weights, padded, can_shift=False)
    centred = regress_removed(gather(x), KEPT, weights, 0.0, can_shift=True)
    chosen = regress_removed(gather(x), KEPT, weights, padded, can_shift=True)
    errors = [measure_error(x, *item, importance, padded) for item in (origin, centred, chosen)]
    assert errors[2] == pytest.approx(min(errors[:2]), rel=1e-9)


def test_padding_decides_for_the_origin() -> None:
    """Constant channels beside varying ones: a constant tells them exactly, but wrongly at every padded tap."""
    x = draw(1.0)
    x[:, ~KEPT] = 1.0
    _, at_no_border = regress_removed(gather(x), KEPT, np.eye(6), 0.0, can_shift=True)
    _, at_borders = regress_removed(gather(x), KEPT, np.eye(6), 0.99, can_shift=True)
    np.testing.assert_allclose(at_no_border, 1.0, rtol=0, atol=1e-9)
    assert not at_borders.any()


@pytest.mark.parametrize("case", ["dead kept", "all kept dead", "constant kept", "twins kept", "all dead", "tiny"])
@pytest.mark.parametrize("can_shift", [False, True])
def test_degenerate_channels_are_harmless(case: str, *, can_shift: bool) -> None:
    x = draw(1.0)
    x[:, ~KEPT] = x[:, [0]]
    if case == "dead kept":
        x[:, 2] = 0.0
    elif case == "all kept dead":
        x[:, KEPT] = 0.0
    elif case == "constant kept":
        x[:, KEPT] = [1.0, 2.0, 3.0, 4.0]
    elif case == "twins kept":
        x[:, 2] = x[:, 3]
    elif case == "all dead":
        x[:] = 0.0
    else:
        x *= 1e-150
    # Warnings are errors here: no division by zero, no overflow.
    C, t = regress_removed(gather(x), KEPT, np.eye(6), 0.1, can_shift=can_shift)
    assert C.shape == (2, 4)
    assert t.shape == (2,)
    assert np.isfinite(C).all()
    assert np.isfinite(t).all()
    error = np.square(x[:, ~KEPT] - x[:, KEPT] @ C.T - t).mean()
    # Never worse than removing them without a word; by the ridge at most.
    assert error <= np.square(x[:, ~KEPT]).mean() * (1 + 1e-6)
    # Nothing is blown up to fit noise.
    assert np.abs(C).max() < 10.0


def test_one_image_is_enough_to_solve() -> None:
    x = draw(1.0, count=1)
    x[:, ~KEPT] = 2.0
    C, t = regress_removed(gather(x), KEPT, np.eye(6), 0.0, can_shift=True)
    np.testing.assert_allclose(x[:, KEPT] @ C.T + t, 2.0, rtol=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-6])
@pytest.mark.parametrize("can_shift", [False, True])
def test_channels_that_are_all_but_silent_do_not_speak_for_loud_ones(scale: float, *, can_shift: bool) -> None:
    """Behind a closed gate: correlated with what goes, but weights of 1 / scale would blow up any difference."""
    x = draw(0.0, seed=3)
    x[:, ~KEPT] = 1e3 * x[:, KEPT][:, :2]
    x[:, KEPT] *= scale
    C, t = regress_removed(gather(x), KEPT, np.eye(6), 0.0, can_shift=can_shift)
    assert np.abs(C).max() < 1e5
    assert np.abs(t).max() <= 1e5 * scale + 1e3
