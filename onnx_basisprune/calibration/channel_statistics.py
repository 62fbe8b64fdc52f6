"""Statistics of coupled channels where they are read (METHOD section 4): moments for the compensation, gate scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from onnx_basisprune.calibration.gradient_pass import GradientHook, ReadEdge, ReadStart
from onnx_basisprune.calibration.statistics import RowSums
from onnx_basisprune.errors import ModelError, quote
from onnx_basisprune.planning.compensation import ReadStatistics


@dataclass(frozen=True)
class ReadPlace:
    """Where channels are read.

    Attributes:
        edge: The node and which of its inputs.
        tensor: What it reads; several nodes may read the same.
        axis: The channel axis.
        labels: `[size]`, the class of each position.
    """

    edge: ReadEdge
    tensor: str
    axis: int
    labels: NDArray[np.int64]


class ReadMoments:
    """First pass: moments of every tensor that is read."""

    def __init__(self, places: Sequence[ReadPlace]) -> None:
        self._sums: dict[str, RowSums] = {}
        self._owners: dict[str, ReadPlace] = {}
        self._images: Counter[str] = Counter()
        for place in places:
            if place.tensor not in self._owners:
                self._owners[place.tensor] = place
                self._sums[place.tensor] = RowSums(len(place.labels))

    def starts(self) -> dict[ReadEdge, ReadStart]:
        """Return what the gradient pass calls on each read."""

        def make(place: ReadPlace) -> ReadStart:
            def start(x: torch.Tensor, images: int) -> None:
                self._images[place.tensor] += images
                self._sums[place.tensor].add(x.movedim(place.axis, -1).reshape(-1, len(place.labels)))

            return start

        return {place.edge: make(place) for place in self._owners.values()}

    def finish(self) -> dict[str, ReadStatistics]:
        """Return the statistics by tensor name.

        Raises:
            ModelError: What a node reads isn't finite.
        """
        for name, sums in self._sums.items():
            if not np.isfinite(sums.total).all() or not np.isfinite(sums.outer.values).all():
                raise ModelError(
                    f"Node {quote(self._owners[name].edge[0])} reads {quote(name)}, which is NaN or so large that its "
                    "squares overflow; expected finite values: check the preprocessing and the weights before it."
                )
        return {
            name: ReadStatistics(sums.total, sums.outer, sums.count, self._images[name])
            for name, sums in self._sums.items()
            if sums.count
        }


class ChannelScores:
    """Second pass: `I_c = mean_n (sum_reads sum_p (x_c - mean_c) g_c)²`, one gate per channel and path."""

    def __init__(self, places: Sequence[ReadPlace], means: Mapping[ReadEdge, NDArray[np.float64]]) -> None:
        """Prepare the gates.

        Args:
            places: All reads.
            means: `[size]` by edge, for reads whose consumers are compensated, where the gradient's second moments are
                wanted, too; others are gated without centring.
        """
        self._places = places
        self._classes = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *(place.labels for place in places)]))
        self._means = {edge: torch.from_numpy(mean).float() for edge, mean in means.items()}
        # float32: they take as much memory as the moments of what is read.
        self._outer = {edge: torch.zeros(len(mean), len(mean)) for edge, mean in means.items()}
        self._gates: torch.Tensor | None = None
        self._total = np.zeros(len(self._classes))
        self._images = 0

    def starts(self) -> dict[ReadEdge, ReadStart]:
        """Return what the gradient pass calls on each read."""
        return {place.edge: self._make_start(place) for place in self._places}

    def _make_start(self, place: ReadPlace) -> ReadStart:
        index = torch.from_numpy(np.searchsorted(self._classes, place.labels))
        mean, outer = self._means.get(place.edge), self._outer.get(place.edge)

        def start(x: torch.Tensor, images: int) -> GradientHook:
            def finish(gradient: torch.Tensor) -> None:
                rows, slopes = x.movedim(place.axis, -1), gradient.movedim(place.axis, -1)
                centered = rows if mean is None else rows - mean
                product = (centered * slopes).reshape(-1, len(place.labels))
                if outer is not None:
                    flat = slopes.reshape(product.shape)
                    outer.addmm_(flat.T, flat)
                # Windows of one image lie together; where rows can't be told apart, they count as one image.
                parts = images if len(product) % images == 0 else 1
                gates = product.view(parts, -1, len(place.labels)).sum(dim=1)
                if self._gates is None:
                    self._gates = torch.zeros(images, len(self._classes))
                self._gates[:parts].index_add_(1, index, gates)

            return finish

        return start

    def end_batch(self, images: int) -> None:
        """Square and add up the gates of a batch."""
        if self._gates is not None:
            self._total += self._gates.double().square().sum(dim=0).numpy()
        self._images += images
        self._gates = None

    def finish(self) -> tuple[dict[int, float], dict[ReadEdge, NDArray[np.float32]]]:
        """Return each class's score, and `mean_n[sum_p h_p h_pᵀ]` of the gradients `h` at each compensated read.

        Raises:
            ModelError: A gradient isn't finite, or its square overflows.
        """
        images = max(self._images, 1)
        # Gradients come from behind: the last node that has them is the nearest.
        for (node, _), outer in reversed(list(self._outer.items())):
            if not bool(torch.isfinite(outer.div_(images)).all()):
                raise ModelError(
                    f"The loss gradient at what node {quote(node)} reads isn't finite, or its square overflows; "
                    f"expected finite gradients: look there and behind it for an operator without a derivative at some "
                    f"values, such as the square root at 0."
                )
        scores = dict(zip(self._classes.tolist(), (self._total / images).tolist(), strict=True))
        return scores, {edge: outer.numpy() for edge, outer in self._outer.items()}
