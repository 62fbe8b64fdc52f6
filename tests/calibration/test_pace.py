"""A recovery's pace, on a clock that the tests turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_basisprune.calibration import pace as module
from onnx_basisprune.calibration.pace import Pace


class Course:
    """Steps that take a second each, and a check after every `interval` of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, deadline: float | None, seconds: float = 1.0) -> None:
        self.now, self.seconds = 0.0, seconds
        monkeypatch.setattr(module, "perf_counter", lambda: self.now)
        self.pace = Pace(deadline)

    def run(self, steps: int, interval: int = 5) -> int:
        """Return how many steps were taken to the end of the cycle."""
        position, number, stride = 0.0, 0, self.pace.choose_stride(steps)
        while position < steps:
            self.now += self.seconds
            position, number = position + stride, number + 1
            if number % interval == 0 or position >= steps:
                self.pace.count(interval)
                stride = self.pace.choose_stride(steps - position)
        return number


@pytest.mark.parametrize("deadline", [None, 1e6, 110.0])
def test_with_time_enough_each_step_counts_as_one(monkeypatch: pytest.MonkeyPatch, deadline: float | None) -> None:
    course = Course(monkeypatch, deadline)
    assert course.run(100) == 100
    assert not course.pace.is_hurried
    assert not course.pace.is_over()


@given(steps=st.integers(20, 500), share=st.floats(0.3, 0.95))
def test_with_too_little_time_it_goes_to_the_end_in_fewer_steps(steps: int, share: float) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        course = Course(monkeypatch, share * steps)
        taken = course.run(steps)
        # All of the time is used, but the reserve and what a check may be too early.
        assert 0.9 * share * steps - 6 <= taken == course.now <= share * steps + 1
        assert course.pace.is_hurried


def test_a_step_that_takes_longer_than_before_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(monkeypatch, 120.0)
    first = course.run(50)
    course.seconds = 2.0
    second = course.run(50)
    assert first == 50
    assert 25 <= second < 50
    assert course.now <= 121.0
    assert course.pace.is_over() == (course.now >= 120.0 * 0.97)


def test_when_time_is_over_the_end_is_a_step_away(monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(monkeypatch, 3.0)
    assert course.run(100) == 6  # five to see how long they take
    assert course.pace.is_over()
    assert course.run(100) == 1
