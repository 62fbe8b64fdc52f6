"""The rate that a course begins with, and the cycle."""

from __future__ import annotations

import pytest

from onnx_basisprune.calibration.learning_rate import HIGHEST_RATE, choose_first_rate, compute_cycle


def test_factors_begin_with_the_highest_rate_unless_the_course_is_short() -> None:
    assert choose_first_rate("scale", 300) == choose_first_rate("scale", 100) == HIGHEST_RATE
    assert choose_first_rate("scale", 10) == pytest.approx(HIGHEST_RATE / 10)


def test_all_weights_begin_lower_the_longer_the_course_is() -> None:
    assert choose_first_rate("full", 600) == pytest.approx(3e-3)
    assert choose_first_rate("full", 2400) == pytest.approx(1.5e-3)
    assert choose_first_rate("full", 10) == choose_first_rate("scale", 10)
    assert max(choose_first_rate("full", steps) for steps in range(1, 1000)) < HIGHEST_RATE


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
