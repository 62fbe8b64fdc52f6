"""One walk over basis components and coupled channels under one budget (METHOD section 3).

Every Conv that can be decomposed offers forms, undecomposed or a pair of rank r, and every dependency group offers its
channels, least score first. Each offer has a slope, loss added per cost saved. The walk takes the least slope until the
budget is met. For a layer the best slope over all its cheaper forms leads along the lower convex hull of (cost, loss).
Costs depend on each other, since a Conv gets cheaper when its neighbours lose channels: an offer's slope is worked out
anew when its turn comes, and it goes back into the queue where another has become better.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNDECOMPOSED = -1


@dataclass(frozen=True)
class WeightTerm:
    """A weight that isn't decomposed: it costs `unit` times the product of its axes' sizes.

    Attributes:
        unit: Cost per element; sizes of axes that never change are in it.
        axes: Indices of the axes that can lose channels.
    """

    unit: float
    axes: tuple[int, ...]


@dataclass(frozen=True)
class LayerTerm:
    """A Conv that can be decomposed: `unit·K·O` undecomposed, `unit·r·(K + O) + pair_extra·O` as a pair.

    Attributes:
        unit: Cost per weight element.
        kernel: Weight elements per input channel, so that `K = kernel · inputs`.
        inputs: Index of the input channels' axis.
        outputs: Index of the output channels' axis.
        pair_extra: Cost per output channel that only a pair has (a bias that the Conv lacks).
        lost: `[n + 1]`, the loss of keeping the best `r` components.
    """

    unit: float
    kernel: int
    inputs: int
    outputs: int
    pair_extra: float
    lost: NDArray[np.float64]

    def cost(self, sizes: NDArray[np.int64], rank: int) -> float:
        """Return the cost of a form, `UNDECOMPOSED` or a rank."""
        fan_in, out = self.kernel * int(sizes[self.inputs]), int(sizes[self.outputs])
        if rank == UNDECOMPOSED:
            return self.unit * fan_in * out
        return self.unit * rank * (fan_in + out) + self.pair_extra * out

    def costs(self, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the costs of the ranks 1 to n."""
        fan_in, out = self.kernel * int(sizes[self.inputs]), int(sizes[self.outputs])
        ranks = np.arange(1, len(self.lost), dtype=np.float64)
        costs: NDArray[np.float64] = self.unit * ranks * (fan_in + out) + self.pair_extra * out
        return costs


@dataclass(frozen=True)
class ChannelOffer:
    """One coupled channel.

    Attributes:
        channel: Its class.
        loss: What its removal adds.
        touches: `(axis, positions)`: how much smaller each axis gets.
    """

    channel: int
    loss: float
    touches: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class WalkResult:
    """Where the walk ended.

    Attributes:
        ranks: Layer → rank, of decomposed layers only.
        removed: Channels that go.
        losses: Layer → loss of its removed components.
        cost: What is left.
        reached: Whether the budget is met.
    """

    ranks: Mapping[str, int]
    removed: tuple[int, ...]
    losses: Mapping[str, float]
    cost: float
    reached: bool


class Walk:
    """The state of a walk: axis sizes, forms of layers, channels taken of each group.

    Attributes:
        cost: What everything costs now.
    """

    def __init__(
        self,
        sizes: NDArray[np.int64],
        weights: Sequence[WeightTerm],
        layers: Mapping[str, LayerTerm],
        groups: Mapping[str, Sequence[ChannelOffer]],
        fixed: float = 0.0,
    ) -> None:
        """Start with everything undecomposed and kept.

        Args:
            sizes: Size of each axis.
            weights: What isn't decomposed.
            layers: What can be.
            groups: Offers of each group, least loss first; the last one of each stays.
            fixed: Cost that nothing changes.
        """
        self._sizes, self._weights, self._layers, self._groups = sizes.copy(), weights, layers, groups
        self._rank = dict.fromkeys(layers, UNDECOMPOSED)
        self._taken = dict.fromkeys(groups, 0)
        self._weights_on: list[list[int]] = [[] for _ in sizes]
        self._layers_on: list[list[str]] = [[] for _ in sizes]
        for index, term in enumerate(weights):
            for axis in set(term.axes):
                self._weights_on[axis].append(index)
        for name, layer in layers.items():
            for axis in {layer.inputs, layer.outputs}:
                self._layers_on[axis].append(name)
        self.cost = fixed + sum(self._weight_cost(term) for term in weights)
        self.cost += sum(layer.cost(self._sizes, UNDECOMPOSED) for layer in layers.values())
        self._queue: list[tuple[float, int, str, str]] = []
        self._order = {("layer", name): index for index, name in enumerate(layers)}
        self._order |= {("group", name): len(layers) + index for index, name in enumerate(groups)}

    def run(self, budget: float) -> WalkResult:
        """Walk until the cost is at most the budget, or nothing is left to take."""
        self._queue = []
        for kind, name in self._order:
            self._offer(kind, name)
        while self.cost > budget and self._queue:
            _, _, kind, name = heapq.heappop(self._queue)
            slope = self._slope(kind, name)
            if slope is None:
                continue
            if self._queue and slope > self._queue[0][0]:
                self._push(slope, kind, name)
                continue
            if kind == "layer":
                self._take_rank(name, budget)
            else:
                self._take_channel(name)
            self._offer(kind, name)
        return self._finish(budget)

    def _offer(self, kind: str, name: str) -> None:
        """Put a layer's or group's next offer into the queue, if it has one."""
        slope = self._slope(kind, name)
        if slope is not None:
            self._push(slope, kind, name)

    def _push(self, slope: float, kind: str, name: str) -> None:
        heapq.heappush(self._queue, (slope, self._order[kind, name], kind, name))

    def _slope(self, kind: str, name: str) -> float | None:
        """Return the loss per cost saved of the next offer, `None` where there is none."""
        if kind == "layer":
            found = self._find_rank(name)
            return None if found is None else found[1]
        offer = self._next_channel(name)
        if offer is None:
            return None
        saved = self._channel_saving(offer)
        return offer.loss / saved if saved > 0 else None

    def _find_rank(self, name: str) -> tuple[int, float] | None:
        """Return the rank with the best slope among a layer's cheaper forms, and the slope."""
        layer, current = self._layers[name], self._rank[name]
        limit = len(layer.lost) - 1 if current == UNDECOMPOSED else current - 1
        now = layer.cost(self._sizes, current)
        saved = now - layer.costs(self._sizes)[:limit]
        cheaper = np.flatnonzero(saved > 0)
        if not len(cheaper):
            return None
        loss = 0.0 if current == UNDECOMPOSED else layer.lost[current]
        slopes = (layer.lost[cheaper + 1] - loss) / saved[cheaper]
        best = int(cheaper[np.argmin(slopes)]) + 1  # the cheapest form of equal slopes
        return best, float(slopes.min())

    def _take_rank(self, name: str, budget: float) -> None:
        """Move a layer to its next form; the last move is cut at the largest rank that meets the budget."""
        found = self._find_rank(name)
        if found is None:
            return
        layer, current, best = self._layers[name], self._rank[name], found[0]
        now, costs = layer.cost(self._sizes, current), layer.costs(self._sizes)
        limit = len(costs) if current == UNDECOMPOSED else current - 1
        enough = [r for r in range(best, limit + 1) if costs[r - 1] < now and self.cost - now + costs[r - 1] <= budget]
        rank = max(enough, default=best)
        self._rank[name] = rank
        self.cost += float(costs[rank - 1]) - now

    def _next_channel(self, name: str) -> ChannelOffer | None:
        """Return a group's next channel that leaves something of every axis."""
        offers = self._groups[name]
        if self._taken[name] >= len(offers) - 1:
            return None
        offer = offers[self._taken[name]]
        return offer if all(self._sizes[axis] > count for axis, count in offer.touches) else None

    def _channel_saving(self, offer: ChannelOffer) -> float:
        """Return what removing a channel saves."""
        before = self._cost_on(offer)
        self._resize(offer, -1)
        after = self._cost_on(offer)
        self._resize(offer, 1)
        return before - after

    def _take_channel(self, name: str) -> None:
        """Remove a group's next channel; a pair that no longer pays becomes one Conv again."""
        offer = self._groups[name][self._taken[name]]
        self.cost -= self._channel_saving(offer)
        self._taken[name] += 1
        self._resize(offer, -1)
        for layer_name in {item for axis, _ in offer.touches for item in self._layers_on[axis]}:
            layer, rank = self._layers[layer_name], self._rank[layer_name]
            whole = layer.cost(self._sizes, UNDECOMPOSED)
            if rank != UNDECOMPOSED and whole <= layer.cost(self._sizes, rank):
                self.cost += whole - layer.cost(self._sizes, rank)
                self._rank[layer_name] = UNDECOMPOSED
                self._offer("layer", layer_name)

    def _resize(self, offer: ChannelOffer, sign: int) -> None:
        for axis, count in offer.touches:
            self._sizes[axis] += sign * count

    def _cost_on(self, offer: ChannelOffer) -> float:
        """Return the cost of all that a channel touches."""
        weights = {index for axis, _ in offer.touches for index in self._weights_on[axis]}
        layers = {name for axis, _ in offer.touches for name in self._layers_on[axis]}
        return sum(self._weight_cost(self._weights[index]) for index in weights) + sum(
            self._layers[name].cost(self._sizes, self._rank[name]) for name in layers
        )

    def _weight_cost(self, term: WeightTerm) -> float:
        cost = term.unit
        for axis in term.axes:
            cost *= float(self._sizes[axis])
        return cost

    def _finish(self, budget: float) -> WalkResult:
        ranks = {name: rank for name, rank in self._rank.items() if rank != UNDECOMPOSED}
        removed = [offer.channel for name, offers in self._groups.items() for offer in offers[: self._taken[name]]]
        losses = {
            name: 0.0 if rank == UNDECOMPOSED else float(self._layers[name].lost[rank])
            for name, rank in self._rank.items()
        }
        return WalkResult(ranks, tuple(removed), losses, self.cost, self.cost <= budget)


def accumulate_losses(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `lost[r]`, the sum of all but the `r` best scores, `[n + 1]`; summed from the small end."""
    return np.concatenate([np.cumsum(np.sort(scores))[::-1], [0.0]])


def select_best(scores: NDArray[np.float64], rank: int) -> NDArray[np.int64]:
    """Return the indices of the `rank` highest scores, ascending; of equal ones the first."""
    return np.sort(np.argsort(-scores, kind="stable")[:rank]).astype(np.int64)
