"""From scores and a budget to a plan: costs as terms of one walk, and what the plan will cost, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.assessment import Assessment, Prune
from onnx_basisprune.costing import Prices, TermBuilder, Unit
from onnx_basisprune.graph.cost import count_pair_weights, measure_cost
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.graph.surgery import remove_channels
from onnx_basisprune.network import Network
from onnx_basisprune.planning.terms import select_best
from onnx_basisprune.planning.types import Plan

# The walk's own account is exact but for weights that several nodes share and cut differently.
_CORRECTIONS = 4


@dataclass(frozen=True)
class Budget:
    """What may be left of the original.

    Attributes:
        unit: What is counted: multiply-adds, parameters, or microseconds by the prices.
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
        left: What is left, in the budget's unit.
    """

    plan: Plan
    forecast: Forecast
    losses: Mapping[str, float]
    reached: bool
    left: float


def plan_cut(
    network: Network,
    assessment: Assessment,
    prune: Prune,
    budget: Budget,
    prices: Prices | None = None,
    align: int = 1,
) -> PlannedCut:
    """Choose ranks and channels that meet a budget at the least loss.

    Where even the cheapest forms cost more than the budget, these are returned, with `reached` false.

    Args:
        network: What is cut.
        assessment: Scores of its components and channels.
        prune: What may go.
        budget: What may be left.
        prices: Measured times, see `TermBuilder`; needed for a budget of time.
        align: Ranks and kept channels are multiples of this.
    """
    limit = budget.limit
    for _ in range(_CORRECTIONS):
        result = TermBuilder(network, budget.unit, prices, align).start(assessment, prune).run(limit)
        components = {name: select_best(assessment.components[name], rank) for name, rank in result.ranks.items()}
        kept = {
            group.name: group.channels[~np.isin(group.channels, result.removed)]
            for group in network.channels.groups
            if np.isin(group.channels, result.removed).any()
        }
        plan = Plan(components, kept)
        forecast = forecast_cost(network, plan)
        left = {"macs": forecast.macs, "params": forecast.parameters, "latency": result.cost}[budget.unit]
        over = left - budget.limit
        if over <= 0 or not result.reached:
            break
        limit -= over
    return PlannedCut(plan, forecast, result.losses, over <= 0, left)


def keeps_as_much(one: Plan, other: Plan) -> bool:
    """Return whether two plans keep as much of everything; those of one assessment are the same then."""
    return all(
        {name: len(kept) for name, kept in a.items()} == {name: len(kept) for name, kept in b.items()}
        for a, b in ((one.components, other.components), (one.channels, other.channels))
    )


def list_removed(network: Network, plan: Plan) -> NDArray[np.int64]:
    """Return the classes of all channels that a plan removes."""
    gone = [
        group.channels[~np.isin(group.channels, plan.channels[group.name])]
        for group in network.channels.groups
        if group.name in plan.channels
    ]
    return np.concatenate([np.zeros(0, dtype=np.int64), *gone])


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


def predict_times(network: Network, prices: Prices, plan: Plan) -> dict[str, float]:
    """Return what each Conv takes within the model once a plan is carried out, as the walk reckons it.

    Args:
        network: What the prices are of.
        prices: Measured times.
        plan: What is kept.

    Returns:
        Conv name → milliseconds for one run; one that onnxruntime shows no time of is left out.
    """
    removed = list_removed(network, plan)
    sides = {
        (item.node, item.axis): (len(item.labels), int(np.isin(item.labels, removed).sum()))
        for item in network.channels.couplings
        if item.input_index == 1
    }
    times = {}
    for layer in network.layers:
        outs, ins = (sides.get((layer.name, axis), (1, 0)) for axis in (0, 1))
        price, rank = prices.layers.get(layer.name), plan.components.get(layer.name)
        if price is not None:
            shape = network.program.initializers[layer.weight].shape
            left = shape[1] - ins[1], shape[0] - outs[1]
            times[layer.name] = price.whole(*left)
            if rank is not None:
                times[layer.name] = float(price.pair(left[0], np.array([len(rank)]), left[1])[0])
        elif layer.name in prices.nodes:
            # Its time goes with its weight's size.
            share = prod(1 - gone / size for size, gone in (ins, outs))
            times[layer.name] = prices.nodes[layer.name] * share
    return {name: time / 1000 for name, time in times.items()}
