"""Planning on real graphs: budgets are met, and what is forecast is what the cut model costs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from onnx_basisprune.assessment import Assessment, Prune
from onnx_basisprune.budget import Budget, Unit, forecast_cost, list_removed, plan_cut
from onnx_basisprune.cutting import cut_network
from onnx_basisprune.graph.cost import measure_cost
from onnx_basisprune.network import Network
from onnx_basisprune.planning.types import Plan

ReadNetwork = Callable[..., Network]
Assess = Callable[..., tuple[Network, Assessment]]


def measure(network: Network, assessment: Assessment, plan: Plan) -> tuple[int, int]:
    model, names = cut_network(network, assessment, plan)
    assert set(names) == set(plan.components)
    onnx.checker.check_model(model, full_check=True)
    cost = measure_cost(model, network.input_shapes)
    return cost.macs, cost.parameters


@pytest.mark.parametrize("prune", ["basis", "channels", "double"])
@pytest.mark.parametrize("unit", ["macs", "params"])
@pytest.mark.parametrize(
    ("name", "targets"), [("branching", (1.0, 0.8, 0.6, 0.01)), ("digits", (0.5, 0.2)), ("ppocr_cls", (0.6,))]
)
def test_forecast_is_what_the_cut_model_costs(
    assess: Assess, name: str, targets: tuple[float, ...], unit: Unit, prune: Prune
) -> None:
    network, assessment = assess(name, prune)
    whole = network.cost.macs if unit == "macs" else network.cost.parameters
    for target in targets:
        planned = plan_cut(network, assessment, prune, Budget(unit, target * whole))
        macs, parameters = measure(network, assessment, planned.plan)
        assert (planned.forecast.macs, planned.forecast.parameters) == (macs, parameters)
        left = macs if unit == "macs" else parameters
        assert planned.reached == (left <= target * whole)
        assert planned.reached == (target >= 0.2) or name == "ppocr_cls"
        if target == 1.0:
            assert (planned.plan.components, planned.plan.channels) == ({}, {})
        elif planned.reached:
            assert left > 0.8 * target * whole, "far more than needed was cut"
        assert bool(planned.plan.components) <= (prune != "channels")
        assert bool(planned.plan.channels) <= (prune != "basis")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["branching", "digits", "ppocr_cls"])
def test_forecast_of_any_plan(assess: Assess, name: str, seed: int) -> None:
    """Plans that no walk would choose: pairs of any rank beside any channels."""
    network, assessment = assess(name, "double")
    rng = np.random.default_rng(seed)
    components = {
        conv: np.arange(rng.integers(1, len(scores) + 1))
        for conv, scores in assessment.components.items()
        if rng.random() < 0.6
    }
    channels = {
        group.name: np.sort(rng.permutation(group.channels)[: rng.integers(1, len(group.channels) + 1)])
        for group in network.channels.groups
        if not group.blocked_by and rng.random() < 0.6
    }
    plan = Plan(components, channels)
    forecast = forecast_cost(network, plan)
    assert (forecast.macs, forecast.parameters) == measure(network, assessment, plan)
    saved = network.cost.macs - forecast.macs
    rows = {row.name: row for row in network.cost.nodes}
    convs = sum((rows[name].macs or 0) - after[0] for name, after in forecast.layers.items())
    others = sum(row.macs or 0 for row in network.cost.nodes if row.name not in forecast.layers)
    # Gemms lose inputs, too.
    assert convs <= saved <= convs + others


def test_removed_channels_of_a_plan(branching: ReadNetwork) -> None:
    network = branching()
    groups = {group.name: group.channels for group in network.channels.groups}
    plan = Plan({}, {"wide": groups["wide"][3:], "stem": groups["stem"]})
    assert list_removed(network, plan).tolist() == groups["wide"][:3].tolist()
    assert list_removed(network, Plan({}, {})).tolist() == []


def test_the_least_scores_go(assess: Assess) -> None:
    network, assessment = assess("digits", "channels")
    planned = plan_cut(network, assessment, "channels", Budget("macs", 0.5 * network.cost.macs))
    assert planned.plan.channels
    for group in network.channels.groups:
        kept = planned.plan.channels.get(group.name, group.channels)
        gone = np.setdiff1d(group.channels, kept)
        assert len(kept)
        if len(gone):
            assert max(assessment.channels[c] for c in gone.tolist()) <= min(
                assessment.channels[c] for c in kept.tolist()
            )


def test_losses_are_sums_of_removed_scores(assess: Assess) -> None:
    network, assessment = assess("digits", "basis")
    planned = plan_cut(network, assessment, "basis", Budget("macs", 0.3 * network.cost.macs))
    assert planned.plan.components
    for name, scores in assessment.components.items():
        kept = planned.plan.components.get(name, np.arange(len(scores)))
        assert planned.losses[name] == pytest.approx(np.delete(scores, kept).sum(), rel=1e-9, abs=1e-15)


def test_a_network_without_channels_or_components(assess: Assess) -> None:
    network, assessment = assess("branching", "basis")
    empty = Assessment({}, {}, assessment.channels, {}, ())
    planned = plan_cut(network, empty, "basis", Budget("macs", 0.5 * network.cost.macs))
    assert (planned.plan.components, planned.plan.channels, planned.reached) == ({}, {}, False)
    assert planned.forecast.macs == network.cost.macs
