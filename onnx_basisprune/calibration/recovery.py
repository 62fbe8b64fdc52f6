"""Recovery without labels: distil the original model into the compressed one (METHOD section 6), with hints.

The best values on a held-out slice of the calibration images are kept, and those given where training doesn't better
them. Where the held-out loss no longer falls, the course goes on with the lower rates of half of what is left: they end
it, and are where most is gained. A learning rate that makes things worse is noticed there, too: training starts again
from the beginning with a third of it, as long as that helps. Where time is short, it goes through the whole cycle in
fewer steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

import numpy as np
import torch

from onnx_basisprune.calibration.course import Arrays, Course
from onnx_basisprune.calibration.hints import Hint, HintLoss
from onnx_basisprune.calibration.learning_rate import choose_first_rate, compute_cycle
from onnx_basisprune.calibration.lessons import Lesson
from onnx_basisprune.calibration.loss import is_binary
from onnx_basisprune.calibration.optimizer import Optimizer
from onnx_basisprune.calibration.pace import Pace
from onnx_basisprune.calibration.precision import choose_precision, round_products
from onnx_basisprune.calibration.student import (
    Student,
    list_matrices,
    list_trained,
    make_student,
    prepare_executor,
)
from onnx_basisprune.calibration.teacher import Teacher
from onnx_basisprune.planning.types import Head, Operation, Program
from onnx_basisprune.results import RecoveryReport

_TEMPERATURE = 2.0
# VGG-16 ends as near with 1, ResNet-20 with 30.
_HINT_WEIGHT = 10.0
_ATTEMPTS = 4
_CHECKS = 20
# A check takes about as long as a step.
_LEAST_INTERVAL = 5


class Distillation:
    """One recovery of a student."""

    def __init__(
        self,
        teacher: Teacher,
        student: Program,
        classifier: Operation | None,
        scaling_weights: Mapping[str, str],
        hints: Sequence[Hint] = (),
    ) -> None:
        """Prepare the student's graph.

        Args:
            teacher: The original; it may teach one student after the other.
            student: The compressed graph, whose head has the same tensor names.
            classifier: The student's last operation with weights, trained whole.
            scaling_weights: Conv name → its scaling weight's initializer.
            hints: Tensors to compare beside the logits.
        """
        self._teacher, self._settings = teacher, teacher.settings
        self._executor = prepare_executor(student)
        # Scaling factors can't follow them: ResNet-20 ends where it does without, and takes half as long again.
        hints = hints if self._settings.mode == "full" else ()
        names = [hint.name for hint in hints]
        self._hints = HintLoss(hints, teacher.answer(teacher.held_out[0].x, names)[1] if names else {})
        self._precision = choose_precision(student)
        trained = list_trained(student, self._settings.mode, classifier)
        # In `full`, a scaling weight is trained whole, as every other is.
        self._scaling = tuple(sorted(scaling_weights.values())) if self._settings.mode == "scale" else ()
        self._free = trained - set(self._scaling)
        self._matrices = list_matrices(student) & self._free if self._settings.mode == "full" else frozenset()

    def recover(
        self,
        progress: Callable[[int], None] | None = None,
        restart: Callable[[], None] | None = None,
        deadline: float | None = None,
    ) -> tuple[Arrays, RecoveryReport]:
        """Train, and return the new values of the trained initializers with an account of the course.

        Args:
            progress: Called with the number of steps just done.
            restart: Called where training begins anew with a lower rate: no step is done then.
            deadline: By when to be done, of `time.perf_counter`: with fewer steps where need be. `None` for never.

        Returns:
            New arrays by initializer name (none where training made nothing better), and the report.
        """
        student = self._make_student()
        before = self._measure_held_out(student)
        if not student.changes:  # no bias, no pair, no classifier, or no weight in float32
            return {}, RecoveryReport(self._settings.mode, 0, False, before, before, ((0, before, 0.0),))
        course, pace = Course(before), Pace(deadline)
        rate, begin = choose_first_rate(self._settings.mode, self._settings.steps, before), perf_counter()
        while self._train(course, pace, rate, progress) and course.attempts < _ATTEMPTS and not pace.is_over():
            rate /= 3
            if restart is not None:
                restart()
        report = RecoveryReport(
            mode=self._settings.mode,
            steps=course.steps,
            kept=bool(course.arrays),
            held_out_loss_before=course.before,
            held_out_loss_after=course.best,
            curve=tuple(course.curve),
            learning_rate=rate,
            precision=self._precision,
            images_per_second=course.steps * self._teacher.lessons.batch_size / (perf_counter() - begin),
            hurried=pace.is_hurried,
        )
        return course.arrays, report

    def _make_student(self) -> Student:
        """Return the compressed graph as it was given."""
        return make_student(self._executor, self._free, self._scaling)

    def _train(self, course: Course, pace: Pace, highest_rate: float, progress: Callable[[int], None] | None) -> bool:
        """Take all steps from the beginning, or as long as they help; return whether a lower rate may do better."""
        student, steps = self._make_student(), self._settings.steps
        optimizer = Optimizer(student.changes, self._matrices)
        interval, since = max(_LEAST_INTERVAL, -(-steps // _CHECKS)), 0
        course.begin_attempt()
        # Where the cycle is, which a stall and haste bring on, and how many steps were taken.
        position, number = 0.0, 0
        stride = pace.choose_stride(steps)
        while position < steps:
            rate = highest_rate * compute_cycle(position, steps)
            self._take_step(student, optimizer, rate, number)
            position, number, since = position + stride, number + 1, since + 1
            if progress is not None:
                progress(1)
            if since == interval or position >= steps:
                verdict = course.check(student, since, self._measure_held_out(student), rate)
                pace.count(since)
                if verdict == "diverged":
                    return True
                if verdict == "stalled":
                    position += (steps - position) // 2
                stride, since = pace.choose_stride(steps - position), 0
        return course.end_attempt()

    def _take_step(self, student: Student, optimizer: Optimizer, rate: float, number: int) -> None:
        """Learn from a batch."""
        optimizer.clear_gradients()
        for lesson in self._teacher.lessons.draw(number, self._hints.names):
            with round_products(self._precision):
                loss = lesson.share * self._measure_loss(student, lesson)
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.take_step(rate)

    def _measure_loss(self, student: Student, lesson: Lesson) -> torch.Tensor:
        """Return the mean distillation loss of a lesson, and how far its hints are, where it has any."""
        teacher = self._teacher
        logits, found = teacher.run(student.executor, lesson.x, [*lesson.hints], student.compute_weights())
        loss = distillation_loss(logits, lesson.target, teacher.head) / len(lesson.x)
        return loss + _HINT_WEIGHT * self._hints.measure(found, lesson.hints) if lesson.hints else loss

    def _measure_held_out(self, student: Student) -> float:
        """Return the mean distillation loss over the held-out slice, in full precision, without augmentation."""
        with torch.no_grad():
            losses = [float(self._measure_loss(student, lesson)) for lesson in self._teacher.held_out]
        return float(np.average(losses, weights=[lesson.share for lesson in self._teacher.held_out]))


def distillation_loss(logits: torch.Tensor, target: torch.Tensor, head: Head) -> torch.Tensor:
    """Return `T² · KL(teacher_T ‖ student_T)`, summed over the batch (Hinton et al., arXiv 1503.02531).

    Args:
        logits: The student's, `[n, classes]`.
        target: The teacher's, the same shape.
        head: Softmax over the classes, or one Bernoulli per unit.
    """
    T = _TEMPERATURE
    if is_binary(head, logits.shape[1]):
        probabilities = torch.sigmoid(target / T)
        cross = torch.nn.functional.binary_cross_entropy_with_logits(logits / T, probabilities, reduction="sum")
        own = torch.nn.functional.binary_cross_entropy_with_logits(target / T, probabilities, reduction="sum")
        return T * T * (cross - own)
    return (
        T
        * T
        * torch.nn.functional.kl_div(
            torch.log_softmax(logits / T, dim=1),
            torch.log_softmax(target / T, dim=1),
            reduction="sum",
            log_target=True,
        )
    )
