"""Budgets of time are met by the clock: here one that is made up."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnx_basisprune import fitting
from onnx_basisprune.assessment import Assessment
from onnx_basisprune.budget import PlannedCut
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.costing import Prices, sum_latency
from onnx_basisprune.cutting import cut_network
from onnx_basisprune.fitting import TimedPlan, fit_latency
from onnx_basisprune.network import Network
from onnx_basisprune.progress import Recorder, Silence
from onnx_basisprune.rounds import Prospect

Clock = Callable[[float], float]
# What a plan may be under its target where the network's blocks are too coarse to come nearer.
STEP = 0.1


class FakePricing:
    """Keeps the scale that a table would."""

    def __init__(self, scale: float = 1.0, *, is_pinned: bool = False) -> None:
        self.scale, self.is_pinned = scale, is_pinned

    def read_scale(self, _: Network) -> float:
        return self.scale

    def note_scale(self, _: Network, scale: float) -> None:
        if not self.is_pinned:
            self.scale = scale


class Stage:
    """A network with times by a table, and a clock that turns the table's share of time into its own."""

    def __init__(self, prospect: Prospect, monkeypatch: pytest.MonkeyPatch) -> None:
        assert prospect.prices is not None
        self.prospect, self.whole = prospect, sum_latency(prospect.network, prospect.prices)
        self.shares: list[float] = []
        self.clock: Clock = lambda share: share
        monkeypatch.setattr(fitting, "_time_plan", self._time_plan)

    def _time_plan(self, prospect: Prospect, planned: PlannedCut, _: Any) -> float:
        assert prospect is self.prospect
        self.shares.append(planned.left / self.whole)
        return self.clock(self.shares[-1])

    def fit(self, target: float, pricing: Any = None) -> tuple[TimedPlan, int]:
        self.shares.clear()
        config = CompressionConfig(target_latency=target)

        def never(_: ModelProto) -> float:
            raise AssertionError

        recorder = Recorder(Silence())
        found = fit_latency(self.prospect, self.whole, target, never, pricing or FakePricing(), config, recorder)
        assert found[1] == len(self.shares)
        assert list(recorder.timings) == [f"timing plan {index + 1}" for index in range(found[1] - 1)]
        return found


@pytest.fixture
def stage(
    named_network: Callable[[str], Network],
    invent_prices: Callable[..., Prices],
    invent_assessment: Callable[..., Assessment],
    monkeypatch: pytest.MonkeyPatch,
) -> Stage:
    network = named_network("digits")
    prospect = Prospect(network, invent_assessment(network), invent_prices(network, 4), {}, frozenset())
    return Stage(prospect, monkeypatch)


def make_noise(seed: int) -> Clock:
    rng = np.random.default_rng(seed)
    return lambda share: share * (1 + 0.03 * float(rng.standard_normal()))


CLOCKS: dict[str, Clock] = {
    "as predicted": lambda share: share,
    "1.3 of the prediction": lambda share: 1.3 * share,
    "0.75 of the prediction": lambda share: 0.75 * share,
    "1.3 of the savings": lambda share: 1 - 1.3 * (1 - share),
    "0.8 of the savings": lambda share: 1 - 0.8 * (1 - share),
    "a part that nothing saves": lambda share: 0.1 + 0.9 * share,
    "less and less": lambda share: float(share**0.6),
    "noise": make_noise(0),
    "other noise": make_noise(1),
}


@pytest.mark.parametrize("target", [0.7, 0.5])
@pytest.mark.parametrize("name", CLOCKS)
def test_lands_within_the_target_whatever_the_clock(stage: Stage, name: str, target: float) -> None:
    stage.clock = CLOCKS[name]
    best, looks = stage.fit(target)
    assert 1 - STEP <= best.measured / target <= 1.02, stage.shares
    assert 1 <= looks <= 5
    assert best.predicted == best.planned.left / stage.whole
    assert best.predicted in stage.shares
    # No plan is timed twice.
    assert len(set(stage.shares)) == looks


def test_a_plan_that_fits_is_taken_at_once(stage: Stage) -> None:
    best, looks = stage.fit(0.6)
    assert (looks, best.planned.reached) == (1, True)
    assert best.limit == 0.6 * stage.whole


@pytest.mark.parametrize("name", ["1.3 of the prediction", "less and less", "0.8 of the savings"])
def test_the_next_run_makes_the_same_plan_at_once(stage: Stage, name: str) -> None:
    stage.clock, pricing = CLOCKS[name], FakePricing()
    first, looks = stage.fit(0.6, pricing)
    assert looks > 1
    assert pricing.scale != 1.0
    pinned = FakePricing(pricing.scale, is_pinned=True)
    for again in (pricing, pinned):
        second, looks = stage.fit(0.6, again)
        assert looks == 1
        np.testing.assert_equal(second.planned.plan.components, first.planned.plan.components)
        np.testing.assert_equal(second.planned.plan.channels, first.planned.plan.channels)


def test_a_pinned_table_has_one_look_however_far_off(stage: Stage) -> None:
    stage.clock, pricing = CLOCKS["1.3 of the prediction"], FakePricing(is_pinned=True)
    best, looks = stage.fit(0.6, pricing)
    assert (looks, pricing.scale) == (1, 1.0)
    assert best.measured > 0.6 * 1.02


def test_a_target_out_of_reach_gives_the_fastest_plan(stage: Stage) -> None:
    best, looks = stage.fit(0.01)
    assert (looks, best.planned.reached) == (1, False)
    assert best.measured > 0.01
    # By the table it is in reach, by the clock it isn't.
    stage.clock = lambda share: 0.5 + share / 2
    best, looks = stage.fit(0.5)
    assert looks > 1
    assert best.measured > 0.5
    assert best.measured == min(stage.clock(share) for share in stage.shares)


def test_a_clock_that_tells_nothing_ends(stage: Stage) -> None:
    stage.clock = lambda _: 1.0
    best, looks = stage.fit(0.5)
    assert looks <= 5
    assert best.measured == 1.0
    stage.clock = lambda _: 1e-6
    best, looks = stage.fit(0.5)
    assert looks <= 5
    # Nothing need be cut.
    assert best.predicted <= 1.0


def test_the_slowest_plan_within_the_target_is_chosen(stage: Stage) -> None:
    """Too fast, too slow, and again too fast, but less so."""
    stage.clock = lambda share: 1 - 1.4 * (1 - share)
    pricing = FakePricing()
    best, looks = stage.fit(0.4, pricing)
    assert pricing.scale == 0.4 * stage.whole / best.limit
    measured = [stage.clock(share) for share in stage.shares]
    assert looks > 2
    assert max(measured) > 0.4 * 1.02
    assert best.measured == max(value for value in measured if value <= 0.4 * 1.02)


def test_the_next_limit_is_between_too_fast_and_too_slow() -> None:
    def look(left: float, measured: float) -> TimedPlan:
        planned: Any = SimpleNamespace(left=left, reached=True)
        return TimedPlan(planned, left, left / 100, measured)

    looks = [look(40.0, 0.2), look(70.0, 0.8), look(50.0, 0.4)]
    # Half of the way from 50 to 70; by the rule of three it would be 75.
    assert fitting._choose_limit(looks, 0.6) == pytest.approx(60.0, rel=1e-12)
    assert fitting._choose_limit(looks[:1], 0.4) == pytest.approx(80.0, rel=1e-12)
    # A plan too slow that took far less than it might have by the table: from what it took, or it would come again.
    planned: Any = SimpleNamespace(left=40.0, reached=True)
    assert fitting._choose_limit([TimedPlan(planned, 100.0, 0.4, 0.8)], 0.6) == pytest.approx(30.0, rel=1e-12)


def test_it_stops_when_the_same_plan_comes_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two plans and nothing between: a slow one and one that is much too fast."""
    real = stage.prospect.plan
    coarse = [real(budget, config) for budget, config in (_make_budget(stage, 0.8), _make_budget(stage, 0.3))]
    asked: list[float] = []

    def plan(_: Any, budget: Any, __: Any) -> PlannedCut:
        asked.append(budget.limit / stage.whole)
        return coarse[0] if budget.limit >= coarse[0].left else coarse[1]

    monkeypatch.setattr(Prospect, "plan", plan)
    stage.clock = lambda share: 0.75 * share
    best, looks = stage.fit(0.5)
    assert looks == 2
    assert best.planned is coarse[1]
    assert len(asked) == 3


def _make_budget(stage: Stage, share: float) -> tuple[Any, CompressionConfig]:
    return fitting.Budget("latency", share * stage.whole), CompressionConfig(target_latency=0.5)


def test_a_plan_is_timed_without_its_recovery(
    assess: Callable[..., tuple[Network, Assessment]], invent_prices: Callable[..., Prices]
) -> None:
    network, assessment = assess("branching", "double")
    prices = invent_prices(network, 1)
    prospect = Prospect(network, assessment, prices, {}, frozenset())
    planned = prospect.plan(fitting.Budget("latency", 0.5 * sum_latency(network, prices)), CompressionConfig(align=1))
    seen: list[ModelProto] = []

    def time_model(model: ModelProto) -> float:
        seen.append(model)
        return 0.25

    assert fitting._time_plan(prospect, planned, time_model) == 0.25
    expected, _ = cut_network(network, assessment, planned.plan)
    assert seen == [expected]
