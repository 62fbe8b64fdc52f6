"""The two gradient passes over the graph (METHOD section 2): moments, then component scores.

Both stream over batches: a Conv's output is used when it is computed, its gradient when it comes back, and only sums
of the size of the Conv's channels remain. Products are float32 on values shifted by the first batch's mean, sums are
float64.
"""

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
from onnx_basisprune.errors import ModelError, quote
from onnx_basisprune.planning.types import Basis, ConvStatistics, Head, Operation, ReducedSpace

GradientHook = Callable[[torch.Tensor], None]


class CalibrationBatch(Protocol):
    """What a pass needs of a batch; the data room's `Batch` is one."""

    @property
    def indices(self) -> NDArray[np.int64]: ...  # noqa: D102
    @property
    def x(self) -> NDArray[Any]: ...  # noqa: D102
    @property
    def y(self) -> NDArray[np.int64] | None: ...  # noqa: D102


@dataclass(frozen=True)
class GradientPass:
    """One forward and backward run over a stream of batches.

    Attributes:
        executor: Runs the graph.
        input_name: The graph's image input.
        head: Where the loss is taken.
        seed: Seeds the draws for images without labels.
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
        watch: Mapping[str, Callable[[torch.Tensor], GradientHook]],
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Call `watch[conv](y)` on each Conv's output and what it returns on that output's gradient.

        No gradient of a weight or of the images is computed, only those between the watched outputs and the loss.

        Returns:
            The number of images.
        """
        images = 0
        for batch in batches:
            rows = len(batch.x)
            x = to_channels_last(fill_batch(torch.from_numpy(batch.x), self.fixed_batch))
            leaves: list[torch.Tensor] = []

            def observe(
                operation: Operation,
                outputs: tuple[torch.Tensor, ...],
                leaves: list[torch.Tensor] = leaves,
                rows: int = rows,
            ) -> None:
                start = watch.get(operation.name)
                if start is None:
                    return
                y = outputs[0]
                if not y.requires_grad:
                    leaves.append(y.requires_grad_())
                finish = start(y.detach()[:rows])
                y.register_hook(lambda g: finish(g[:rows]))  # type: ignore[no-untyped-call]

            values = self.executor.run({self.input_name: x}, [self.head.logits], observe=observe)
            logits = flatten_logits(values.pop(self.head.logits), self.head)
            if leaves and logits.requires_grad:
                gradient = torch.zeros_like(logits)
                gradient[:rows] = self._find_gradient(logits.detach()[:rows], batch)
                torch.autograd.grad(logits, leaves, gradient, allow_unused=True)
            images += rows
            if progress is not None:
                progress(rows)
        return images

    def _find_gradient(self, logits: torch.Tensor, batch: CalibrationBatch) -> torch.Tensor:
        """Return the loss gradient at the logits, by labels where there are any."""
        if batch.y is None:
            return fisher_gradient(logits, self.head, batch.indices, self.seed)
        return loss_gradient(logits, self.head, batch.y)


def to_channels_last(x: torch.Tensor) -> torch.Tensor:
    """Lay a 4-D tensor out with its channels last: convolutions and moments are faster so on CPUs."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


class _Moments:
    """Sums of one Conv's outputs and gradients."""

    def __init__(self, channels: int, space: ReducedSpace | None, bias: NDArray[np.float64]) -> None:
        q = channels if space is None else space.U.shape[1]
        self.total = np.zeros(q)
        self.outer = np.zeros((q, q))
        self.gradient_outer = np.zeros((q, q))
        self.positions = 0
        self._U = None if space is None else torch.from_numpy(space.U).float()
        self._b = torch.from_numpy(bias).float()
        self._shift: torch.Tensor | None = None

    def add_output(self, y: torch.Tensor) -> GradientHook:
        """Add a batch of outputs `[n, C, ...]`; the returned hook adds their gradients."""
        t = _to_rows(y) if self._U is None else (_to_rows(y) - self._b) @ self._U
        if self._shift is None:
            self._shift = t.mean(dim=0)
        centered = t - self._shift
        # Back from shifted to plain sums, in float64: plain sums add up over shards.
        sums, products = centered.sum(dim=0).double().numpy(), (centered.T @ centered).double().numpy()
        shift, count = self._shift.double().numpy(), len(t)
        mixed = np.outer(shift, sums)
        self.total += sums + count * shift
        self.outer += products + mixed + mixed.T + count * np.outer(shift, shift)
        self.positions += count
        return self.add_gradient

    def add_gradient(self, gradient: torch.Tensor) -> None:
        """Add a batch of gradients `[n, C, ...]`."""
        g = _to_rows(gradient)
        if self._U is not None:
            g = g @ self._U
        self.gradient_outer += (g.T @ g).double().numpy()


def _to_rows(y: torch.Tensor) -> torch.Tensor:
    """Return `[n, C, ...]` as one row per image and position, `[n·P, C]`; a view where channels are last."""
    return y.flatten(2).transpose(1, 2).reshape(-1, y.shape[1])


def collect_statistics(
    gradient_pass: GradientPass,
    batches: Iterable[CalibrationBatch],
    biases: Mapping[str, NDArray[np.float64]],
    spaces: Mapping[str, ReducedSpace | None],
    progress: Callable[[int], None] | None = None,
) -> dict[str, ConvStatistics]:
    """Run the first pass: the moments of every Conv in `biases`.

    Args:
        gradient_pass: How to run the graph.
        batches: The calibration images.
        biases: Conv name → `b [C_out]`, zeros where the Conv has none.
        spaces: Conv name → the reduced space in which its moments are taken, `None` for plain outputs.
        progress: Called with the number of images done in each batch.

    Returns:
        The statistics by Conv name, of those that the loss depends on.

    Raises:
        ModelError: Outputs or gradients of a Conv aren't finite.
    """
    moments = {name: _Moments(len(bias), spaces[name], bias) for name, bias in biases.items()}
    watch = {name: item.add_output for name, item in moments.items()}
    images = gradient_pass.run(batches, watch, progress)
    _check_finite(moments)
    return {
        name: ConvStatistics(item.total, item.outer, item.gradient_outer, item.positions, images)
        for name, item in moments.items()
        if item.positions
    }


def _check_finite(moments: Mapping[str, _Moments]) -> None:
    """Refuse sums that hold NaN or infinity, naming the node nearest to the cause.

    Raises:
        ModelError: There are such sums.
    """
    remedy = "check the preprocessing and the node's weights, or leave the node out with --exclude"
    for name, item in moments.items():
        if not np.isfinite(item.outer).all():
            raise ModelError(
                f"Node {quote(name)} gives outputs that are NaN or so large that their squares overflow; expected "
                f"finite ones: {remedy}."
            )
    # Gradients come from behind: the last node that has them is the nearest.
    for name, item in reversed(list(moments.items())):
        if not np.isfinite(item.gradient_outer).all():
            raise ModelError(
                f"The loss gradient at node {quote(name)} isn't finite; expected finite gradients: look behind it "
                f"for an operator without a derivative at some values, such as the square root at 0."
            )


class _Scores:
    """Sum over images of one Conv's squared gate gradients."""

    def __init__(self, basis: Basis) -> None:
        self.total = np.zeros(len(basis.R))
        self._R = torch.from_numpy(basis.R).float()
        self._A = torch.from_numpy(basis.A).float()
        self._center = torch.from_numpy(basis.center).float()

    def add_output(self, y: torch.Tensor) -> GradientHook:
        """Hold a batch of outputs until the returned hook is given their gradients."""
        return lambda gradient: self._add(y, gradient)

    def _add(self, y: torch.Tensor, gradient: torch.Tensor) -> None:
        """Add `(sum_p (R_i (y_p - mu)) · (A_iᵀ g_p))²` for every image and component."""
        images, channels = y.shape[:2]
        centered = _to_rows(y) - self._center
        g = _to_rows(gradient)
        positions = len(centered) // images
        if positions >= 2 * channels:
            # One product per image instead of two per position: sum_p R (y - mu) gᵀ A = R (sum_p (y - mu) gᵀ) A.
            M = torch.bmm(
                centered.view(images, positions, channels).transpose(1, 2),
                g.view(images, positions, channels),
            )
            gates = ((self._R @ M) * self._A.T).sum(dim=2)
        else:
            product = (centered @ self._R.T) * (g @ self._A)
            gates = product.view(images, positions, -1).sum(dim=1)
        self.total += gates.double().square().sum(dim=0).numpy()


def score_components(
    gradient_pass: GradientPass,
    batches: Iterable[CalibrationBatch],
    bases: Mapping[str, Basis],
    progress: Callable[[int], None] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Run the second pass: the Taylor score of a gate on every centred component of every basis.

        I_i = mean_n (sum_p (R_i (y_p - mu)) · (A_iᵀ g_p))²

    Args:
        gradient_pass: How to run the graph.
        batches: The calibration images, the same as in the first pass.
        bases: Conv name → its basis.
        progress: Called with the number of images done in each batch.

    Returns:
        Scores `[r]` by Conv name, at least 0.
    """
    scores = {name: _Scores(basis) for name, basis in bases.items()}
    watch = {name: item.add_output for name, item in scores.items()}
    images = gradient_pass.run(batches, watch, progress)
    return {name: item.total / images for name, item in scores.items()}
