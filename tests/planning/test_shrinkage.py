"""Shrunken second moments err less than those of few samples do, and leave those of many alone."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_basisprune.planning.shrinkage import find_ridge, find_shrinkage, shrink


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The true covariance of twenty channels, and that of so many samples."""
    rng = np.random.default_rng(seed)
    scale = np.linspace(0.2, 3.0, 20)
    x = rng.standard_normal((count, 20)) * scale
    return np.diag(scale**2), x.T @ x / count


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [5, 20, 100])
def test_shrunken_moments_err_less(count: int, seed: int) -> None:
    truth, sample = draw(count, seed)
    assert np.linalg.norm(shrink(sample, count) - truth) < np.linalg.norm(sample - truth)


def test_the_fewer_the_images_the_more_is_shrunk() -> None:
    _, sample = draw(50, 0)
    shares = [find_shrinkage(sample, count) for count in (10, 100, 1000, 10**6)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 1e-4
    assert np.trace(shrink(sample, 10)) == pytest.approx(np.trace(sample))


def test_what_is_a_multiple_of_the_identity_already_stays() -> None:
    assert find_shrinkage(2 * np.eye(4), 10) == 1.0
    np.testing.assert_allclose(shrink(2 * np.eye(4), 10), 2 * np.eye(4))


def test_ridges_are_of_the_variances() -> None:
    _, sample = draw(50, 1)
    variance = np.mean(np.diag(sample))
    assert find_ridge(sample, 10**9) == pytest.approx(1e-4 * variance)
    assert find_ridge(sample, 1) == pytest.approx(variance)
    assert find_ridge(100 * sample, 30) == pytest.approx(100 * find_ridge(sample, 30))
    assert find_ridge(np.zeros((3, 3)), 10) == 0.0
