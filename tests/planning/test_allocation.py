"""Allocation: hulls, the walk against brute force, budgets that can and can't be met."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_basisprune.planning.allocation import (
    Allocation,
    LayerChoice,
    allocate_ranks,
    find_hull,
    list_choices,
    select_best,
)
from onnx_basisprune.planning.types import ConvLayer

SCORES = st.lists(st.one_of(st.just(0.0), st.sampled_from([1.0, 2.0]), st.floats(1e-12, 1e3)), min_size=2, max_size=9)


def make_layer(out_channels: int = 8, fan_in: int = 72, name: str = "conv") -> ConvLayer:
    return ConvLayer(name, "Conv", f"{name}.weight", "", out_channels, fan_in)


def price_macs(layer: ConvLayer, rank: int | None) -> int:
    if rank is None:
        return layer.fan_in * layer.out_channels
    return rank * (layer.fan_in + layer.out_channels)


def make_choice(scores: list[float], fan_in: int = 72) -> LayerChoice:
    return list_choices(make_layer(len(scores), fan_in), np.array(scores), price_macs)


def find_cost(allocation: Allocation, layers: dict[str, ConvLayer]) -> int:
    kept = allocation.plan.components
    return sum(price_macs(layer, len(kept[name]) if name in kept else None) for name, layer in layers.items())


def test_only_ranks_that_pay_are_offered() -> None:
    # 8·72 = 576 against 80·r: 7 is the largest rank below break-even.
    choice = make_choice([5.0, 1.0, 3.0, 0.5, 2.0, 4.0, 0.25, 0.125])
    assert choice.ranks.tolist() == [-1, 7, 6, 5, 4, 3, 2, 1]
    assert choice.costs.tolist() == [576, 560, 480, 400, 320, 240, 160, 80]
    assert choice.losses.tolist() == [0.0, 0.125, 0.375, 0.875, 1.875, 3.875, 6.875, 10.875]


def test_prices_with_plateaus_offer_only_what_is_cheaper() -> None:
    # Time that falls in blocks of two ranks, and a pair that is dearer than the Conv at high ranks.
    def price(layer: ConvLayer, rank: int | None) -> float:
        return 2.5 if rank is None else float(-(-rank // 2))

    choice = list_choices(make_layer(6), np.arange(6.0), price)
    assert choice.ranks.tolist() == [-1, 4, 2]
    assert choice.costs.tolist() == [2.5, 2.0, 1.0]


def test_layer_that_never_gains_has_one_form() -> None:
    choice = list_choices(make_layer(), np.ones(8), lambda _, rank: 1.0 if rank is None else 2.0)
    assert choice.ranks.tolist() == [-1]
    assert find_hull(choice).tolist() == [0]
    allocation = allocate_ranks({"conv": choice}, {"conv": np.ones(8)}, 0.5)
    assert not allocation.reached
    assert dict(allocation.plan.components) == {}


@settings(max_examples=200, deadline=None)
@given(
    points=st.lists(
        st.tuples(st.floats(0.01, 10.0), st.one_of(st.just(0.0), st.floats(0.0, 10.0))), min_size=0, max_size=12
    )
)
def test_hull_is_below_all_points_and_convex(points: list[tuple[float, float]]) -> None:
    # Costs fall and losses grow along a choice.
    costs = 200.0 - np.concatenate([[0.0], np.cumsum([saved for saved, _ in points])])
    losses = np.concatenate([[0.0], np.cumsum([added for _, added in points])])
    choice = LayerChoice(np.arange(len(costs)) - 1, costs, losses)
    hull = find_hull(choice)
    assert hull[0] == 0
    assert hull[-1] == len(costs) - 1
    slopes = np.diff(losses[hull]) / -np.diff(costs[hull])
    assert (np.diff(slopes) > 0).all()
    below = np.interp(costs[::-1], costs[hull][::-1], losses[hull][::-1])[::-1]
    # float64 interpolation.
    assert (below <= losses + 1e-9 * max(1.0, losses[-1])).all()


@settings(max_examples=150, deadline=None)
@given(all_scores=st.lists(SCORES, min_size=1, max_size=3), share=st.floats(0.0, 1.1), data=st.data())
def test_budget_is_met_and_the_walk_is_optimal_on_the_hulls(
    all_scores: list[list[float]], share: float, data: st.DataObject
) -> None:
    layers = {f"c{i}": make_layer(len(s), data.draw(st.integers(4, 90)), f"c{i}") for i, s in enumerate(all_scores)}
    scores = {f"c{i}": np.array(s) for i, s in enumerate(all_scores)}
    choices = {name: list_choices(layers[name], scores[name], price_macs) for name in layers}
    full = sum(choice.costs[0] for choice in choices.values())
    cheapest = sum(choice.costs[-1] for choice in choices.values())
    budget = share * full
    allocation = allocate_ranks(choices, scores, budget)
    cost = find_cost(allocation, layers)
    assert allocation.reached == (cost <= budget) == (cheapest <= budget)
    if not allocation.reached:
        assert cost == cheapest
    for name, kept in allocation.plan.components.items():
        assert len(kept) in choices[name].ranks
        assert price_macs(layers[name], len(kept)) < price_macs(layers[name], None)
    for name, loss in allocation.losses.items():
        kept = allocation.plan.components.get(name)
        removed = 0.0 if kept is None else np.delete(scores[name], kept).sum()
        assert loss == pytest.approx(removed, rel=1e-9, abs=1e-12)
    # Of all combinations of hull points that cost no more than this one, none loses less - except through
    # the last, cut step, which isn't on a hull: there the uncut step bounds the loss from above.
    hulls = {name: find_hull(choice) for name, choice in choices.items()}
    best = min(
        (
            sum(choices[name].losses[point] for name, point in zip(choices, points, strict=True))
            for points in product(*hulls.values())
            if sum(choices[n].costs[p] for n, p in zip(choices, points, strict=True)) <= min(cost, budget)
        ),
        default=np.inf,
    )
    total = sum(allocation.losses.values())
    on_hulls = all(
        name not in allocation.plan.components
        or len(allocation.plan.components[name]) in choices[name].ranks[hulls[name]]
        for name in choices
    )
    if on_hulls:
        assert total <= best + 1e-9 * max(1.0, total)
    assert count_off_hull(allocation, choices, hulls) <= 1


def count_off_hull(allocation: Allocation, choices: dict[str, LayerChoice], hulls: dict[str, NDArray[np.int64]]) -> int:
    return sum(len(kept) not in choices[name].ranks[hulls[name]] for name, kept in allocation.plan.components.items())


def test_last_step_is_cut_at_the_first_rank_that_meets_the_budget() -> None:
    # Equal scores: one straight hull from undecomposed to rank 1, cut anywhere.
    choice = make_choice([1.0] * 8)
    assert find_hull(choice).tolist() == [0, 1, 7] or find_hull(choice).tolist() == [0, 7]
    for budget, rank in ((576, None), (575, 7), (560, 7), (559, 6), (401, 5), (400, 5), (399, 4), (80, 1)):
        allocation = allocate_ranks({"conv": choice}, {"conv": np.ones(8)}, budget)
        kept = allocation.plan.components.get("conv")
        assert (None if kept is None else len(kept)) == rank
        assert allocation.reached


def test_unreachable_budget_takes_the_cheapest_of_everything() -> None:
    layers = {"a": make_layer(name="a"), "b": make_layer(name="b", fan_in=9)}
    scores = {name: np.arange(1.0, 9.0) for name in layers}
    choices = {name: list_choices(layers[name], scores[name], price_macs) for name in layers}
    allocation = allocate_ranks(choices, scores, -5.0)
    assert not allocation.reached
    assert {name: kept.tolist() for name, kept in allocation.plan.components.items()} == {"a": [7], "b": [7]}


def test_nothing_is_removed_within_the_budget() -> None:
    allocation = allocate_ranks({"conv": make_choice([1.0, 2.0])}, {"conv": np.array([1.0, 2.0])}, 1e9)
    assert allocation.reached
    assert dict(allocation.plan.components) == {}
    assert dict(allocation.losses) == {"conv": 0.0}


def test_no_layers() -> None:
    assert allocate_ranks({}, {}, 0.0).reached
    assert not allocate_ranks({}, {}, -1.0).reached


def test_equal_slopes_are_walked_in_graph_order() -> None:
    names = ["z", "a", "m"]
    choices = {name: make_choice([1.0] * 8) for name in names}
    scores = {name: np.ones(8) for name in names}
    allocation = allocate_ranks(choices, scores, 3 * 576 - 200)
    assert list(allocation.plan.components) == ["z"]
    again = allocate_ranks(choices, scores, 3 * 576 - 200)
    assert [k.tolist() for k in again.plan.components.values()] == [
        k.tolist() for k in allocation.plan.components.values()
    ]


def test_zero_scores_go_first_and_cost_nothing() -> None:
    choices = {"dead": make_choice([0.0] * 8), "live": make_choice([1.0] * 8)}
    scores = {"dead": np.zeros(8), "live": np.ones(8)}
    allocation = allocate_ranks(choices, scores, 576 + 80)
    assert set(allocation.plan.components) == {"dead"}
    assert allocation.losses["dead"] == 0.0
    assert allocation.reached


def test_select_best_takes_the_first_of_equals_in_order() -> None:
    assert select_best(np.array([1.0, 3.0, 3.0, 0.0, 3.0]), 2).tolist() == [1, 2]
    assert select_best(np.array([1.0, 3.0, 3.0, 0.0, 3.0]), 4).tolist() == [0, 1, 2, 4]
    assert select_best(np.zeros(3), 3).tolist() == [0, 1, 2]


def test_small_losses_beside_large_ones_keep_their_digits() -> None:
    choice = make_choice([1e12, 1e-6, 1e-6, 1e-6], fan_in=100)
    assert choice.losses[choice.ranks.tolist().index(1)] == pytest.approx(3e-6, rel=1e-12)
