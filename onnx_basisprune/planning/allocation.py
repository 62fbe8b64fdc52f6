"""Which component of which layer goes: lower convex hulls, walked by loss per cost saved (METHOD section 3).

Every layer offers points (cost, loss): undecomposed at loss 0, or its best `r` components at the loss of those
removed. On the lower convex hull of these points each step to the next cheaper point has a slope, loss added per cost
saved; slopes grow along the hull, so taking all steps of all layers in the order of their slopes gives at every
budget the least total loss that hull points can give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.planning.types import ConvLayer, Plan

# price(layer, rank) -> cost in the budget's unit; rank None is undecomposed. A layer whose neighbours shrank is
# priced as a copy with its new `fan_in` and `out_channels`.
Price = Callable[[ConvLayer, "int | None"], float]


@dataclass(frozen=True)
class LayerChoice:
    """One layer's admissible forms, from undecomposed to rank 1, cheaper with every entry.

    Attributes:
        ranks: `[n]`; -1 for undecomposed, always first.
        costs: `[n]`, strictly decreasing.
        losses: `[n]`, in the unit of the scores; never decreasing.
    """

    ranks: NDArray[np.int64]
    costs: NDArray[np.float64]
    losses: NDArray[np.float64]


@dataclass(frozen=True)
class _Step:
    """A move along one layer's hull, from one point to the next cheaper one."""

    slope: float
    layer: str
    start: int
    end: int


@dataclass(frozen=True)
class Allocation:
    """The ranks that meet a budget.

    Attributes:
        plan: Kept components of each decomposed layer.
        losses: Layer name → removed scores, 0 for undecomposed layers.
        reached: Whether the budget is met.
    """

    plan: Plan
    losses: Mapping[str, float]
    reached: bool


def list_choices(layer: ConvLayer, scores: NDArray[np.float64], price: Price) -> LayerChoice:
    """Return a layer's admissible forms: only those ranks whose pair is cheaper than the Conv itself.

    Args:
        layer: The Conv.
        scores: `[components]`, the loss that removing each component adds.
        price: What a form costs, in the budget's unit.
    """
    ordered = np.sort(scores)[::-1]
    # lost[r]: the sum of all but the r best scores, summed from the small end to keep their digits.
    lost = np.concatenate([np.cumsum(ordered[::-1])[::-1], [0.0]])
    ranks, costs, losses = [-1], [price(layer, None)], [0.0]
    for rank in range(len(scores), 0, -1):
        cost = price(layer, rank)
        if cost < costs[-1]:
            ranks.append(rank)
            costs.append(cost)
            losses.append(float(lost[rank]))
    return LayerChoice(np.array(ranks), np.array(costs, dtype=np.float64), np.array(losses))


def find_hull(choice: LayerChoice) -> NDArray[np.int64]:
    """Return the indices of the points on the lower convex hull of (cost, loss), in the order of `choice`."""
    hull: list[int] = []
    for point in range(len(choice.costs)):
        while len(hull) > 1 and _slope(choice, hull[-2], hull[-1]) >= _slope(choice, hull[-1], point):
            hull.pop()
        hull.append(point)
    return np.array(hull, dtype=np.int64)


def _slope(choice: LayerChoice, start: int, end: int) -> float:
    """Return the loss added per cost saved between two points of a layer."""
    saved = choice.costs[start] - choice.costs[end]
    return float((choice.losses[end] - choice.losses[start]) / saved)


def allocate_ranks(
    choices: Mapping[str, LayerChoice],
    scores: Mapping[str, NDArray[np.float64]],
    budget: float,
) -> Allocation:
    """Choose each layer's form so that the costs sum to at most the budget at the least loss.

    Args:
        choices: The forms of each eligible layer.
        scores: Component scores of each layer, to tell which components the best `r` are.
        budget: What the layers of `choices` may cost together.

    Returns:
        The plan. Where even the cheapest forms cost more, these, with `reached` false.
    """
    chosen = dict.fromkeys(choices, 0)
    cost = sum(float(choice.costs[0]) for choice in choices.values())
    steps = [
        _Step(_slope(choices[name], start, end), name, start, end)
        for name in choices
        for start, end in pairwise(find_hull(choices[name]).tolist())
    ]
    for step in sorted(steps, key=lambda step: step.slope):
        if cost <= budget:
            break
        choice = choices[step.layer]
        before = float(choice.costs[step.start])
        # The last step is cut at the first admissible rank that meets the budget.
        end = next(
            (point for point in range(step.start + 1, step.end) if cost - before + choice.costs[point] <= budget),
            step.end,
        )
        chosen[step.layer] = end
        cost += float(choice.costs[end]) - before
    components, losses = {}, {}
    for name, point in chosen.items():
        losses[name] = float(choices[name].losses[point])
        if point > 0:
            components[name] = select_best(scores[name], int(choices[name].ranks[point]))
    return Allocation(Plan(components), losses, cost <= budget)


def select_best(scores: NDArray[np.float64], rank: int) -> NDArray[np.int64]:
    """Return the indices of the `rank` highest scores, ascending; of equal ones the first."""
    return np.sort(np.argsort(-scores, kind="stable")[:rank]).astype(np.int64)
