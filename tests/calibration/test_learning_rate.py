"""The ladder of learning rates, what trials may cost, and the cycle."""

from __future__ import annotations

import math

import pytest

from onnx_basisprune.calibration.learning_rate import compute_cycle, count_trial_steps, find_learning_rate


@pytest.mark.parametrize("best", [3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2])
def test_finds_three_times_the_best_rate_of_the_ladder(best: float) -> None:
    assert find_learning_rate(lambda rate: abs(math.log(rate / best))) == pytest.approx(3 * best)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e9])
def test_climbs_no_further_where_a_rate_fails(bad: float) -> None:
    tried: list[float] = []

    def measure(rate: float) -> float:
        tried.append(rate)
        return bad if rate > 2e-3 else 1.0 - rate

    assert find_learning_rate(measure) == pytest.approx(3e-3)
    assert tried == [1e-3, 3e-3, 3e-4]


@pytest.mark.parametrize("best", [1e-6, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1.0])
def test_takes_no_more_trials_than_are_paid_for(best: float) -> None:
    tried: list[float] = []

    def measure(rate: float) -> float:
        tried.append(rate)
        return abs(math.log(rate / best))

    find_learning_rate(measure)
    assert len(set(tried)) == len(tried) <= 5


def test_takes_the_lowest_rate_where_all_fail() -> None:
    assert find_learning_rate(lambda _: math.nan) == pytest.approx(9e-5)


@pytest.mark.parametrize("steps", [1, 10, 40, 100, 300, 5000])
@pytest.mark.parametrize("trial_images", [16, 64, 128])
def test_trials_cost_at_most_a_tenth(steps: int, trial_images: int) -> None:
    found = count_trial_steps(steps * 128, trial_images)
    assert found == 0 or 3 <= found <= 5
    assert 5 * found * trial_images <= 0.1 * steps * 128


def test_the_default_course_has_trials() -> None:
    assert count_trial_steps(300 * 128, 64) == 5


@pytest.mark.parametrize("steps", [1, 2, 3, 9, 10, 11, 300])
def test_the_cycle_rises_once_and_falls_to_almost_nothing(steps: int) -> None:
    rates = [compute_cycle(step, steps) for step in range(steps)]
    peak = rates.index(max(rates))
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert peak <= max(0.1 * steps, 1)
    if steps >= 9:
        assert max(rates) > 0.9
        assert rates[-1] < 0.05
