"""Terms of the walk: which ranks are offered, and when a pair is worth having."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_basisprune.planning.prices import CountedPrice
from onnx_basisprune.planning.terms import UNDECOMPOSED, LayerTerm, WeightTerm, accumulate_losses

SIZES = np.array([1, 32], dtype=np.int64)


@dataclass(frozen=True)
class Staircase:
    """Pairs cost by blocks of 8 ranks; the Conv what it is told to."""

    conv: float
    step: float = 1.0

    def whole(self, in_channels: int, out_channels: int) -> float:  # noqa: ARG002  # as Price says
        return self.conv

    def pair(self, in_channels: int, ranks: NDArray[Any], out_channels: int) -> NDArray[np.float64]:  # noqa: ARG002
        times: NDArray[np.float64] = self.step * np.ceil(np.asarray(ranks) / 8)
        return times


def make_layer(**options: Any) -> LayerTerm:
    # 9·32 = 288 against 41·r.
    return LayerTerm(CountedPrice(1.0, 9), 0, 1, accumulate_losses(np.ones(9)), **options)


def list_offered(layer: LayerTerm) -> list[int]:
    return (np.flatnonzero(np.isfinite(layer.costs(SIZES))) + 1).tolist()


def test_every_rank_is_offered_at_its_cost() -> None:
    costs = make_layer().costs(SIZES)
    assert costs.tolist() == [41.0 * rank for rank in range(1, 10)]
    assert make_layer().cost(SIZES, UNDECOMPOSED) == 288
    assert make_layer().cost(SIZES, 3) == 123


@pytest.mark.parametrize(("align", "ranks"), [(1, list(range(1, 10))), (4, [4, 8]), (9, [9]), (10, []), (16, [])])
def test_ranks_are_multiples(align: int, ranks: list[int]) -> None:
    layer = make_layer(align=align)
    assert list_offered(layer) == ranks
    assert len(layer.costs(SIZES)) == 9
    assert [layer.costs(SIZES)[rank - 1] for rank in ranks] == [41.0 * rank for rank in ranks]


def test_only_pairs_that_are_faster_are_offered() -> None:
    assert list_offered(make_layer(time=Staircase(1.5))) == list(range(1, 9))
    # As fast isn't faster.
    assert list_offered(make_layer(time=Staircase(1.0))) == []
    assert list_offered(make_layer(time=Staircase(2.0), align=4)) == [4, 8]
    assert list_offered(make_layer(time=Staircase(9.0))) == list(range(1, 10))
    # What is offered costs what the budget counts, not time.
    assert make_layer(time=Staircase(1.5)).costs(SIZES)[0] == 41.0


def test_a_pair_pays_where_it_is_cheaper_and_faster() -> None:
    assert make_layer().pays(SIZES, 7)
    assert not make_layer().pays(SIZES, 8)
    assert make_layer(time=Staircase(1.5)).pays(SIZES, 7)
    assert not make_layer(time=Staircase(1.0)).pays(SIZES, 7)
    assert not make_layer(time=Staircase(9.0)).pays(SIZES, 8)


def test_a_layer_without_components_offers_nothing() -> None:
    layer = LayerTerm(Staircase(3.0), 0, 1, accumulate_losses(np.zeros(0)), align=8)
    assert layer.costs(SIZES).shape == (0,)
    assert layer.cost(SIZES, UNDECOMPOSED) == 3.0


def test_weights_cost_the_product_of_their_axes() -> None:
    sizes = np.array([3, 5, 7], dtype=np.int64)
    assert WeightTerm(2.0, (0, 2)).cost(sizes) == 42
    assert WeightTerm(2.0, ()).cost(sizes) == 2
    # One axis twice: a MatMul of channels with themselves.
    assert WeightTerm(1.0, (1, 1)).cost(sizes) == 25
