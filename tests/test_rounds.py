"""Several rounds: each on what the last one left, and what all of them together removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from onnx_basisprune import rounds
from onnx_basisprune.assessment import Assessment, Calibration, Prune
from onnx_basisprune.budget import Budget, PlannedCut
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.costing import Prices, Unit, sum_latency
from onnx_basisprune.network import Network
from onnx_basisprune.pricing import Pricing
from onnx_basisprune.progress import Recorder, Silence
from onnx_basisprune.rounds import Prospect, assess_in_rounds

Calibrate = Callable[..., Calibration]


def assess_it(
    network: Network, calibrate: Calibrate, budget: Budget, whole: float, pricing: Any = None, **options: Any
) -> Prospect:
    config = CompressionConfig(threads=1, target_macs=0.2, **options)
    return assess_in_rounds(network, calibrate(network), budget, whole, config, pricing, Recorder(Silence()))


def count_channels(network: Network) -> int:
    return sum(len(group.channels) for group in network.channels.groups if not group.blocked_by)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the limits of all plans that are made."""
    asked: list[float] = []
    real = Prospect.plan

    def plan(self: Prospect, budget: Budget, config: CompressionConfig) -> PlannedCut:
        asked.append(budget.limit)
        return real(self, budget, config)

    monkeypatch.setattr(Prospect, "plan", plan)
    return asked


def test_one_round_is_the_network_itself(branching: Callable[..., Network], calibrate: Calibrate) -> None:
    network = branching()
    prospect = assess_it(network, calibrate, Budget("macs", 0.5 * network.cost.macs), network.cost.macs)
    assert prospect.network is network
    assert (prospect.gone, prospect.prices) == (frozenset(), None)
    assert all(new == old for new, old in prospect.origins.items())
    assert set(prospect.assessment.components) <= set(network.eligible)


@pytest.mark.parametrize("prune", ["channels", "double"])
def test_rounds_go_down_in_equal_steps(
    branching: Callable[..., Network], calibrate: Calibrate, limits: list[float], prune: Prune
) -> None:
    network, whole = branching(), float(branching().cost.macs)
    prospect = assess_it(network, calibrate, Budget("macs", 0.2 * whole), whole, rounds=3, prune=prune)
    assert limits == pytest.approx([whole * 0.2 ** (1 / 3), whole * 0.2 ** (2 / 3)], rel=1e-12)
    everything = {int(c) for group in network.channels.groups for c in group.channels}
    origins = {prospect.origins[int(c)] for group in prospect.network.channels.groups for c in group.channels}
    assert not origins & prospect.gone
    # The last of a group isn't free any more.
    last = everything - prospect.gone - origins
    assert all(
        sum(int(c) not in prospect.gone for c in g.channels) == 1
        for g in network.channels.groups
        if last & {*g.channels.tolist()}
    )
    assert len(prospect.gone) + len(last) == count_channels(network) - count_channels(prospect.network)
    planned = prospect.plan(Budget("macs", 0.2 * whole), CompressionConfig(prune=prune))
    gone = prospect.list_gone(planned)
    assert prospect.gone <= gone <= everything
    left = sum(len(kept) for kept in planned.plan.channels.values()) + sum(
        len(group.channels)
        for group in prospect.network.channels.groups
        if not group.blocked_by and group.name not in planned.plan.channels
    )
    assert len(gone) == count_channels(network) - left - len(last)


def test_rounds_without_channels_change_nothing(
    branching: Callable[..., Network], calibrate: Calibrate, limits: list[float]
) -> None:
    network, whole = branching(), float(branching().cost.macs)
    prospect = assess_it(network, calibrate, Budget("macs", 0.2 * whole), whole, rounds=2, prune="basis")
    assert prospect.gone == frozenset()
    assert prospect.network.cost.macs == network.cost.macs
    assert len(limits) == 1


def test_a_network_that_costs_nothing(branching: Callable[..., Network], calibrate: Calibrate) -> None:
    prospect = assess_it(branching(), calibrate, Budget("macs", 0.0), 0.0, rounds=2, prune="basis")
    assert prospect.gone == frozenset()


def test_each_rounds_network_is_priced(
    named_network: Callable[[str], Network], calibrate: Calibrate, fake_clock: Any, limits: list[float]
) -> None:
    network = named_network("digits")
    pricing = Pricing(CompressionConfig(threads=1), 1, Recorder(Silence()))
    whole = sum_latency(network, pricing.price(network))
    options = {"rounds": 2, "prune": "channels"}
    prospect = assess_it(network, calibrate, Budget("latency", 0.4 * whole), whole, pricing, **options)
    assert limits == pytest.approx([whole * 0.4**0.5], rel=1e-12)
    assert fake_clock.models == 2
    assert len(fake_clock.layers) == len(set(fake_clock.layers))
    assert prospect.prices is not None
    assert set(prospect.prices.layers) == set(prospect.network.eligible)
    left = sum_latency(prospect.network, prospect.prices)
    assert 0.4 * whole < left <= 1.05 * whole * 0.4**0.5
    # Left of the first round are multiples of the block, and so they stay.
    planned = prospect.plan(Budget("latency", 0.4 * whole), CompressionConfig(prune="channels"))
    assert planned.plan.channels
    assert all(len(kept) % 4 == 0 for kept in planned.plan.channels.values())
    # The same again plans the same: nothing is measured any more.
    measured = len(fake_clock.layers)
    again = assess_it(network, calibrate, Budget("latency", 0.4 * whole), whole, pricing, **options)
    assert again.gone == prospect.gone
    assert (len(fake_clock.layers), fake_clock.models) == (measured, 2)


@pytest.mark.parametrize(
    ("align", "unit", "used"), [("auto", "latency", 8), ("auto", "macs", 4), ("auto", "params", 4), (2, "macs", 2)]
)
def test_plans_are_aligned_to_what_the_machine_wants(
    branching: Callable[..., Network], monkeypatch: pytest.MonkeyPatch, align: Any, unit: Unit, used: int
) -> None:
    network = branching()
    asked: list[Any] = []
    monkeypatch.setattr(rounds, "plan_cut", lambda *arguments: asked.append(arguments))
    config = CompressionConfig(align=align, prune="channels")
    prospect = Prospect(network, Assessment({}, {}, {}, {}, ()), Prices({}, {}, 0.0, 8), {}, frozenset())
    budget = Budget(unit, 1.0)
    prospect.plan(budget, config)
    replace(prospect, prices=None).plan(budget, config)
    assert asked[0][2:] == ("channels", budget, prospect.prices, used)
    assert asked[1][2:] == ("channels", budget, None, 1 if align == "auto" else used)
