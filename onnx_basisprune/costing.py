"""A network's costs as axes and terms of a walk: multiply-adds, parameters, or measured time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd, lcm, prod
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.assessment import Assessment, Prune
from onnx_basisprune.graph.channel_tracer import Coupling
from onnx_basisprune.network import Network
from onnx_basisprune.planning.channels import varying_axes
from onnx_basisprune.planning.prices import CountedPrice, Price
from onnx_basisprune.planning.terms import ChannelOffer, LayerTerm, WeightTerm, accumulate_losses, sort_channels
from onnx_basisprune.planning.types import Operation
from onnx_basisprune.planning.walk import Walk

Unit = Literal["macs", "params", "latency"]
Vector = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class Prices:
    """What onnxruntime takes for a network on this machine, in microseconds.

    Attributes:
        layers: Conv name → time of its forms, of all Convs that can be decomposed.
        nodes: Node name → its time in the original model, of all others.
        fixed: Time that belongs to no node.
        block: Channel counts are filled up to multiples of this.
    """

    layers: Mapping[str, Price]
    nodes: Mapping[str, float]
    fixed: float
    block: int


class TermBuilder:
    """Translates a network into axes and terms of a walk.

    Args:
        network: What is planned for.
        unit: What the walk saves.
        prices: Measured times. They are what `latency` is counted in; with another unit they hold the walk to pairs
            that are faster than their Convs, `None` allows slower ones.
        align: Ranks and kept channels are multiples of this.
    """

    def __init__(self, network: Network, unit: Unit, prices: Prices | None, align: int) -> None:
        self._network, self._unit, self._prices, self._align = network, unit, prices, align
        self._couplings = network.channels.couplings
        self._sizes = [len(coupling.labels) for coupling in self._couplings]
        self._labels = [coupling.labels for coupling in self._couplings]
        self._axes = {(item.node, item.input_index, item.axis): index for index, item in enumerate(self._couplings)}
        self._macs = {node.name: node.macs or 0 for node in network.cost.nodes}

    def start(self, assessment: Assessment, prune: Prune) -> Walk:
        """Return the walk at its beginning: everything undecomposed and kept."""
        components = dict(assessment.components)
        if self._unit == "latency":
            # Their time is a staircase in the channels, even where they stay as they are.
            components = {name: components.get(name, np.zeros(0)) for name in _expect(self._prices).layers}
        layers = {name: self._make_layer(name, accumulate_losses(scores)) for name, scores in components.items()}
        weights = [*self._list_weights(set(layers)), *self._list_products()]
        if self._unit == "latency":
            weights += self._list_outputs(set(layers))
        groups = {
            group.name: self._list_offers(group.channels, assessment.channels)
            for group in self._network.channels.groups
            # Where no channel has any score, the loss doesn't depend on them: another output may.
            if not group.blocked_by
            and prune != "basis"
            and any(assessment.channels.get(int(c)) for c in group.channels)
        }
        sizes = np.array(self._sizes, dtype=np.int64)
        return Walk(sizes, weights, layers, groups, self._count_total() - Walk(sizes, weights, layers, {}).cost)

    def _count_total(self) -> float:
        """Return what the whole network costs."""
        if self._unit == "latency":
            return sum_latency(self._network, _expect(self._prices))
        return float(self._network.cost.macs if self._unit == "macs" else self._network.cost.parameters)

    def _spend(self, node: str) -> float:
        """Return the multiply-adds or the time of a node."""
        return float(self._macs[node]) if self._unit == "macs" else _expect(self._prices).nodes.get(node, 0.0)

    def _axis(self, node: str, input_index: int, axis: int, size: int) -> int:
        """Return a weight axis' index; one that nothing is coupled to gets an index of its own."""
        key = (node, input_index, axis)
        if key not in self._axes:
            self._axes[key] = self._add_axis(np.zeros(size, dtype=np.int64))
        return self._axes[key]

    def _add_axis(self, labels: NDArray[np.int64]) -> int:
        """Add an axis with the class of each position."""
        self._labels.append(labels)
        self._sizes.append(len(labels))
        return len(self._sizes) - 1

    def _make_layer(self, name: str, lost: Vector) -> LayerTerm:
        layer = self._network.eligible[name]
        in_channels = self._network.program.initializers[layer.weight].shape[1]
        unit = self._macs[name] / (layer.fan_in * layer.out_channels) if self._unit == "macs" else 1.0
        extra = 1.0 if self._unit == "params" and not layer.bias else 0.0
        counted = CountedPrice(unit, layer.fan_in // in_channels, extra)
        time = self._prices.layers[name] if self._prices else None
        return LayerTerm(
            price=_expect(time) if self._unit == "latency" else counted,
            inputs=self._axis(name, 1, 1, in_channels),
            outputs=self._axis(name, 1, 0, layer.out_channels),
            lost=lost,
            time=None if self._unit == "latency" else time,
            align=self._align,
        )

    def _list_weights(self, decomposable: set[str]) -> list[WeightTerm]:
        """Return a term for each weight that can be cut and isn't a decomposable Conv's."""
        initializers = self._network.program.initializers
        terms, counted = [], set()
        for (node, input_index), axes in _group_couplings(self._couplings).items():
            operation = self._network.operations[node]
            name = operation.inputs[input_index]
            is_main = name == find_main_weight(operation, self._network)
            if is_main and node in decomposable:
                continue
            if self._unit == "params":
                share = 0.0 if name in counted else float(initializers[name].size)
                counted.add(name)
            else:
                share = self._spend(node) if is_main else 0.0
            if share:
                terms.append(WeightTerm(share / prod(self._sizes[axis] for axis in axes), tuple(axes)))
        return terms

    def _list_products(self) -> list[WeightTerm]:
        """Return a term for each MatMul of two activations that have channels."""
        if self._unit == "params":
            return []
        terms = []
        for operation in self._network.program.operations:
            axes = [self._add_axis(labels) for labels in list_product_axes(operation, self._network)]
            share = self._spend(operation.name) if axes else 0.0
            if share:
                terms.append(WeightTerm(share / prod(self._sizes[axis] for axis in axes), tuple(axes)))
        return terms

    def _list_outputs(self, decomposable: set[str]) -> list[WeightTerm]:
        """Return a term for each node whose time goes with the channels of what it writes."""
        weighted = {item.node for item in self._couplings if self._has_main_weight(item)}
        terms = []
        for operation in self._network.program.operations:
            share, labels = self._spend(operation.name), self._network.channels.labels.get(operation.outputs[0])
            done = operation.name in decomposable | weighted or list_product_axes(operation, self._network)
            if share and not done and labels is not None and varying_axes(labels):
                axis = self._add_axis(labels.reshape(-1))
                terms.append(WeightTerm(share / self._sizes[axis], (axis,)))
        return terms

    def _has_main_weight(self, coupling: Coupling) -> bool:
        operation = self._network.operations[coupling.node]
        return operation.inputs[coupling.input_index] == find_main_weight(operation, self._network)

    def _list_offers(self, channels: NDArray[np.int64], scores: Mapping[int, float]) -> list[ChannelOffer]:
        """Return a group's channels in blocks, least score first."""
        touches: dict[int, dict[int, int]] = {int(channel): {} for channel in channels}
        for index, labels in enumerate(self._labels):
            found = labels[np.isin(labels, channels)]
            for channel, count in zip(*np.unique(found, return_counts=True), strict=True):
                touches[int(channel)][index] = int(count)
        ordered = sort_channels(channels, scores)
        block = _find_block(touches.values(), self._align)
        # What is left is a multiple of the block from the first offer on.
        starts = [0, *range(len(ordered) % block or block, len(ordered), block)]
        blocks = [ordered[start:end] for start, end in zip(starts, [*starts[1:], len(ordered)], strict=True)]
        return [
            ChannelOffer(
                tuple(members),
                sum(scores.get(channel, 0.0) for channel in members),
                _sum_touches([touches[channel] for channel in members]),
            )
            for members in blocks
        ]


def _expect(value: T | None) -> T:
    """Return a value that the unit `latency` can't do without."""
    if value is None:
        raise ValueError("the unit latency needs measured prices")
    return value


def _find_block(touches: Iterable[Mapping[int, int]], align: int) -> int:
    """Return how many channels go at once, so that every axis loses a multiple of `align` positions."""
    return lcm(*(align // gcd(align, count) for item in touches for count in item.values()))


def _sum_touches(touches: Sequence[Mapping[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return how much smaller each axis gets when several channels go."""
    total: Counter[int] = Counter()
    for item in touches:
        total.update(item)
    return tuple(sorted(total.items()))


def sum_latency(network: Network, prices: Prices) -> float:
    """Return the time of the whole network by its prices, in microseconds."""
    weights = {name: network.program.initializers[network.eligible[name].weight].shape for name in prices.layers}
    layers = sum(price.whole(weights[name][1], weights[name][0]) for name, price in prices.layers.items())
    return prices.fixed + sum(prices.nodes.values()) + layers


def _group_couplings(couplings: tuple[Coupling, ...]) -> dict[tuple[str, int], list[int]]:
    """Return the indices of the couplings of each weight, by reading node and input."""
    grouped: dict[tuple[str, int], list[int]] = {}
    for index, coupling in enumerate(couplings):
        grouped.setdefault((coupling.node, coupling.input_index), []).append(index)
    return grouped


def find_main_weight(operation: Operation, network: Network) -> str:
    """Return the initializer that a node's multiply-adds are spent on, `""` for none."""
    if operation.op_type in ("Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"):
        return next((name for name in operation.inputs[1::-1] if name in network.program.initializers), "")
    return ""


def list_product_axes(operation: Operation, network: Network) -> list[NDArray[np.int64]]:
    """Return the classes along the axes of a MatMul of two activations that its multiply-adds depend on."""
    if operation.op_type != "MatMul" or find_main_weight(operation, network):
        return []
    found = []
    for name in (operation.inputs[0], operation.outputs[0]):
        labels = network.channels.labels.get(name)
        if labels is not None and varying_axes(labels):
            found.append(labels.reshape(-1))
    return found
