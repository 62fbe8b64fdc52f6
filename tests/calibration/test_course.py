"""What a course keeps, and when it ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from onnx_basisprune.calibration.course import Course
from onnx_basisprune.calibration.student import Student, make_student, prepare_executor
from onnx_basisprune.planning.types import Operation, Program, TensorSpec


def build_student() -> Student:
    conv = Operation("y", "Conv", "", 17, ("x", "w"), ("y",), {})
    weights = {"w": np.ones((1, 1, 1, 1), dtype=np.float32)}
    program = Program((conv,), weights, (TensorSpec("x", "float32", (None, 1, 1, 1)),), ())
    return make_student(prepare_executor(program), {"w"}, ())


def run(course: Course, losses: list[float], student: Student | None = None) -> list[str]:
    """Check losses until the course ends; the weight at each check is 1 + its number."""
    student, verdicts = student or build_student(), []
    course.begin_attempt()
    for number, loss in enumerate(losses, 1):
        with torch.no_grad():
            student.changes["w"].fill_(float(number))
        verdicts.append(course.check(student, 10, loss, 0.1))
        if verdicts[-1] != "go on":
            break
    return verdicts


def test_keeps_the_weights_of_the_lowest_loss() -> None:
    course = Course(1.0)
    assert run(course, [0.9, 0.5, 0.7, 0.6]) == ["go on"] * 4
    assert course.best == 0.5
    assert course.arrays["w"].item() == pytest.approx(3.0)
    assert course.curve == [(0, 1.0, 0.0), (10, 0.9, 0.1), (20, 0.5, 0.1), (30, 0.7, 0.1), (40, 0.6, 0.1)]


def test_keeps_nothing_that_is_no_better() -> None:
    course = Course(1.0)
    run(course, [1.0, 1.2, 1.1])
    assert (course.best, course.arrays) == (1.0, {})


@pytest.mark.parametrize("loss", [math.nan, math.inf, 2.1])
def test_gives_a_rate_up(loss: float) -> None:
    course = Course(1.0)
    assert run(course, [1.9, loss, 0.1])[-1] == "diverged"
    assert (course.attempts, course.steps, course.best) == (1, 20, 1.0)
    run(course, [0.5])
    assert (course.attempts, course.steps, course.best) == (2, 30, 0.5)
    assert [step for step, _, _ in course.curve] == [0, 10, 20, 30]


def test_stalls_where_the_loss_stays() -> None:
    assert run(Course(1.0), [0.5] * 30) == ["go on"] * 9 + ["stalled"]


def test_stalls_where_the_loss_rises_again() -> None:
    losses = [0.5 - 0.02 * n for n in range(10)] + [0.35 + 0.01 * n for n in range(20)]
    verdicts = run(Course(1.0), losses)
    assert verdicts[-1] == "stalled"
    assert 10 < len(verdicts) <= 20


def test_a_stall_counts_from_anew() -> None:
    course, student = Course(1.0), build_student()
    assert run(course, [0.5] * 10, student)[-1] == "stalled"
    assert [course.check(student, 10, 0.5, 0.01) for _ in range(10)] == ["go on"] * 9 + ["stalled"]


def test_goes_on_through_a_rise_that_falls_again() -> None:
    # High learning rates: up at first, down when they fall.
    losses = [1.5, 1.9, 1.8, 1.6, 1.5, *(1.4 * 0.95**n for n in range(15))]
    assert run(Course(1.0), losses) == ["go on"] * 20


def test_each_attempt_has_its_own_patience() -> None:
    course, student = Course(1.0), build_student()
    assert run(course, [0.5] * 9, student) == ["go on"] * 9
    assert run(course, [0.5] * 9, student) == ["go on"] * 9


def test_a_student_that_is_exact_stalls() -> None:
    assert run(Course(0.0), [0.0] * 30)[-1] in ("go on", "stalled")
    assert run(Course(0.0), [1e-9])[-1] == "diverged"


def test_a_lower_rate_is_tried_as_long_as_the_end_comes_nearer() -> None:
    course = Course(1.0)
    ends = []
    for end in (1.9, 1.4, 1.5):
        run(course, [1.2, end])
        ends.append(course.end_attempt())
    assert ends == [True, True, False]


def test_a_rate_that_was_given_up_says_nothing_of_a_lower_one() -> None:
    course = Course(1.0)
    assert run(course, [1.9, math.nan])[-1] == "diverged"
    run(course, [1.5])
    assert course.end_attempt()


def test_no_lower_rate_is_tried_once_something_is_better() -> None:
    course = Course(1.0)
    run(course, [0.9, 1.5])
    assert not course.end_attempt()
