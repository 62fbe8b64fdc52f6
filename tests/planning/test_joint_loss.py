"""Which channels are worth keeping, and what they lose together: against regressions done one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_basisprune.planning.joint_loss import JointLoss, rank_channels, spread_losses

Matrix = NDArray[np.float64]


def draw(count: int, rank: int, seed: int = 0) -> JointLoss:
    """A metric, and moments of channels that are mixtures of a few signals."""
    rng = np.random.default_rng(seed)
    signals, weights = rng.standard_normal((count, rank)), rng.standard_normal((count, count))
    moments = signals @ signals.T + 1e-3 * np.eye(count)
    return JointLoss(weights @ weights.T, moments, 1e-4 * float(np.mean(np.diag(moments))))


def regress(loss: JointLoss, kept: list[int]) -> float:
    """What is left unexplained once some channels are kept, by one ridge regression on all of them."""
    S = loss.moments
    inner = S[np.ix_(kept, kept)] + loss.ridge * np.eye(len(kept))
    residual = S - S[:, kept] @ np.linalg.solve(inner, S[kept]) if kept else S
    return float(np.sum(loss.metric * residual))


@pytest.mark.parametrize("rank", [1, 3, 6])
@pytest.mark.parametrize("readers", [1, 2])
def test_each_channel_kept_is_the_one_that_takes_most_off_the_loss(rank: int, readers: int) -> None:
    losses = [draw(6, rank, seed) for seed in range(readers)]
    fixed = np.linspace(0, 2, 6)
    order, gains = rank_channels(losses, fixed)
    kept: list[int] = []
    for channel, gain in zip(order.tolist(), gains.tolist(), strict=True):
        before = sum(regress(loss, kept) for loss in losses)
        takes_off = {
            other: fixed[other] + before - sum(regress(loss, [*kept, other]) for loss in losses)
            for other in set(range(6)) - set(kept)
        }
        # The ridge counts as unexplained here, and not where the gain is reckoned.
        assert takes_off[channel] == pytest.approx(max(takes_off.values()), rel=1e-2, abs=1e-2)
        assert gain == pytest.approx(takes_off[channel], rel=1e-2, abs=2e-2)
        kept.append(channel)


def test_channels_chosen_block_by_block_leave_what_a_regression_leaves() -> None:
    loss = draw(300, 40)
    order, gains = rank_channels([loss], np.zeros(300))
    assert sorted(order.tolist()) == list(range(300))
    whole = regress(loss, [])
    for kept in (1, 20, 32, 33, 100):
        left = whole - gains[:kept].sum()
        assert left == pytest.approx(regress(loss, order[:kept].tolist()), rel=1e-6, abs=1e-3 * whole)
    # Forty signals: what is chosen is far better than as many at random.
    at_random = np.random.default_rng(0).permutation(300)[:40].tolist()
    assert regress(loss, order[:40].tolist()) < 0.3 * regress(loss, at_random)


def test_a_copy_is_worth_nothing_once_the_other_is_kept() -> None:
    signals = np.array([[3.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    order, gains = rank_channels([JointLoss(np.eye(3), signals @ signals.T, 1e-4)], np.zeros(3))
    assert order.tolist() == [0, 2, 1]
    # 9 for itself and 9 for its copy.
    np.testing.assert_allclose(gains, [18.0, 1.0, 0.0], atol=0.01)


def test_what_no_regression_saves_orders_channels_without_readers() -> None:
    order, gains = rank_channels([], np.array([1.0, 3.0, 2.0]))
    assert order.tolist() == [1, 2, 0]
    np.testing.assert_array_equal(gains, [3.0, 2.0, 1.0])


def test_silent_channels_lose_nothing() -> None:
    _, gains = rank_channels([JointLoss(np.eye(5), np.zeros((5, 5)), 0.0)], np.zeros(5))
    np.testing.assert_array_equal(gains, 0.0)


def test_gains_that_descend_are_the_scores() -> None:
    gains = np.array([5.0, 2.0, 2.0, 1.0])
    np.testing.assert_allclose(spread_losses(gains), gains, rtol=1e-5)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.lists(st.floats(0, 1e3, allow_subnormal=False), min_size=1, max_size=30))
def test_scores_keep_the_order_and_stay_within_the_losses(gains: list[float]) -> None:
    found = spread_losses(np.array(gains))
    scale = 1e-5 * sum(gains) + 1e-12
    # Of those that go last-chosen first, none before its turn.
    assert (np.diff(found)[found[1:] > 1e-9] < 0).all()
    assert (np.diff(found) <= 0).all()
    lost, together = np.cumsum(found[::-1]), np.cumsum(gains[::-1])
    assert (lost <= together + scale).all()
    assert lost[-1] == pytest.approx(together[-1], rel=1e-5, abs=scale)
