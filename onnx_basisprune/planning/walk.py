"""One walk over basis components and coupled channels under one budget (METHOD section 3).

Every Conv that can be decomposed offers forms, undecomposed or a pair of rank r, and every dependency group offers its
channels, least score first. Each offer has a slope, loss added per cost saved. The walk takes the least slope until the
budget is met; where that would end it, of the moves that do the one that loses least. For a layer the best slope over
all its cheaper forms leads along the lower convex hull of (cost, loss). Costs depend on each other, since a Conv gets
cheaper when its neighbours lose channels: an offer's slope is worked out anew when its turn comes, and it goes back
into the queue where another has become better.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.planning.terms import UNDECOMPOSED, ChannelOffer, LayerTerm, WeightTerm

# Offers of a group that are tried together where fewer save nothing.
_LOOK_AHEAD = 4


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
        self.cost = fixed + sum(term.cost(self._sizes) for term in weights)
        self.cost += sum(layer.cost(self._sizes, UNDECOMPOSED) for layer in layers.values())
        self._queue: list[tuple[float, int, str, str]] = []
        self._order = {("layer", name): index for index, name in enumerate(layers)}
        self._order |= {("group", name): len(layers) + index for index, name in enumerate(groups)}

    def run(self, budget: float) -> WalkResult:
        """Walk until the cost is at most the budget, or nothing is left to take."""
        self._queue = []
        self._offer_all()
        while self.cost > budget and self._queue:
            _, _, kind, name = heapq.heappop(self._queue)
            slope = self._slope(kind, name)
            if slope is None:
                self._refill()
                continue
            if self._queue and slope > self._queue[0][0]:
                self._push(slope, kind, name)
                continue
            if self._find_last_loss(kind, name, budget) is not None:
                kind, name = self._choose_last(budget)
            if kind == "layer":
                self._take_rank(name, budget)
            else:
                self._take_channels(name)
            self._offer(kind, name)
            self._refill()
        return self._finish(budget)

    def _choose_last(self, budget: float) -> tuple[str, str]:
        """Return whose next move meets the budget at the least loss: what it saves beyond that is worth nothing."""
        losses = {key: self._find_last_loss(*key, budget) for key in self._order}
        return min((loss, self._order[key], key) for key, loss in losses.items() if loss is not None)[2]

    def _find_last_loss(self, kind: str, name: str, budget: float) -> float | None:
        """Return the loss that a move adds which meets the budget, `None` where none does."""
        if kind == "group":
            offer = self._next_channels(name)
            return offer.loss if offer is not None and self.cost - self._channel_saving(offer) <= budget else None
        found = self._find_rank(name)
        rank = None if found is None else self._find_last_rank(name, found[0], budget)
        if rank is None:
            return None
        layer, current = self._layers[name], self._rank[name]
        return float(layer.lost[rank] - (0.0 if current == UNDECOMPOSED else layer.lost[current]))

    def _find_last_rank(self, name: str, least: int, budget: float) -> int | None:
        """Return the largest rank, `least` or over, of a cheaper form that meets the budget."""
        layer, current = self._layers[name], self._rank[name]
        now, costs = layer.cost(self._sizes, current), layer.costs(self._sizes)
        limit = len(costs) if current == UNDECOMPOSED else current - 1
        enough = (costs < now) & (self.cost - now + costs <= budget)
        ranks = np.flatnonzero(enough[:limit]) + 1
        return int(ranks[-1]) if len(ranks) and ranks[-1] >= least else None

    def _offer_all(self) -> None:
        for kind, name in self._order:
            self._offer(kind, name)

    def _refill(self) -> None:
        """Where the queue has run out: what saved nothing when its turn came may do so now that others are smaller."""
        if not self._queue:
            self._offer_all()

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
        offer = self._next_channels(name)
        return None if offer is None else offer.loss / self._channel_saving(offer)

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
        layer, best = self._layers[name], found[0]
        rank = self._find_last_rank(name, best, budget) or best
        self.cost += layer.cost(self._sizes, rank) - layer.cost(self._sizes, self._rank[name])
        self._rank[name] = rank

    def _next_channels(self, name: str) -> ChannelOffer | None:
        """Return the fewest of a group's next channels that save something and leave something of every axis.

        Measured costs fall in steps: one offer alone may save nothing.
        """
        offers, taken = self._groups[name], self._taken[name]
        for count in range(1, min(_LOOK_AHEAD, len(offers) - taken - 1) + 1):
            offer = _merge_offers(offers[taken : taken + count])
            if any(self._sizes[axis] <= positions for axis, positions in offer.touches):
                return None
            if self._channel_saving(offer) > 0:
                return offer
        return None

    def _channel_saving(self, offer: ChannelOffer) -> float:
        """Return what removing channels saves."""
        before = self._cost_on(offer)
        self._resize(offer, -1)
        after = self._cost_on(offer)
        self._resize(offer, 1)
        return before - after

    def _take_channels(self, name: str) -> None:
        """Remove a group's next channels; a pair that no longer pays becomes one Conv again."""
        offer = self._next_channels(name)
        if offer is None:
            return
        self.cost -= self._channel_saving(offer)
        left = len(offer.channels)
        while left > 0:
            left -= len(self._groups[name][self._taken[name]].channels)
            self._taken[name] += 1
        self._resize(offer, -1)
        for layer_name in self._list_layers(offer):
            layer, rank = self._layers[layer_name], self._rank[layer_name]
            if rank != UNDECOMPOSED and not layer.pays(self._sizes, rank):
                self.cost += layer.cost(self._sizes, UNDECOMPOSED) - layer.cost(self._sizes, rank)
                self._rank[layer_name] = UNDECOMPOSED
                self._offer("layer", layer_name)

    def _list_layers(self, offer: ChannelOffer) -> list[str]:
        """Return the layers that channels touch, in an order that is the same in every run."""
        return sorted({name for axis, _ in offer.touches for name in self._layers_on[axis]})

    def _resize(self, offer: ChannelOffer, sign: int) -> None:
        for axis, count in offer.touches:
            self._sizes[axis] += sign * count

    def _cost_on(self, offer: ChannelOffer) -> float:
        """Return the cost of all that channels touch."""
        weights = sorted({index for axis, _ in offer.touches for index in self._weights_on[axis]})
        return sum(self._weights[index].cost(self._sizes) for index in weights) + sum(
            self._layers[name].cost(self._sizes, self._rank[name]) for name in self._list_layers(offer)
        )

    def _finish(self, budget: float) -> WalkResult:
        ranks = {name: rank for name, rank in self._rank.items() if rank != UNDECOMPOSED}
        taken = [offer for name, offers in self._groups.items() for offer in offers[: self._taken[name]]]
        removed = [channel for offer in taken for channel in offer.channels]
        losses = {
            name: 0.0 if rank == UNDECOMPOSED else float(self._layers[name].lost[rank])
            for name, rank in self._rank.items()
        }
        return WalkResult(ranks, tuple(removed), losses, self.cost, self.cost <= budget)


def _merge_offers(offers: Sequence[ChannelOffer]) -> ChannelOffer:
    """Return offers that are taken together as one."""
    if len(offers) == 1:
        return offers[0]
    touches: Counter[int] = Counter()
    for offer in offers:
        touches.update(dict(offer.touches))
    channels = tuple(channel for offer in offers for channel in offer.channels)
    return ChannelOffer(channels, sum(offer.loss for offer in offers), tuple(touches.items()))
