"""One gradient pass over a stream of batches: outputs and reads are watched forward, their gradients backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from onnx_basisprune.calibration.batching import fill_batch
from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.calibration.loss import fisher_gradient, flatten_logits, loss_gradient
from onnx_basisprune.planning.types import Head, Operation

GradientHook = Callable[[torch.Tensor], None]
OutputStart = Callable[[torch.Tensor], GradientHook]
# A node and which of its inputs.
ReadEdge = tuple[str, int]
ReadStart = Callable[[torch.Tensor, int], "GradientHook | None"]


class CalibrationBatch(Protocol):
    """What a pass needs of a batch; the data room's `Batch` is one."""

    @property
    def indices(self) -> NDArray[np.int64]: ...  # noqa: D102
    @property
    def x(self) -> NDArray[Any]: ...  # noqa: D102
    @property
    def y(self) -> NDArray[np.int64] | None: ...  # noqa: D102


class _Watcher:
    """Sets hooks during one batch's forward run, and keeps the tensors from which gradients are wanted."""

    def __init__(
        self, outputs: Mapping[str, OutputStart], reads: Mapping[ReadEdge, ReadStart], rows: int, size: int
    ) -> None:
        self.leaves: list[torch.Tensor] = []
        self._outputs, self._reads = outputs, reads
        self._rows, self._size = rows, size

    def observe(self, operation: Operation, outputs: tuple[torch.Tensor, ...]) -> None:
        """Watch a node's first output."""
        start = self._outputs.get(operation.name)
        if start is None:
            return
        y = outputs[0]
        if not y.requires_grad:
            self.leaves.append(y.requires_grad_())
        self._hook(y, start(self._cut(y.detach())))

    def alias(self, operation: Operation, index: int, tensor: torch.Tensor) -> torch.Tensor:
        """Watch one reading of a tensor, by a copy that only this node reads."""
        start = self._reads.get((operation.name, index))
        finish = None if start is None else start(self._cut(tensor.detach()), self._rows)
        if finish is None:
            return tensor
        if tensor.requires_grad:
            tensor = tensor.view_as(tensor)
        else:
            self.leaves.append(tensor := tensor.detach().requires_grad_())
        self._hook(tensor, finish)
        return tensor

    def _hook(self, tensor: torch.Tensor, finish: GradientHook) -> None:
        # The hook must not hold the watcher, which holds the tensor: in such a ring its memory would wait for the
        # garbage collector.
        rows, size = self._rows, self._size
        tensor.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: finish(_cut_batch(gradient, rows, size))
        )

    def _cut(self, tensor: torch.Tensor) -> torch.Tensor:
        return _cut_batch(tensor, self._rows, self._size)


def _cut_batch(tensor: torch.Tensor, rows: int, size: int) -> torch.Tensor:
    """Return what belongs to the first images of a filled-up batch; an image may own several rows (windows)."""
    if rows == size or tensor.shape[0] % size:
        return tensor
    return tensor[: tensor.shape[0] // size * rows]


@dataclass(frozen=True)
class GradientPass:
    """One forward and backward run over a stream of batches.

    Attributes:
        executor: Runs the graph.
        input_name: The graph's image input.
        head: Where the loss is taken.
        seed: Seeds the draws of the Fisher.
        fixed_batch: Batch size that the graph insists on; smaller batches are filled up, and what the fillers give
            is left out. `None` where it takes any.
    """

    executor: Executor
    input_name: str
    head: Head
    seed: int
    fixed_batch: int | None = None

    def run(
        self,
        batches: Iterable[CalibrationBatch],
        watch: Mapping[str, OutputStart],
        progress: Callable[[int], None] | None = None,
        *,
        reads: Mapping[ReadEdge, ReadStart] | None = None,
        end_batch: Callable[[int], None] | None = None,
    ) -> int:
        """Call `watch[conv](y)` on each Conv's output and what it returns on that output's gradient.

        No gradient of a weight or of the images is computed, only those between what is watched and the loss.

        Args:
            batches: The calibration images.
            watch: By node name, called with the node's first output.
            progress: Called with the number of images done in each batch.
            reads: By node and input index, called with what the node reads there and the number of images; a hook
                that it returns gets the gradient of this reading alone, however many nodes read the same tensor.
            end_batch: Called with the number of images after each batch's backward pass.

        Returns:
            The number of images.
        """
        images = 0
        for batch in batches:
            rows = len(batch.x)
            x = to_channels_last(fill_batch(torch.from_numpy(batch.x), self.fixed_batch))
            watcher = _Watcher(watch, reads or {}, rows, len(x))
            values = self.executor.run(
                {self.input_name: x},
                [self.head.logits],
                observe=watcher.observe,
                alias=watcher.alias if reads else None,
            )
            logits = flatten_logits(values.pop(self.head.logits), self.head)
            if watcher.leaves and logits.requires_grad:
                gradient = torch.zeros_like(logits)
                gradient[:rows] = self._find_gradient(logits.detach()[:rows], batch)
                torch.autograd.grad(logits, watcher.leaves, gradient, allow_unused=True)
            images += rows
            for done in (end_batch, progress):
                if done is not None:
                    done(rows)
        return images

    def _find_gradient(self, logits: torch.Tensor, batch: CalibrationBatch) -> torch.Tensor:
        """Return the gradient at the logits: by drawn signs, and by labels where there are any.

        The signs are independent of the labels and of mean 0, so the second moment of the sum is the true Fisher plus
        the empirical one: where predictions are confident, and labels say little, the first still tells what matters.
        """
        drawn = fisher_gradient(logits, self.head, batch.indices, self.seed)
        return drawn if batch.y is None else drawn + loss_gradient(logits, self.head, batch.y)


def to_channels_last(x: torch.Tensor) -> torch.Tensor:
    """Lay a 4-D tensor out with its channels last: convolutions and moments are faster so on CPUs."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
