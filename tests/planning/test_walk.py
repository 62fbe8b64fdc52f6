"""The walk: layers against brute force, budgets, channels whose prices change under way, and its own bookkeeping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

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
    # Of all combinations of hull points that cost no more, none loses less - except through the last, cut step, which
    # isn't on a hull.
    hulls = {name: find_hull(item) for name, item in forms.items()}
    off = [name for name, rank in chosen.items() if rank not in [point[0] for point in hulls[name]]]
    assert len(off) <= 1
    if not off:
        affordable = (
            sum(point[2] for point in points)
            for points in product(*hulls.values())
            if sum(point[1] for point in points) <= cost + 1e-9
        )
        total = sum(result.losses.values())
        assert total <= min(affordable) + 1e-9 * max(1.0, total)


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
