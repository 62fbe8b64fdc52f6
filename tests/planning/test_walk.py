"""The walk: layers against brute force, budgets, channels whose prices change under way, and its own bookkeeping."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_basisprune.planning.prices import CountedPrice
from onnx_basisprune.planning.terms import (
    UNDECOMPOSED,
    ChannelOffer,
    LayerTerm,
    WeightTerm,
    accumulate_losses,
    select_best,
)
from onnx_basisprune.planning.walk import Walk, WalkResult

SCORES = st.lists(st.one_of(st.just(0.0), st.sampled_from([1.0, 2.0]), st.floats(1e-12, 1e3)), min_size=2, max_size=9)


# -- layers alone ---------------------------------------------------------------------------------------------------


def make_layers(all_scores: Mapping[str, Sequence[float]], kernels: Sequence[int]) -> tuple[NDArray, dict]:
    """One Conv per list of scores, each with axes of its own: one input channel, a score per output channel."""
    sizes, layers = [], {}
    for (name, scores), kernel in zip(all_scores.items(), kernels, strict=True):
        lost = accumulate_losses(np.array(scores))
        layers[name] = LayerTerm(CountedPrice(1.0, kernel), len(sizes), len(sizes) + 1, lost)
        sizes += [1, len(scores)]
    return np.array(sizes, dtype=np.int64), layers


def walk_layers(all_scores: Mapping[str, Sequence[float]], kernels: Sequence[int], budget: float) -> WalkResult:
    sizes, layers = make_layers(all_scores, kernels)
    return Walk(sizes, [], layers, {}).run(budget)


def list_forms(layer: LayerTerm, sizes: NDArray) -> list[tuple[int, float, float]]:
    """`(rank, cost, loss)` of the Conv and of all its cheaper pairs, by falling cost."""
    whole = layer.cost(sizes, UNDECOMPOSED)
    pairs = [(rank, layer.cost(sizes, rank), float(layer.lost[rank])) for rank in range(1, len(layer.lost))]
    return [(UNDECOMPOSED, whole, 0.0), *reversed([pair for pair in pairs if pair[1] < whole])]


def find_hull(forms: Sequence[tuple[int, float, float]]) -> list[tuple[int, float, float]]:
    """The lower convex hull of (cost, loss), point by point: those on no or below every chord."""
    return [
        form
        for index, form in enumerate(forms)
        if all(
            form[2] <= a[2] + (b[2] - a[2]) * (a[1] - form[1]) / (a[1] - b[1]) + 1e-12 * b[2]
            for a in forms[:index]
            for b in forms[index + 1 :]
        )
    ]


@settings(max_examples=150, deadline=None)
@given(scores=st.lists(SCORES, min_size=1, max_size=3), share=st.floats(0.0, 1.1), data=st.data())
def test_layers_meet_the_budget_and_are_optimal_on_their_hulls(
    scores: list[list[float]], share: float, data: st.DataObject
) -> None:
    named = {f"c{index}": item for index, item in enumerate(scores)}
    sizes, layers = make_layers(named, [data.draw(st.integers(4, 90)) for _ in named])
    forms = {name: list_forms(layer, sizes) for name, layer in layers.items()}
    budget = share * sum(form[0][1] for form in forms.values())
    result = Walk(sizes, [], layers, {}).run(budget)
    chosen = {name: result.ranks.get(name, UNDECOMPOSED) for name in named}
    cost = sum(layers[name].cost(sizes, rank) for name, rank in chosen.items())
    assert result.cost == pytest.approx(cost, rel=1e-12)
    cheapest = sum(form[-1][1] for form in forms.values())
    assert result.reached == (cost <= budget) == (cheapest <= budget)
    if not result.reached:
        assert cost == cheapest
    for name, rank in chosen.items():
        assert rank in [form[0] for form in forms[name]]
        removed = 0.0 if rank == UNDECOMPOSED else np.sort(named[name])[: len(named[name]) - rank].sum()
        assert result.losses[name] == pytest.approx(removed, rel=1e-9, abs=1e-12)
    # It loses no more than the walk along the hulls, step by step to the first point that meets the budget.
    assert sum(result.losses.values()) <= walk_hulls(forms, budget) * (1 + 1e-9) + 1e-9


def walk_hulls(forms: Mapping[str, Sequence[tuple[int, float, float]]], budget: float) -> float:
    """The loss of taking hull segments by rising slope until the budget is met."""
    cost = sum(items[0][1] for items in forms.values())
    steps = []
    for items in forms.values():
        points = find_hull(items)
        steps += [((b[2] - a[2]) / (a[1] - b[1]), a[1] - b[1], b[2] - a[2]) for a, b in pairwise(points)]
    loss = 0.0
    for _, saved, lost in sorted(steps):
        if cost <= budget:
            break
        cost, loss = cost - saved, loss + lost
    return loss


def test_the_last_step_is_the_one_that_loses_least() -> None:
    """Two groups: one saves more per loss, but far more than is left to save."""
    groups = {
        "wide": [ChannelOffer((index,), 4.0, ((0, 1),)) for index in (1, 2)],
        "narrow": [ChannelOffer((index,), 1.0, ((1, 1),)) for index in (3, 4)],
    }
    weights = [WeightTerm(100.0, (0,)), WeightTerm(10.0, (1,))]
    result = Walk(np.array([2, 2]), weights, {}, groups).run(215.0)
    assert (result.removed, result.cost) == ((3,), 210.0)
    assert Walk(np.array([2, 2]), weights, {}, groups).run(205.0).removed == (1,)


def test_last_step_is_cut_at_the_first_rank_that_meets_the_budget() -> None:
    # 8·72 = 576 against 80·r: 7 is the largest rank below break-even; equal scores make one straight hull.
    for budget, rank in ((576, None), (575, 7), (560, 7), (559, 6), (401, 5), (400, 5), (399, 4), (80, 1)):
        result = walk_layers({"conv": [1.0] * 8}, [72], budget)
        assert result.ranks.get("conv") == rank
        assert result.reached


def test_unreachable_budget_takes_the_cheapest_of_everything() -> None:
    result = walk_layers({"a": np.arange(1.0, 9.0).tolist(), "b": np.arange(1.0, 9.0).tolist()}, [72, 9], -5.0)
    assert not result.reached
    assert dict(result.ranks) == {"a": 1, "b": 1}
    assert result.cost == 80 + 17


def test_layer_that_never_gains_stays() -> None:
    # K = 1: every pair costs more than the Conv.
    result = walk_layers({"conv": [1.0] * 8}, [1], 0.0)
    assert (dict(result.ranks), result.reached, result.cost) == ({}, False, 8.0)


def test_nothing_is_removed_within_the_budget() -> None:
    result = walk_layers({"conv": [1.0, 2.0]}, [72], 144.0)
    assert (dict(result.ranks), dict(result.losses), result.reached) == ({}, {"conv": 0.0}, True)


def test_nothing_to_walk_over() -> None:
    empty = Walk(np.zeros(0, dtype=np.int64), [], {}, {}, fixed=3.0)
    assert (empty.run(3.0).reached, empty.run(2.0).reached) == (True, False)


def test_a_bias_that_only_pairs_have_counts() -> None:
    layer = LayerTerm(CountedPrice(1.0, 9, 1.0), 0, 1, accumulate_losses(np.ones(4)))
    sizes = np.array([1, 4], dtype=np.int64)
    # 36 against 13·r + 4.
    assert layer.costs(sizes).tolist() == [17.0, 30.0, 43.0, 56.0]
    assert Walk(sizes, [], {"conv": layer}, {}).run(35.0).ranks == {"conv": 2}


def test_equal_slopes_are_walked_in_order() -> None:
    scores = {name: [1.0] * 8 for name in ("z", "a", "m")}
    first, second = (walk_layers(scores, [72] * 3, 3 * 576 - 200) for _ in range(2))
    assert list(first.ranks) == ["z"]
    assert first == second


def test_zero_scores_go_first_and_cost_nothing() -> None:
    result = walk_layers({"live": [1.0] * 8, "dead": [0.0] * 8}, [72] * 2, 576 + 80)
    assert (dict(result.ranks), result.losses["dead"], result.reached) == ({"dead": 1}, 0.0, True)


def test_select_best_takes_the_first_of_equals_in_order() -> None:
    assert select_best(np.array([1.0, 3.0, 3.0, 0.0, 3.0]), 2).tolist() == [1, 2]
    assert select_best(np.array([1.0, 3.0, 3.0, 0.0, 3.0]), 4).tolist() == [0, 1, 2, 4]
    assert select_best(np.zeros(3), 3).tolist() == [0, 1, 2]


def test_small_losses_beside_large_ones_keep_their_digits() -> None:
    lost = accumulate_losses(np.array([1e12, 1e-6, 1e-6, 1e-6]))
    assert lost[1] == pytest.approx(3e-6, rel=1e-12)
    assert (len(lost), lost[4]) == (5, 0.0)


# -- layers and channels --------------------------------------------------------------------------------------------


class Chain:
    """A chain of Convs whose channels between are groups: the k-th has `widths[k]` inputs, `widths[k + 1]` outputs.

    The first and last axis lose nothing; every other Conv can be decomposed, and each inner axis carries a weight.
    """

    def __init__(self, widths: Sequence[int], kernel: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.sizes = np.array(widths, dtype=np.int64)
        self.layers = {
            f"c{k}": LayerTerm(
                CountedPrice(float(rng.integers(1, 5)), kernel, float(k % 3 == 0)), k, k + 1,
                accumulate_losses(rng.exponential(size=min(widths[k] * kernel, widths[k + 1]))),
            )
            for k in range(0, len(widths) - 1, 2)
        }  # fmt: skip
        self.weights = [WeightTerm(float(kernel), (k, k + 1)) for k in range(1, len(widths) - 1, 2)]
        self.weights += [WeightTerm(1.0, (k,)) for k in range(1, len(widths) - 1)]
        self.groups = {
            f"g{k}": [
                ChannelOffer((100 * k + index,), loss, ((k, 1),))
                for index, loss in enumerate(np.sort(rng.exponential(size=widths[k])).tolist())
            ]
            for k in range(1, len(widths) - 1)
        }

    def start(self, fixed: float = 0.0) -> Walk:
        return Walk(self.sizes, self.weights, self.layers, self.groups, fixed)

    def count_left(self, result: WalkResult) -> NDArray[np.int64]:
        sizes = self.sizes.copy()
        for offers in self.groups.values():
            for offer in offers:
                for axis, count in offer.touches:
                    sizes[axis] -= count * (offer.channels[0] in result.removed)
        return sizes

    def count_cost(self, result: WalkResult) -> float:
        sizes = self.count_left(result)
        total = sum(term.unit * np.prod([float(sizes[axis]) for axis in term.axes]) for term in self.weights)
        for name, layer in self.layers.items():
            price = layer.price
            inner, outer = price.kernel * int(sizes[layer.inputs]), int(sizes[layer.outputs])
            rank = result.ranks.get(name)
            total += price.unit * (inner * outer if rank is None else rank * (inner + outer))
            total += 0.0 if rank is None else price.pair_extra * outer
        return float(total)


@settings(max_examples=150, deadline=None)
@given(
    widths=st.lists(st.integers(1, 12), min_size=2, max_size=6),
    kernel=st.sampled_from([1, 4, 9]),
    seed=st.integers(0, 1000),
    share=st.floats(0.0, 1.05),
)
def test_walks_with_channels_keep_their_books(widths: list[int], kernel: int, seed: int, share: float) -> None:
    chain = Chain(widths, kernel, seed)
    budget = 7.0 + share * (chain.start().cost)
    result = chain.start(fixed=7.0).run(budget)
    # From scratch: sums of whole numbers, exact.
    assert result.cost == 7.0 + chain.count_cost(result)
    assert result.reached == (result.cost <= budget)
    left = chain.count_left(result)
    assert (left >= 1).all()
    for name, offers in chain.groups.items():
        gone = [offer.channels[0] in result.removed for offer in offers]
        assert sum(gone) < len(offers), name
        # Least score first.
        assert gone == sorted(gone, reverse=True)
    for name, rank in result.ranks.items():
        layer = chain.layers[name]
        assert 1 <= rank < len(layer.lost)
        assert layer.cost(left, rank) < layer.cost(left, UNDECOMPOSED), "a pair that doesn't pay"
    if not result.reached:
        # Nothing is left to take.
        assert (left[1:-1] == 1).all()
        for name, layer in chain.layers.items():
            forms = [layer.cost(left, UNDECOMPOSED), *layer.costs(left)]
            assert layer.cost(left, result.ranks.get(name, UNDECOMPOSED)) == min(forms)
    assert chain.start(fixed=7.0).run(budget) == result


def test_a_pair_that_stops_paying_becomes_one_conv_again() -> None:
    """Cheap components go first, then nearly all inputs: what is left costs less as one Conv."""
    layer = LayerTerm(CountedPrice(1.0, 1), 0, 1, accumulate_losses(np.r_[np.full(5, 1e9), np.zeros(11)]))
    sizes = np.array([16, 16], dtype=np.int64)
    group = {"inputs": [ChannelOffer((index,), 1.0, ((0, 1),)) for index in range(16)]}
    before = Walk(sizes, [], {"conv": layer}, group).run(161.0)
    assert (before.ranks, before.removed) == ({"conv": 5}, ())  # 5·32 = 160 against 256
    after = Walk(sizes, [], {"conv": layer}, group).run(64.0)
    assert after.ranks == {}
    assert after.losses == {"conv": 0.0}
    assert (after.removed, after.cost, after.reached) == (tuple(range(12)), 64.0, True)


def test_every_axis_keeps_a_channel() -> None:
    """Two groups share an axis; none may take the axis' last channel even though each has more to give."""
    groups = {
        "a": [ChannelOffer((1,), 0.1, ((0, 3),)), ChannelOffer((2,), 0.2, ((1, 1),))],
        "b": [ChannelOffer((3,), 0.3, ((0, 3),)), ChannelOffer((4,), 0.4, ((1, 1),))],
    }
    result = Walk(np.array([6, 4]), [WeightTerm(1.0, (0,)), WeightTerm(1.0, (1,))], {}, groups).run(0.0)
    assert (result.removed, result.cost, result.reached) == ((1,), 3 + 4, False)


def test_a_group_keeps_its_last_channel() -> None:
    group = {"g": [ChannelOffer((index,), 0.0, ((0, 1),)) for index in range(3)]}
    result = Walk(np.array([10]), [WeightTerm(2.0, (0,))], {}, group).run(0.0)
    assert (result.removed, result.cost) == ((0, 1), 16.0)


def test_channels_that_save_nothing_stay() -> None:
    group = {"g": [ChannelOffer((index,), 0.0, ()) for index in range(3)]}
    assert Walk(np.array([10]), [WeightTerm(2.0, (0,))], {}, group).run(0.0).removed == ()


def test_the_better_slope_goes_first() -> None:
    """A channel saves 10 for a loss of 1, a component 80 for a loss of 4: the component is the better bargain."""
    layer = LayerTerm(CountedPrice(1.0, 72), 0, 1, accumulate_losses(np.array([100.0] * 6 + [2.0, 2.0])))
    group = {"g": [ChannelOffer((index,), 1.0, ((2, 1),)) for index in range(4)]}
    sizes, weights = np.array([1, 8, 4]), [WeightTerm(10.0, (2,))]
    cheap = Walk(sizes, weights, {"conv": layer}, group).run(576 + 40 - 96)
    assert (cheap.ranks, cheap.removed) == ({"conv": 6}, ())
    more = Walk(sizes, weights, {"conv": layer}, group).run(576 + 40 - 97)
    assert (more.ranks, more.removed) == ({"conv": 6}, (0,))


# -- measured costs: blocks and staircases --------------------------------------------------------------------------


@dataclass(frozen=True)
class Staircase:
    """A Conv and its pairs take what their counts take when they are filled up to blocks."""

    block: int
    conv: float = 1.0
    pairs: float = 1.0

    def fill(self, counts: Any) -> NDArray[np.float64]:
        filled: NDArray[np.float64] = np.ceil(np.asarray(counts) / self.block) * self.block
        return filled

    def whole(self, in_channels: int, out_channels: int) -> float:
        return self.conv * float(self.fill(in_channels) * self.fill(out_channels))

    def pair(self, in_channels: int, ranks: NDArray[Any], out_channels: int) -> NDArray[np.float64]:
        return self.pairs * self.fill(ranks) * (self.fill(in_channels) + self.fill(out_channels))


def make_offers(sizes: Sequence[int], axis: int = 0) -> list[ChannelOffer]:
    starts = np.cumsum([0, *sizes])
    return [
        ChannelOffer(tuple(range(start, start + size)), float(index + 1), ((axis, size),))
        for index, (start, size) in enumerate(zip(starts.tolist(), sizes, strict=False))
    ]


def test_channels_go_in_blocks() -> None:
    layer = LayerTerm(Staircase(8), 0, 1, accumulate_losses(np.zeros(0)))
    walk = Walk(np.array([24, 16]), [], {"conv": layer}, {"g": make_offers([8, 8, 8])})
    result = walk.run(16 * 16)
    assert (result.removed, result.cost, result.reached) == (tuple(range(8)), 16 * 16, True)


@pytest.mark.parametrize(("first", "removed"), [(3, 11), (5, 13)])
def test_a_first_block_that_saves_nothing_goes_with_the_next(first: int, removed: int) -> None:
    """Of 40 channels minus the first few the kernel still computes 40."""
    layer = LayerTerm(Staircase(16), 0, 1, accumulate_losses(np.zeros(0)))
    groups = {"g": make_offers([first, 8, 8, 8])}
    result = Walk(np.array([40, 16]), [], {"conv": layer}, groups).run(32 * 16)
    assert (result.removed, result.cost, result.reached) == (tuple(range(removed)), 32 * 16, True)


def test_no_more_blocks_than_needed_are_looked_at_together() -> None:
    """Five blocks save something, four don't: a step that long isn't worth a jump into the dark."""
    layer = LayerTerm(Staircase(64), 0, 1, accumulate_losses(np.zeros(0)))
    walk = Walk(np.array([128, 16]), [], {"conv": layer}, {"g": make_offers([12] * 10)})
    assert (walk.run(0.0).removed, walk.cost) == ((), 128 * 64)
    walk = Walk(np.array([128, 16]), [], {"conv": layer}, {"g": make_offers([16] * 8)})
    assert (len(walk.run(0.0).removed), walk.cost) == (64, 64 * 64)


def test_the_last_block_stays_when_several_are_looked_at() -> None:
    layer = LayerTerm(Staircase(32), 0, 1, accumulate_losses(np.zeros(0)))
    result = Walk(np.array([32, 32]), [], {"conv": layer}, {"g": make_offers([8] * 4)}).run(0.0)
    assert (result.removed, result.reached) == ((), False)


@pytest.mark.parametrize("is_guarded", [True, False])
def test_a_pair_that_is_no_longer_faster_becomes_one_conv_again(*, is_guarded: bool) -> None:
    """By multiply-adds the pair of rank 2 is worth having to the end; by time only while the inputs fill two blocks."""
    layer = LayerTerm(
        CountedPrice(1.0, 1), 0, 1, accumulate_losses(np.r_[1e9, 1e9, np.zeros(14)]),
        Staircase(8, pairs=0.75) if is_guarded else None,
    )  # fmt: skip
    sizes = np.array([16, 16], dtype=np.int64)
    # By time 256 against 0.75·8·32 = 192, and 128 against 144 with half of the inputs.
    walk = Walk(sizes, [], {"conv": layer}, {"g": make_offers([8, 8])})
    result = walk.run(60.0)
    if is_guarded:
        assert (dict(result.ranks), result.removed, result.cost) == ({}, tuple(range(8)), 128)
        assert not result.reached
    else:
        assert (dict(result.ranks), result.removed, result.cost) == ({"conv": 2}, tuple(range(8)), 48)
        assert result.reached


def test_what_saved_nothing_at_first_is_tried_again() -> None:
    """A group of the inputs saves nothing before the outputs are smaller."""

    class Sloping(Staircase):
        def whole(self, in_channels: int, out_channels: int) -> float:
            return out_channels + (in_channels if out_channels <= 8 else 100.0)

    layer = LayerTerm(Sloping(8), 0, 1, accumulate_losses(np.zeros(0)))
    groups = {"inputs": make_offers([8, 8]), "outputs": make_offers([8, 8], axis=1)}
    result = Walk(np.array([16, 16]), [], {"conv": layer}, groups).run(16.0)
    assert (result.cost, result.reached, len(result.removed)) == (16.0, True, 16)


@settings(max_examples=100, deadline=None)
@given(
    widths=st.lists(st.integers(1, 40), min_size=2, max_size=6),
    blocks=st.tuples(st.sampled_from([1, 4, 8]), st.sampled_from([1, 4, 8])),
    seed=st.integers(0, 1000),
    share=st.floats(0.0, 1.05),
    is_guarded=st.booleans(),
)
def test_walks_over_staircases_keep_their_books(
    widths: list[int], blocks: tuple[int, int], seed: int, share: float, is_guarded: bool
) -> None:
    rng = np.random.default_rng(seed)
    block, align = blocks
    layers = {}
    for k in range(len(widths) - 1):
        time = Staircase(block, conv=int(rng.integers(8, 60)), pairs=8)
        price = CountedPrice(1.0, int(rng.integers(1, 9))) if is_guarded else time
        lost = accumulate_losses(rng.exponential(size=widths[k + 1]))
        layers[f"c{k}"] = LayerTerm(price, k, k + 1, lost, time if is_guarded else None, align)
    groups = {}
    for k in range(1, len(widths) - 1):
        first = widths[k] % align or min(align, widths[k])
        groups[f"g{k}"] = make_offers([first, *[align] * ((widths[k] - first) // align)], axis=k)
    sizes = np.array(widths, dtype=np.int64)
    start = Walk(sizes, [], layers, groups)
    budget = share * start.cost
    result = start.run(budget)
    for k, name in enumerate(groups, 1):
        count = len(result.removed) if len(groups) == 1 else None
        kept = start._sizes[k]
        assert 1 <= kept <= widths[k], name
        assert kept % align == 0 or kept == widths[k]
        assert count in (None, widths[k] - kept)
    forms = {name: result.ranks.get(name, UNDECOMPOSED) for name in layers}
    # Sums of whole numbers: exact.
    assert result.cost == sum(layer.cost(start._sizes, forms[name]) for name, layer in layers.items())
    assert result.reached == (result.cost <= budget)
    for name, rank in result.ranks.items():
        assert rank % align == 0
        assert layers[name].pays(start._sizes, rank)
    assert Walk(sizes, [], layers, groups).run(budget) == result


SCRIPT = """
import numpy as np
from onnx_basisprune.planning.prices import CountedPrice
from onnx_basisprune.planning.terms import ChannelOffer, LayerTerm, accumulate_losses
from onnx_basisprune.planning.walk import Walk

rng = np.random.default_rng(0)
# One group of channels is read by many Convs; thirds don't add up the same in every order.
layers = {
    f"conv{k}": LayerTerm(CountedPrice(float(rng.random()) / 3, 9), 0, k + 1, accumulate_losses(rng.random(12)))
    for k in range(40)
}
offers = [ChannelOffer((index,), 3.0, ((0, 1),)) for index in range(24)]
result = Walk(np.array([24] + [12] * 40), [], layers, {"g": offers}).run(6000.0)
assert result.reached and result.ranks and result.removed
print(result.ranks, result.removed, result.cost.hex(), sorted(result.losses.items()))
"""


def test_the_order_does_not_depend_on_the_hash_seed() -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
