"""The original as the teacher of what was cut from it, one student after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from onnx_basisprune.calibration.batching import fill_batch
from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.calibration.gradient_pass import to_channels_last
from onnx_basisprune.calibration.image_store import ImageStore, LoadImages
from onnx_basisprune.calibration.lessons import Lesson, Lessons, RecoverySettings, split_indices
from onnx_basisprune.calibration.loss import flatten_logits
from onnx_basisprune.calibration.precision import find_fastest_precision, round_products
from onnx_basisprune.calibration.student import prepare_executor
from onnx_basisprune.planning.types import Head, Program

_HELD_OUT_FRACTION = 0.1
_MOST_HELD_OUT = 256


class Teacher:
    """The original graph, the calibration images and what it says to them.

    Its logits are kept: each student learns from the same batches, and the first one pays for them. Hints aren't.

    Attributes:
        head: Where the logits are.
        settings: How to recover.
        lessons: The images to learn from.
        held_out: Those that tell how far a student is, without augmentation.
    """

    def __init__(
        self, program: Program, head: Head, load_images: LoadImages, image_count: int, settings: RecoverySettings
    ) -> None:
        """Prepare the graph and compute its logits of the held-out slice.

        Args:
            program: The original graph.
            head: Where the logits are.
            load_images: Indices → model input, for indices below `image_count`.
            image_count: Calibration images.
            settings: How to recover.
        """
        self.head, self.settings = head, settings
        self._input, self._executor = program.inputs[0].name, prepare_executor(program)
        store = ImageStore(load_images, image_count)
        order = np.random.default_rng((settings.seed, image_count)).permutation(image_count)
        held_out = min(_MOST_HELD_OUT, max(1, round(_HELD_OUT_FRACTION * image_count)))
        # A single image serves as both; better than none.
        training = order[held_out:] if held_out < image_count else order
        self.lessons = Lessons(store, training, self.answer, settings)
        parts = split_indices(order[:held_out], settings.chunk_size)
        images = [to_channels_last(store.fetch(part)) for part in parts]
        with torch.no_grad():
            self.held_out = [Lesson(x, self.run(self._executor, x)[0], len(x) / held_out) for x in images]

    def run(
        self,
        executor: Executor,
        x: torch.Tensor,
        hints: Sequence[str] = (),
        overrides: Mapping[str, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return a graph's logits `[n, classes]`, in float32, and hints by name.

        Where the graphs insist on a larger batch the hints are of that, filled with the same images in both.

        Args:
            executor: Runs the teacher's graph or a student's.
            x: Model input `[n, ...]`.
            hints: Tensors inside the graph.
            overrides: Weights to compute with instead of the graph's own.
        """
        filled = fill_batch(x, self.settings.fixed_batch)
        values = executor.run({self._input: filled}, [self.head.logits, *hints], overrides=overrides)
        logits = flatten_logits(values[self.head.logits].float(), self.head)[: len(x)]
        return logits, {name: values[name] for name in hints}

    def answer(self, x: torch.Tensor, hints: Sequence[str]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the original's logits `[n, classes]`, and hints by name."""
        with torch.no_grad(), round_products(find_fastest_precision()):
            return self.run(self._executor, x, hints)
