"""The rate that a course begins with, and the cycle."""

from __future__ import annotations

import math

import pytest

from onnx_basisprune.calibration.learning_rate import HIGHEST_RATE, choose_first_rate, compute_cycle


@pytest.mark.parametrize("loss", [0.0, 0.1, 10.0])
def test_factors_begin_with_the_highest_rate_unless_the_course_is_short(loss: float) -> None:
    assert choose_first_rate("scale", 300, loss) == choose_first_rate("scale", 100, loss) == HIGHEST_RATE
    assert choose_first_rate("scale", 10, loss) == pytest.approx(HIGHEST_RATE / 10)


def test_all_weights_begin_lower_the_longer_the_course_and_higher_the_further_away_they_are() -> None:
    assert choose_first_rate("full", 600, 0.064) == pytest.approx(0.4 * 8.4e-3)
    assert choose_first_rate("full", 2400, 0.064) == pytest.approx(0.2 * 8.4e-3)
    assert choose_first_rate("full", 600, 0.512) == pytest.approx(0.8 * 8.4e-3)
    assert choose_first_rate("full", 600, 1e6) == choose_first_rate("full", 600, math.inf) == 1.5e-2
    assert choose_first_rate("full", 10, 1.0) == choose_first_rate("scale", 10, 1.0)


@pytest.mark.parametrize("loss", [0.0, -1e-9])
def test_an_exact_student_is_not_moved(loss: float) -> None:
    """The divergence is never negative, but for rounding."""
    assert choose_first_rate("full", 300, loss) == 0.0


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
