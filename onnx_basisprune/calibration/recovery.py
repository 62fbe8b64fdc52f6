"""Recovery without labels: distil the original model into the compressed one (METHOD section 6).

The best values on a held-out slice of the calibration images are kept, and those given where training doesn't better
them. Training ends early when the held-out loss no longer falls. A learning rate that makes things worse is noticed
there, too: training starts again from the beginning with a third of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import numpy as np
import torch

from onnx_basisprune.calibration.augment import Augmentation
from onnx_basisprune.calibration.batching import fill_batch
from onnx_basisprune.calibration.course import Arrays, Course
from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.calibration.gradient_pass import to_channels_last
from onnx_basisprune.calibration.image_store import ImageStore, LoadImages
from onnx_basisprune.calibration.learning_rate import choose_first_rate, compute_cycle
from onnx_basisprune.calibration.lessons import Lesson, Lessons, split_indices
from onnx_basisprune.calibration.loss import flatten_logits, is_binary
from onnx_basisprune.calibration.precision import choose_precision, find_fastest_precision, round_products
from onnx_basisprune.calibration.student import RecoveryMode, Student, list_trained, make_student, prepare_executor
from onnx_basisprune.planning.types import Head, Operation, Program
from onnx_basisprune.results import RecoveryReport

_TEMPERATURE = 2.0
_ATTEMPTS = 4
_CHECKS = 20
# A check takes about as long as a step.
_LEAST_INTERVAL = 5
_HELD_OUT_FRACTION = 0.1
_MOST_HELD_OUT = 256


@dataclass(frozen=True)
class RecoverySettings:
    """How to recover.

    Attributes:
        steps: Optimiser steps.
        batch_size: Images per step.
        chunk_size: Images run at once; a step adds up the gradients of its chunks.
        augmentation: What is done to the images.
        layout: Where their channel axis is.
        seed: Seeds the split, the draws and the augmentation.
        fixed_batch: Batch size that the graphs insist on, at least `chunk_size`; `None` where they take any.
        mode: What is trained.
    """

    steps: int
    batch_size: int
    chunk_size: int
    augmentation: Augmentation
    layout: Literal["nchw", "nhwc"]
    seed: int
    fixed_batch: int | None = None
    mode: RecoveryMode = "scale"


class Distillation:
    """One recovery: teacher, student, images and the held-out slice."""

    def __init__(
        self,
        teacher: Program,
        student: Program,
        head: Head,
        classifier: Operation | None,
        scaling_weights: Mapping[str, str],
        load_images: LoadImages,
        image_count: int,
        settings: RecoverySettings,
    ) -> None:
        """Prepare both graphs and compute the teacher's logits of the held-out slice.

        Args:
            teacher: The original graph.
            student: The compressed graph, whose head has the same tensor names.
            head: Where the logits are.
            classifier: The student's last operation with weights, trained whole.
            scaling_weights: Conv name → its scaling weight's initializer.
            load_images: Indices → model input, for indices below `image_count`.
            image_count: Calibration images.
            settings: How to recover.
        """
        self._settings, self._head = settings, head
        self._input = teacher.inputs[0].name
        self._teacher, self._executor = prepare_executor(teacher), prepare_executor(student)
        self._precision = choose_precision(student)
        trained = list_trained(student, settings.mode, classifier)
        # In `full`, a scaling weight is trained whole, as every other is.
        self._scaling = tuple(sorted(scaling_weights.values())) if settings.mode == "scale" else ()
        self._free = trained - set(self._scaling)
        store = ImageStore(load_images, image_count)
        order = np.random.default_rng((settings.seed, image_count)).permutation(image_count)
        held_out = min(_MOST_HELD_OUT, max(1, round(_HELD_OUT_FRACTION * image_count)))
        # A single image serves as both; better than none.
        training = order[held_out:] if held_out < image_count else order
        self._lessons = Lessons(store, training, self._answer, settings)
        parts = split_indices(order[:held_out], settings.chunk_size)
        images = [to_channels_last(store.fetch(part)) for part in parts]
        with torch.no_grad():
            self._held_out = [Lesson(x, self._find_logits(self._teacher, x), len(x) / held_out) for x in images]

    def recover(
        self, progress: Callable[[int], None] | None = None, restart: Callable[[], None] | None = None
    ) -> tuple[Arrays, RecoveryReport]:
        """Train, and return the new values of the trained initializers with an account of the course.

        Args:
            progress: Called with the number of steps just done.
            restart: Called where training begins anew with a lower rate: no step is done then.

        Returns:
            New arrays by initializer name (none where training made nothing better), and the report.
        """
        student = self._make_student()
        before = self._measure_held_out(student)
        if not student.changes:  # no bias, no pair, no classifier, or no weight in float32
            return {}, RecoveryReport(self._settings.mode, 0, False, before, before, ((0, before, 0.0),))
        course = Course(before)
        rate, begin = choose_first_rate(self._settings.steps), perf_counter()
        while self._train(course, rate, progress) and course.attempts < _ATTEMPTS:
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
            images_per_second=course.steps * self._lessons.batch_size / (perf_counter() - begin),
        )
        return course.arrays, report

    def _make_student(self) -> Student:
        """Return the compressed graph as it was given."""
        return make_student(self._executor, self._free, self._scaling)

    def _train(self, course: Course, highest_rate: float, progress: Callable[[int], None] | None) -> bool:
        """Take all steps from the beginning, or as long as they help; return whether a lower rate may do better."""
        student, steps = self._make_student(), self._settings.steps
        optimizer = _make_optimizer(student)
        interval, since = max(_LEAST_INTERVAL, -(-steps // _CHECKS)), 0
        course.begin_attempt()
        for step in range(steps):
            rate = highest_rate * compute_cycle(step, steps)
            self._take_step(student, optimizer, rate, step)
            since += 1
            if progress is not None:
                progress(1)
            if since == interval or step == steps - 1:
                verdict = course.check(student, since, self._measure_held_out(student), rate)
                if verdict != "go on":
                    return verdict == "diverged" or not course.arrays
                since = 0
        return not course.arrays

    def _take_step(self, student: Student, optimizer: torch.optim.Optimizer, rate: float, number: int) -> None:
        """Learn from a batch."""
        optimizer.zero_grad()
        for lesson in self._lessons.draw(number):
            with round_products(self._precision):
                loss = lesson.share * self._measure_loss(student, lesson)
            loss.backward()  # type: ignore[no-untyped-call]
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()

    def _answer(self, x: torch.Tensor) -> torch.Tensor:
        """Return the original's logits `[n, classes]`."""
        with torch.no_grad(), round_products(find_fastest_precision()):
            return self._find_logits(self._teacher, x)

    def _measure_loss(self, student: Student, lesson: Lesson) -> torch.Tensor:
        """Return the mean distillation loss of a lesson."""
        logits = self._find_logits(student.executor, lesson.x, student.compute_weights())
        return distillation_loss(logits, lesson.target, self._head) / len(lesson.x)

    def _find_logits(
        self, executor: Executor, x: torch.Tensor, overrides: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Return a graph's logits `[n, classes]`, in float32."""
        name, filled = self._head.logits, fill_batch(x, self._settings.fixed_batch)
        values = executor.run({self._input: filled}, [name], overrides=overrides)
        return flatten_logits(values[name].float(), self._head)[: len(x)]

    def _measure_held_out(self, student: Student) -> float:
        """Return the mean loss over the held-out slice, in full precision, without augmentation."""
        with torch.no_grad():
            losses = [float(self._measure_loss(student, lesson)) for lesson in self._held_out]
        return float(np.average(losses, weights=[lesson.share for lesson in self._held_out]))


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


def _make_optimizer(student: Student) -> torch.optim.Optimizer:
    """Return Adam over a student's changes; each step sets the learning rate."""
    return torch.optim.Adam(student.changes.values(), fused=True)
