"""The terms of the walk: what weights, Convs and channels cost and lose, in numbers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.planning.prices import Price, Vector

UNDECOMPOSED = -1


@dataclass(frozen=True)
class WeightTerm:
    """Something that isn't decomposed: it costs `unit` times the product of its axes' sizes.

    Attributes:
        unit: Cost per element; sizes of axes that never change are in it.
        axes: Indices of the axes that can lose channels.
    """

    unit: float
    axes: tuple[int, ...]

    def cost(self, sizes: NDArray[np.int64]) -> float:
        """Return what it costs."""
        cost = self.unit
        for axis in self.axes:
            cost *= float(sizes[axis])
        return cost


@dataclass(frozen=True)
class LayerTerm:
    """A Conv that can be decomposed.

    Attributes:
        price: What its forms cost in the budget's unit.
        inputs: Index of the input channels' axis.
        outputs: Index of the output channels' axis.
        lost: `[n + 1]`, the loss of keeping the best `r` components.
        time: What its forms take, where only a pair that is faster than the Conv is wanted; else `None`.
        align: Ranks are multiples of this.
    """

    price: Price
    inputs: int
    outputs: int
    lost: NDArray[np.float64]
    time: Price | None = None
    align: int = 1

    def cost(self, sizes: NDArray[np.int64], rank: int) -> float:
        """Return the cost of a form, `UNDECOMPOSED` or a rank."""
        ins, outs = int(sizes[self.inputs]), int(sizes[self.outputs])
        if rank == UNDECOMPOSED:
            return self.price.whole(ins, outs)
        return float(self.price.pair(ins, np.array([rank]), outs)[0])

    def costs(self, sizes: NDArray[np.int64]) -> Vector:
        """Return the costs of the ranks 1 to n; infinite where a rank isn't wanted."""
        ins, outs = int(sizes[self.inputs]), int(sizes[self.outputs])
        costs = np.full(len(self.lost) - 1, np.inf)
        ranks = np.arange(self.align, len(self.lost), self.align)
        if self.time is not None and len(ranks):
            ranks = ranks[self.time.pair(ins, ranks, outs) < self.time.whole(ins, outs)]
        if len(ranks):
            costs[ranks - 1] = self.price.pair(ins, ranks, outs)
        return costs

    def pays(self, sizes: NDArray[np.int64], rank: int) -> bool:
        """Return whether a pair is still worth having."""
        ins, outs = int(sizes[self.inputs]), int(sizes[self.outputs])
        prices = [self.price] if self.time is None else [self.price, self.time]
        return all(float(price.pair(ins, np.array([rank]), outs)[0]) < price.whole(ins, outs) for price in prices)


@dataclass(frozen=True)
class ChannelOffer:
    """Coupled channels of one group that go at once: as many as keep the rest a multiple of the SIMD block.

    Attributes:
        channels: Their classes.
        loss: What their removal adds.
        touches: `(axis, positions)`: how much smaller each axis gets.
    """

    channels: tuple[int, ...]
    loss: float
    touches: tuple[tuple[int, int], ...]


def accumulate_losses(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `lost[r]`, the sum of all but the `r` best scores, `[n + 1]`; summed from the small end."""
    return np.concatenate([np.cumsum(np.sort(scores))[::-1], [0.0]])


def sort_channels(channels: NDArray[np.int64], scores: Mapping[int, float]) -> list[int]:
    """Return a group's channels, least score first, of equal ones in their order: those that go first."""
    return sorted(channels.tolist(), key=lambda channel: scores.get(channel, 0.0))


def select_best(scores: NDArray[np.float64], rank: int) -> NDArray[np.int64]:
    """Return the indices of the `rank` highest scores, ascending; of equal ones the first."""
    return np.sort(np.argsort(-scores, kind="stable")[:rank]).astype(np.int64)
