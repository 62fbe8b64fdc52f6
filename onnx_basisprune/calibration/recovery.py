"""Recovery without labels: distil the original model into the compressed one (METHOD section 6).

`scale` trains one factor per basis channel, the biases and the final classifier, no other weight. The best values on a
held-out slice of the calibration images are kept, and those given where training doesn't better them. A learning rate
that makes things worse is noticed on the slice: training starts again from the beginning with a third of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from onnx_basisprune.calibration.augment import Augmentation, augment_images
from onnx_basisprune.calibration.batching import fill_batch
from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.calibration.gradient_pass import to_channels_last
from onnx_basisprune.calibration.loss import flatten_logits, is_binary
from onnx_basisprune.planning.types import Head, Operation, Program
from onnx_basisprune.results import RecoveryReport

LoadImages = Callable[[NDArray[np.int64]], NDArray[Any]]
Arrays = dict[str, NDArray[Any]]

_TEMPERATURE = 2.0
_LEARNING_RATE = 3e-3
_ATTEMPTS = 3
_WARM_UP = 0.1
_CHECKS = 10
_HELD_OUT_FRACTION = 0.1
_MOST_HELD_OUT = 256
# Held-out loss relative to the start beyond which a learning rate is given up.
_DIVERGED = 1.5


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
    """

    steps: int
    batch_size: int
    chunk_size: int
    augmentation: Augmentation
    layout: Literal["nchw", "nhwc"]
    seed: int
    fixed_batch: int | None = None


@dataclass(frozen=True)
class _Student:
    """The compressed graph with its trainable tensors.

    Attributes:
        executor: Runs the graph.
        free: Initializer name → tensor that is trained itself.
        factors: Scaling weight's name → one trained factor per basis channel, `[r]`.
    """

    executor: Executor
    free: dict[str, torch.Tensor]
    factors: dict[str, torch.Tensor]

    def parameters(self) -> list[torch.Tensor]:
        """Return all trainable tensors."""
        return [*self.free.values(), *self.factors.values()]

    def effective_weights(self) -> dict[str, torch.Tensor]:
        """Return what the graph computes with instead of its initializers."""
        weights = dict(self.free)
        for name, factor in self.factors.items():
            scaling = self.executor.parameters[name]
            weights[name] = scaling * factor.view(1, -1, *(1,) * (scaling.ndim - 2))
        return weights


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
        self._settings, self._head, self._load = settings, head, load_images
        self._input = teacher.inputs[0].name
        self._teacher, self._executor = Executor(teacher), Executor(student)
        for executor in (self._teacher, self._executor):
            executor.parameters = {k: to_channels_last(v) for k, v in executor.parameters.items()}
        self._free_names = list_free_parameters(student, classifier) - set(scaling_weights.values())
        self._scaling = tuple(scaling_weights.values())
        order = np.random.default_rng((settings.seed, image_count)).permutation(image_count)
        held_out = min(_MOST_HELD_OUT, max(1, round(_HELD_OUT_FRACTION * image_count)))
        # A single image serves as both; better than none.
        self._held_out, self._training = (
            order[:held_out],
            order[held_out:] if held_out < image_count else order,
        )
        self._parts = split_indices(self._held_out, settings.chunk_size)
        self._targets = [self._run_teacher(self._fetch(part)) for part in self._parts]

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
        before = self._measure_held_out(self._make_student())
        best, arrays, curve, done = before, Arrays(), [(0, before)], 0
        for attempt in range(_ATTEMPTS):
            student, diverged = self._make_student(), False
            if attempt and restart is not None:
                restart()
            for steps, loss in self._train(student, _LEARNING_RATE / 3**attempt, progress):
                done += steps
                curve.append((done, loss))
                if loss < best:
                    best, arrays = loss, _read_arrays(student)
                diverged = not loss <= _DIVERGED * before
                if diverged:
                    break
            if not diverged:
                break
        return arrays, RecoveryReport("scale", done, bool(arrays), before, best, tuple(curve))

    def _make_student(self) -> _Student:
        """Return the compressed graph with fresh trainable tensors."""
        parameters = self._executor.parameters
        free = {name: parameters[name].clone().requires_grad_() for name in sorted(self._free_names)}
        factors = {name: torch.ones(parameters[name].shape[1], requires_grad=True) for name in self._scaling}
        return _Student(self._executor, free, factors)

    def _train(
        self, student: _Student, learning_rate: float, progress: Callable[[int], None] | None
    ) -> Iterator[tuple[int, float]]:
        """Take all steps, yielding now and then the steps since the last time and the held-out loss."""
        settings = self._settings
        generator = np.random.default_rng((settings.seed, settings.steps))
        optimizer = torch.optim.Adam(student.parameters(), lr=learning_rate)
        total = settings.steps + 1
        # At least one step of warm-up: OneCycleLR divides by its length.
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=learning_rate, total_steps=total, pct_start=max(_WARM_UP, 2 / total)
        )
        interval, since = max(1, -(-settings.steps // _CHECKS)), 0
        for step in range(1, settings.steps + 1):
            chosen = generator.choice(self._training, min(settings.batch_size, len(self._training)), replace=False)
            optimizer.zero_grad()
            for part in split_indices(chosen, settings.chunk_size):
                x = augment_images(self._fetch(part), settings.augmentation, settings.layout, generator)
                x = to_channels_last(x)
                with _autocast():
                    loss = self._measure_loss(student, x, self._run_teacher(x)) / len(chosen)
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            since += 1
            if progress is not None:
                progress(1)
            if step % interval == 0 or step == settings.steps:
                yield since, self._measure_held_out(student)
                since = 0

    def _fetch(self, indices: NDArray[np.int64]) -> torch.Tensor:
        """Load images as a tensor."""
        return to_channels_last(torch.from_numpy(self._load(indices)))

    def _run_teacher(self, x: torch.Tensor) -> torch.Tensor:
        """Return the original's logits `[n, classes]`."""
        with torch.no_grad():
            return self._find_logits(self._teacher, x)

    def _measure_loss(self, student: _Student, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the summed distillation loss of a batch."""
        logits = self._find_logits(student.executor, x, student.effective_weights())
        return distillation_loss(logits, target, self._head)

    def _find_logits(
        self, executor: Executor, x: torch.Tensor, overrides: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Return a graph's logits `[n, classes]`, in float32."""
        name, filled = self._head.logits, fill_batch(x, self._settings.fixed_batch)
        values = executor.run({self._input: filled}, [name], overrides=overrides)
        return flatten_logits(values[name].float(), self._head)[: len(x)]

    def _measure_held_out(self, student: _Student) -> float:
        """Return the mean loss over the held-out slice, in full precision, without augmentation."""
        with torch.no_grad():
            losses = [
                float(self._measure_loss(student, self._fetch(part), target))
                for part, target in zip(self._parts, self._targets, strict=True)
            ]
        return sum(losses) / len(self._held_out)


def split_indices(indices: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Return indices in parts of at most `size`."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


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


def list_free_parameters(program: Program, classifier: Operation | None) -> set[str]:
    """Return the initializers that `scale` trains themselves: biases and the final classifier's weights.

    Args:
        program: The compressed graph.
        classifier: Its last operation with weights.
    """
    names = {
        operation.inputs[2]
        for operation in program.operations
        if operation.op_type in ("Conv", "ConvTranspose", "Gemm")
        and operation.domain == ""
        and len(operation.inputs) > 2
    }
    if classifier is not None:
        names |= set(classifier.inputs[1:])
    return {name for name in names if name in program.initializers and program.initializers[name].dtype == np.float32}


def _read_arrays(student: _Student) -> Arrays:
    """Return the student's trained initializers as arrays."""
    weights = student.effective_weights()
    return {name: weights[name].detach().contiguous().numpy().copy() for name in weights}


def _autocast() -> torch.autocast:
    """Return bfloat16 autocast where the CPU computes in bfloat16, else a context that changes nothing."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=bool(supported is not None and supported()))
