"""What channels lose together: against the Schur complement, and what becomes of their scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_basisprune.planning.joint_loss import join_scores, measure_joint_loss

Matrix = NDArray[np.float64]


def draw(count: int, rank: int, seed: int = 0) -> tuple[Matrix, Matrix]:
    """A metric, and moments of channels that are mixtures of a few signals."""
    rng = np.random.default_rng(seed)
    signals, weights = rng.standard_normal((count, rank)), rng.standard_normal((count, count))
    return weights @ weights.T, signals @ signals.T + 1e-3 * np.eye(count)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_loss_is_what_the_kept_channels_leave_unexplained(rank: int) -> None:
    metric, moments = draw(6, rank)
    found = measure_joint_loss(metric, moments)
    ridge = 1e-4 * np.mean(np.diag(moments))
    for kept in range(6):  # up to here each count is computed
        inner = moments[:kept, :kept] + ridge * np.eye(kept)
        residual = moments - moments[:, :kept] @ np.linalg.solve(inner, moments[:kept])
        # The ridge is added block by block, which is not quite the same.
        np.testing.assert_allclose(found[kept], np.sum(metric * residual), rtol=2e-2)
    assert found[6] < 1e-2 * found[0]


def test_many_channels_are_computed_at_some_counts_only() -> None:
    metric, moments = draw(100, 4)
    found = measure_joint_loss(metric, moments)
    assert found.shape == (101,)
    assert (np.diff(found) <= 1e-9 * found[0]).all()
    # Four channels say what a hundred do.
    assert found[4] < 0.02 * found[0] < found[3]


def test_silent_channels_lose_nothing() -> None:
    np.testing.assert_array_equal(measure_joint_loss(np.eye(5), np.zeros((5, 5))), 0.0)


def test_independent_channels_keep_their_scores() -> None:
    scores = np.array([1.0, 2.0, 2.0, 5.0])
    joint = np.array([9.0, 4.0, 2.0, 1.0, 0.0])
    np.testing.assert_allclose(join_scores(scores, joint), scores, rtol=1e-12)


def test_the_last_of_redundant_channels_is_worth_what_all_are() -> None:
    joint = np.array([50.0, *np.zeros(10)])
    found = join_scores(np.full(10, 1e-3), joint)
    np.testing.assert_allclose(found[:9], 1e-3, rtol=1e-9)
    assert found[9] == pytest.approx(50.0 - 9e-3)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    st.lists(st.floats(0, 1e3, allow_subnormal=False), min_size=1, max_size=30),
    st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=31, max_size=31),
)
def test_joined_scores_ascend_and_stay_within_the_larger_loss(scores: list[float], joint: list[float]) -> None:
    ascending = np.sort(scores)
    lost = np.sort(joint)[::-1][-len(scores) - 1 :]
    found = join_scores(ascending, lost)
    alone, together = np.cumsum(ascending), np.maximum.accumulate((lost[::-1] - lost[-1])[1:])
    scale = 1e-9 * (alone[-1] + together[-1]) + 1e-12
    assert found.shape == ascending.shape
    assert (np.diff(found) >= -scale).all()
    # Never less than alone, which is convex itself; in all, what is lost where all go.
    assert (np.cumsum(found) >= alone - scale).all()
    assert (np.cumsum(found) <= np.maximum(alone, together) + scale).all()
    assert np.sum(found) == pytest.approx(max(alone[-1], together[-1]), rel=1e-9, abs=scale)
