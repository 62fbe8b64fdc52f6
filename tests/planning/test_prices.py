"""Prices of forms: which counts are measured, what is read between them, and what is never mixed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_basisprune.planning.prices import (
    ConvShape,
    CountedPrice,
    MeasuredGrid,
    MeasuredPrice,
    choose_counts,
    fill_count,
)

BLOCKS = st.sampled_from([1, 2, 4, 8, 16])
COUNTS = st.sets(st.integers(1, 300), min_size=1, max_size=60)
Function = Callable[[int, int], float]


def measure(function: Function, ins: tuple[int, ...], outs: tuple[int, ...], block: int) -> MeasuredGrid:
    return MeasuredGrid({(i, o): function(i, o) for i in ins for o in outs}, block)


@pytest.mark.parametrize(
    ("block", "filled"),
    [
        (16, {1: 1, 2: 2, 3: 3, 4: 16, 8: 16, 15: 15, 16: 16, 17: 17, 20: 32, 32: 32, 33: 33}),
        (8, {1: 1, 4: 8, 6: 6, 8: 8, 12: 16}),
        (2, {1: 1, 2: 2, 4: 4, 7: 7}),
        (1, {1: 1, 4: 4, 17: 17}),
    ],
)
def test_multiples_of_4_are_filled_up_to_the_block(block: int, filled: dict[int, int]) -> None:
    assert dict(zip(filled, fill_count(list(filled), block).tolist(), strict=True)) == filled


@given(admissible=COUNTS, size=st.integers(1, 400), block=BLOCKS)
def test_chosen_counts_are_few_and_span_each_class(admissible: set[int], size: int, block: int) -> None:
    chosen = choose_counts(admissible, size, block)
    own = size if size < block else int(fill_count(size, block))
    counts = {own, *fill_count(sorted(admissible), block).tolist()}
    assert set(chosen) <= counts
    assert list(chosen) == sorted(set(chosen))
    for is_aligned in (False, True):
        members = [count for count in counts if (count % block == 0) == is_aligned]
        picked = [count for count in chosen if (count % block == 0) == is_aligned]
        assert len(picked) <= 4
        assert len(picked) >= min(2, len(members))
        if members:
            assert (picked[0], picked[-1]) == (min(members), max(members))


def test_chosen_counts_of_a_layer() -> None:
    assert choose_counts([], 10, 16) == (10,)
    assert choose_counts(range(16, 128, 16), 130, 16) == (16, 48, 80, 112, 130)
    assert choose_counts([], 24, 16) == (32,)
    # A small input is measured as it is.
    assert choose_counts([], 4, 16) == (4,)
    # The order in which they are given doesn't matter.
    assert choose_counts([64, 16, 16, 32], 64, 16) == (16, 32, 64)


@settings(max_examples=200)
@given(
    admissible=st.tuples(COUNTS, COUNTS),
    block=BLOCKS,
    weights=st.tuples(*[st.floats(-10, 10)] * 4),
    data=st.data(),
)
def test_exact_at_measured_counts_and_for_bilinear_times_between(
    admissible: tuple[set[int], set[int]], block: int, weights: tuple[float, ...], data: st.DataObject
) -> None:
    a, b, c, d = weights

    def function(i: int, o: int) -> float:
        # A different one in each class, so that classes that are mixed show.
        return a + b * i + c * o + d * i * o + 1e6 * (i % block == 0) + 1e4 * (o % block == 0)

    filled = [sorted(set(fill_count(sorted(counts), block).tolist())) for counts in admissible]
    ins, outs = (choose_counts(counts[:-1], counts[-1], block) for counts in filled)
    grid = measure(function, ins, outs, block)
    found = grid.at(np.repeat(ins, len(outs)), np.tile(outs, len(ins)))
    # float64: values up to 2e7, sums of four products.
    np.testing.assert_allclose(found, [function(i, o) for i in ins for o in outs], rtol=1e-12, atol=1e-6)
    i, o = (data.draw(st.sampled_from(counts)) for counts in filled)
    assert float(grid.at(i, o)) == pytest.approx(function(i, o), rel=1e-12, abs=1e-5)


def test_between_counts_of_one_class_only() -> None:
    """17 and 49 lie on a line of their own, 16 and 48 on another; 24 is of a class that wasn't measured."""
    grid = MeasuredGrid({(8, 16): 1.0, (8, 48): 3.0, (8, 17): 100.0, (8, 49): 200.0}, 16)
    assert grid.at(8, [16, 32, 48]).tolist() == [1, 2, 3]
    assert grid.at(8, [17, 25, 33, 49]).tolist() == [100, 125, 150, 200]
    assert grid.at(8, [24, 40]).tolist() == [2, 3]


def test_a_count_of_no_measured_class_is_filled_up_to_the_block() -> None:
    grid = measure(lambda i, o: i + 1000.0 * o, (16, 64), (16, 64), 16)
    assert grid.at([17, 20, 31, 32, 33], 16).tolist() == [16032, 16032, 16032, 16032, 16048]
    assert grid.at(16, [1, 16, 17, 63]).tolist() == [16016, 16016, 32016, 64016]


def test_an_odd_count_beyond_the_measured_ones_is_filled_up_to_the_block() -> None:
    """The Conv's own 99 channels are measured; 87, which is of the same class, is more like 96 than like 99."""
    grid = MeasuredGrid({(8, count): float(count) for count in (16, 32, 64, 96, 99)}, 16)
    assert grid.at(8, [99, 96, 87, 84, 52, 4]).tolist() == [99, 96, 96, 96, 64, 16]


def test_beyond_all_that_was_measured_the_nearest_counts() -> None:
    grid = measure(lambda i, o: float(i * o), (32, 64), (32, 64), 16)
    assert grid.at([16, 128], [32, 128]).tolist() == [32 * 32, 64 * 64]
    # Nothing but the Conv itself, of a class of its own.
    assert MeasuredGrid({(3, 10): 5.0}, 16).at([3, 16, 1], [10, 16, 10]).tolist() == [5.0] * 3


def test_scalars_and_arrays_broadcast() -> None:
    grid = measure(lambda i, o: float(i + 100 * o), (16, 32), (16, 32), 16)
    assert grid.at(16, 32).shape == ()
    assert grid.at(np.array([16, 32]), 16).tolist() == [1616, 1632]
    assert grid.at(16, np.array([], dtype=np.int64)).shape == (0,)


def make_price(ranks: tuple[int, ...], factor: float = 1.0) -> MeasuredPrice:
    ins, outs = (16, 64), (16, 64)
    return MeasuredPrice(
        measure(lambda i, o: float(i * o), ins, outs, 16),
        measure(lambda i, r: float(i * r), ins, ranks, 16),
        measure(lambda r, o: float(r * o), ranks, outs, 16),
        max(ranks, default=0),
        factor,
    )


def test_a_pair_takes_what_both_its_convs_take() -> None:
    price = make_price((16, 32), factor=1.5)
    assert price.whole(64, 32) == 1.5 * 64 * 32
    assert price.pair(64, np.array([16, 32, 24]), 48).tolist() == [
        1.5 * 16 * (64 + 48),
        1.5 * 32 * (64 + 48),
        1.5 * 32 * (64 + 48),
    ]


def test_ranks_beyond_the_largest_measured_one_are_never_wanted() -> None:
    price = make_price((16, 32))
    assert price.pair(64, np.array([32, 33, 48, 16]), 64).tolist() == [32 * 128, np.inf, np.inf, 16 * 128]
    assert make_price(()).pair(64, np.array([1, 16]), 64).tolist() == [np.inf, np.inf]
    assert make_price(()).whole(64, 64) == 64 * 64


def test_counted_prices_by_hand() -> None:
    price = CountedPrice(4.0, 9, 1.0)
    assert price.whole(3, 8) == 4 * 27 * 8
    assert price.pair(3, np.array([1, 5]), 8).tolist() == [4 * 35 + 8, 4 * 5 * 35 + 8]


def test_keys_tell_shapes_apart_and_are_the_same_in_every_run() -> None:
    base = ConvShape(16, 32, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), "NOTSET", 1, (8, 8))
    assert base.key == "1x16x8x8 32o k3x3 s1x1 d1x1 p1x1x1x1 g1"
    fields = {
        "in_channels": 8, "out_channels": 8, "kernel": (1, 3), "strides": (2, 1), "dilations": (1, 2),
        "pads": (0, 1, 1, 1), "group": 2, "input_size": (8, 9), "activation": "Relu", "adds": True, "batch": 2,
    }  # fmt: skip
    variants = [ConvShape(**{**vars(base), name: value}) for name, value in fields.items()]
    variants += [ConvShape(**{**vars(base), "pads": (), "auto_pad": pad}) for pad in ("SAME_UPPER", "VALID")]
    assert len({shape.key for shape in [base, *variants]}) == len(variants) + 1
    assert base.with_channels(1, 2) == ConvShape(**{**vars(base), "in_channels": 1, "out_channels": 2})
