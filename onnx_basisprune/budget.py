"""From scores and a budget to a plan: costs as terms of one walk, and what the plan will cost, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.assessment import Assessment, Prune
from onnx_basisprune.graph.channel_tracer import Coupling
from onnx_basisprune.graph.cost import count_pair_weights, measure_cost
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.graph.surgery import remove_channels
from onnx_basisprune.network import Network
from onnx_basisprune.planning.channels import varying_axes
from onnx_basisprune.planning.types import Operation, Plan
from onnx_basisprune.planning.walk import ChannelOffer, LayerTerm, Walk, WeightTerm, accumulate_losses, select_best

Unit = Literal["macs", "params"]
Vector = NDArray[np.float64]

# The walk's own account is exact but for weights that several nodes share and cut differently.
_CORRECTIONS = 4


@dataclass(frozen=True)
class Budget:
    """What may be left: a fraction of the original's multiply-adds or parameters.

    Attributes:
        unit: What is counted.
        limit: The most that may be left.
    """

    unit: Unit
    limit: float


@dataclass(frozen=True)
class Forecast:
    """What a cut model costs, known before it is made.

    Attributes:
        macs: Multiply-adds for one image.
        parameters: All of them.
        layers: Conv name → its multiply-adds and parameters.
    """

    macs: int
    parameters: int
    layers: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class PlannedCut:
    """A plan with what it is expected to do.

    Attributes:
        plan: What is kept.
        forecast: What the cut model will cost, exactly.
        losses: Conv name → sum of its removed components' scores.
        reached: Whether the budget is met.
    """

    plan: Plan
    forecast: Forecast
    losses: Mapping[str, float]
    reached: bool


def plan_cut(network: Network, assessment: Assessment, prune: Prune, budget: Budget) -> PlannedCut:
    """Choose ranks and channels that meet a budget at the least loss.

    Where even the cheapest forms cost more than the budget, these are returned, with `reached` false.
    """
    limit = budget.limit
    for _ in range(_CORRECTIONS):
        result = _TermBuilder(network, budget.unit).start(assessment, prune).run(limit)
        components = {name: select_best(assessment.components[name], rank) for name, rank in result.ranks.items()}
        kept = {
            group.name: group.channels[~np.isin(group.channels, result.removed)]
            for group in network.channels.groups
            if np.isin(group.channels, result.removed).any()
        }
        plan = Plan(components, kept)
        forecast = forecast_cost(network, plan)
        over = (forecast.macs if budget.unit == "macs" else forecast.parameters) - budget.limit
        if over <= 0 or not result.reached:
            break
        limit -= over
    return PlannedCut(plan, forecast, result.losses, over <= 0)


def list_removed(network: Network, plan: Plan) -> NDArray[np.int64]:
    """Return the classes of all channels that a plan removes."""
    gone = [
        group.channels[~np.isin(group.channels, plan.channels[group.name])]
        for group in network.channels.groups
        if group.name in plan.channels
    ]
    return np.concatenate([np.zeros(0, dtype=np.int64), *gone])


class _TermBuilder:
    """Translates a network into axes and terms of a walk."""

    def __init__(self, network: Network, unit: Unit) -> None:
        self._network, self._unit = network, unit
        self._couplings = network.channels.couplings
        self._sizes = [len(coupling.labels) for coupling in self._couplings]
        self._labels = [coupling.labels for coupling in self._couplings]
        self._axes = {(item.node, item.input_index, item.axis): index for index, item in enumerate(self._couplings)}
        self._macs = {node.name: node.macs or 0 for node in network.cost.nodes}

    def start(self, assessment: Assessment, prune: Prune) -> Walk:
        """Return the walk at its beginning: everything undecomposed and kept."""
        layers = {
            name: self._make_layer(name, accumulate_losses(scores)) for name, scores in assessment.components.items()
        }
        weights = [*self._list_weights(set(layers)), *self._list_products()]
        groups = {
            group.name: self._list_offers(group.channels, assessment.channels)
            for group in self._network.channels.groups
            # Where no channel has any score, the loss doesn't depend on them: another output may.
            if not group.blocked_by
            and prune != "basis"
            and any(assessment.channels.get(int(c)) for c in group.channels)
        }
        sizes = np.array(self._sizes, dtype=np.int64)
        total = self._network.cost.macs if self._unit == "macs" else self._network.cost.parameters
        return Walk(sizes, weights, layers, groups, total - Walk(sizes, weights, layers, {}).cost)

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
        return LayerTerm(
            unit=unit,
            kernel=layer.fan_in // in_channels,
            inputs=self._axis(name, 1, 1, in_channels),
            outputs=self._axis(name, 1, 0, layer.out_channels),
            pair_extra=0.0 if self._unit == "macs" or layer.bias else 1.0,
            lost=lost,
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
                share = float(self._macs[node]) if is_main else 0.0
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
            if axes and self._macs[operation.name]:
                share = self._macs[operation.name] / prod(self._sizes[axis] for axis in axes)
                terms.append(WeightTerm(share, tuple(axes)))
        return terms

    def _list_offers(self, channels: NDArray[np.int64], scores: Mapping[int, float]) -> list[ChannelOffer]:
        """Return a group's channels, least score first."""
        touches: dict[int, list[tuple[int, int]]] = {int(channel): [] for channel in channels}
        for index, labels in enumerate(self._labels):
            found = labels[np.isin(labels, channels)]
            for channel, count in zip(*np.unique(found, return_counts=True), strict=True):
                touches[int(channel)].append((index, int(count)))
        offers = [ChannelOffer(channel, scores.get(channel, 0.0), tuple(at)) for channel, at in touches.items()]
        return sorted(offers, key=lambda offer: offer.loss)


def _group_couplings(couplings: tuple[Coupling, ...]) -> dict[tuple[str, int], list[int]]:
    """Return the indices of the couplings of each weight, by reading node and input."""
    grouped: dict[tuple[str, int], list[int]] = {}
    for index, coupling in enumerate(couplings):
        grouped.setdefault((coupling.node, coupling.input_index), []).append(index)
    return grouped


def find_main_weight(operation: Operation, network: Network) -> str:
    """Return the initializer that a node's multiply-adds are spent on, `""` for none."""
    if operation.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
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


def forecast_cost(network: Network, plan: Plan) -> Forecast:
    """Count the network without the removed channels, and price the pairs by their formula (METHOD section 0)."""
    removed = list_removed(network, plan)
    sliced = remove_channels(network.model, network.channels, removed, network.input_shapes) if len(removed) else None
    cost = network.cost if sliced is None else measure_cost(sliced, network.input_shapes)
    weights = extract_program(sliced).initializers if sliced is not None else network.program.initializers
    macs, parameters, layers = cost.macs, cost.parameters, {}
    rows = {row.name: row for row in cost.nodes}
    for layer in network.layers:
        row = rows[layer.name]
        after = (row.macs or 0, row.parameters)
        if layer.name in plan.components:
            rank, shape = len(plan.components[layer.name]), weights[layer.weight].shape
            positions = (row.macs or 0) // prod(shape)
            after = (positions * count_pair_weights(shape, rank), count_pair_weights(shape, rank) + shape[0])
        layers[layer.name] = after
        macs += after[0] - (row.macs or 0)
        parameters += after[1] - row.parameters
    return Forecast(macs, parameters, layers)
