"""What the report says about gates, options and layers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnx_basisprune.budget import Forecast, PlannedCut
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.graph.cost import ModelCost, NodeCost
from onnx_basisprune.graph.dependency import DependencyGroup
from onnx_basisprune.planning.types import ConvLayer, Plan
from onnx_basisprune.results import CompressionReport, Interval, ModelMeasurement, Speedup, TimingReport
from onnx_basisprune.summary import (
    choose_budget,
    describe_config,
    describe_metadata,
    judge_gates,
    summarize_groups,
    summarize_layers,
)

ORIGINAL = ModelMeasurement(1000, 500, 4000)


def measure(macs: int, parameters: int) -> ModelMeasurement:
    return ModelMeasurement(macs, parameters, 1)


@pytest.mark.parametrize(
    ("options", "budget"),
    [
        ({}, ("latency", 1.0)),
        ({"max_drop": 2.0, "minimize": "params"}, ("params", 1.0)),
        ({"target_macs": 0.3}, ("macs", 0.3)),
        ({"target_params": 0.2}, ("params", 0.2)),
        ({"target_latency": 0.4}, ("latency", 0.4)),
    ],
)
def test_budget(options: dict[str, float], budget: tuple[str, float]) -> None:
    assert choose_budget(CompressionConfig(**options)) == budget


def make_report(
    original: ModelMeasurement, compressed: ModelMeasurement, speedup: Speedup | None = None, **changes: Any
) -> CompressionReport:
    report = CompressionReport(
        config={}, environment={}, original=original, compressed=compressed, speedup=speedup, drop_pp=None,
        layers=(), groups=(), gates=(), recovery=None, timings={},
    )  # fmt: skip
    return replace(report, **changes)


@pytest.mark.parametrize(
    ("options", "compressed", "reached", "passed"),
    [
        ({"target_macs": 0.5}, measure(500, 500), 0.5, True),
        ({"target_macs": 0.5}, measure(501, 1), 0.501, False),
        ({"target_params": 0.1}, measure(1000, 50), 0.1, True),
        ({"target_params": 0.1}, measure(1, 51), 0.102, False),
    ],
)
def test_gate(options: dict[str, Any], compressed: ModelMeasurement, reached: float, *, passed: bool) -> None:
    (gate,) = judge_gates(CompressionConfig(**options), make_report(ORIGINAL, compressed))
    assert gate.reached == pytest.approx(reached, rel=1e-12)
    assert gate.passed == passed


def test_gate_of_a_model_with_nothing_to_prune() -> None:
    report = make_report(ORIGINAL, ORIGINAL)
    (gate,) = judge_gates(CompressionConfig(), replace(report, drop_pp=Interval(0.0, -0.1, 0.1)))
    assert (gate.name, gate.asked, gate.reached, gate.passed) == ("max_drop", 1.0, 0.0, True)
    (gate,) = judge_gates(CompressionConfig(target_params=0.5), report)
    assert not gate.passed
    (gate,) = judge_gates(CompressionConfig(target_latency=0.5), report)
    assert (gate.name, gate.reached, gate.passed) == ("target_latency", 1.0, False)


def test_gate_of_a_model_without_cost() -> None:
    report = make_report(measure(0, 0), measure(0, 0))
    (gate,) = judge_gates(CompressionConfig(target_macs=1.0), report)
    assert (gate.reached, gate.passed) == (1.0, True)


@pytest.mark.parametrize(
    ("speedup", "passed"),
    [
        (Speedup(2.0, 1.9, 2.1), True),
        # The clock shows as much of a difference between a model and itself.
        (Speedup(1 / 0.519, 1.9, 2.0), True),
        (Speedup(1 / 0.521, 1.9, 2.0), False),
        # The middle counts, not what the interval leaves possible.
        (Speedup(1.5, 1.0, 2.5), False),
    ],
)
def test_gate_of_time_is_held_to_the_clock(speedup: Speedup, *, passed: bool) -> None:
    timing = TimingReport("0" * 64, 16, 16, predicted=0.1)
    report = make_report(ORIGINAL, ORIGINAL, speedup, timing=timing)
    gate, slower = judge_gates(CompressionConfig(target_latency=0.5), report)
    assert (gate.name, gate.asked, gate.passed) == ("target_latency", 0.5, passed)
    assert gate.reached == pytest.approx(1 / speedup.median, rel=1e-12)
    assert (slower.name, slower.passed) == ("not_slower", True)


def test_gate_of_time_in_a_dry_run_is_held_to_the_table() -> None:
    report = make_report(ORIGINAL, ORIGINAL, timing=TimingReport("0" * 64, 16, 16, predicted=0.4))
    (gate,) = judge_gates(CompressionConfig(target_latency=0.5), report)
    assert (gate.reached, gate.passed) == (0.4, True)


@pytest.mark.parametrize(
    ("speedup", "passed"),
    [
        (Speedup(1.5, 1.4, 1.6), True),
        # It may well be as fast: a machine too noisy to tell fails nobody.
        (Speedup(0.9, 0.8, 0.97), True),
        (Speedup(0.9, 0.85, 0.95), False),
    ],
)
def test_a_slower_model_fails(speedup: Speedup, *, passed: bool) -> None:
    report = make_report(ORIGINAL, measure(1, 1), speedup)
    _, slower = judge_gates(CompressionConfig(target_macs=0.5), report)
    assert (slower.name, slower.asked, slower.reached, slower.passed) == ("not_slower", 1.0, speedup.median, passed)
    allowed = judge_gates(CompressionConfig(target_macs=0.5, allow_slower=True), report)
    assert [gate.name for gate in allowed] == ["target_macs"]


def test_config_is_ready_for_json() -> None:
    config = CompressionConfig(model=Path("a.onnx"), exclude=("n",), report=Path("r.json"))
    described = describe_config(config, Path("out.onnx"), {"preset": "unit"})
    assert json.loads(json.dumps(described)) == {
        **described,
        "exclude": ["n"],
        "feed": [],
    }
    assert (described["model"], described["report"], described["output"]) == ("a.onnx", "r.json", "out.onnx")
    assert described["preprocessing"] == {"preset": "unit"}
    assert described["val"] is None
    assert describe_config(config, None, {})["output"] is None


def test_metadata_tell_neither_path_nor_time() -> None:
    first, second = (
        describe_metadata(CompressionConfig(model=Path(name), seed=3), "1.2", ORIGINAL, measure(400, 300))
        for name in ("a.onnx", "b.onnx")
    )
    assert first == second
    assert first["basisprune.version"] == "1.2"
    done = json.loads(first["basisprune.compression"])
    assert (done["macs"], done["parameters"], done["seed"]) == ([1000, 400], [500, 300], 3)


def test_layers() -> None:
    layers = (
        ConvLayer("cut", "Conv", "cut.w", "cut.b", 8, 72),
        ConvLayer("kept", "Conv", "kept.w", "", 8, 8),
        ConvLayer("deep", "Conv", "deep.w", "", 8, 9, "depthwise"),
    )
    nodes = (
        NodeCost("cut", "Conv", (1, 8, 2, 2), 4 * 576, 584),
        NodeCost("kept", "Conv", (1, 8, 2, 2), 4 * 64, 64),
        NodeCost("deep", "Conv", (1, 8, 2, 2), 4 * 72, 72),
    )
    network: Any = SimpleNamespace(layers=layers, cost=ModelCost(4 * 712, 720, (), nodes))
    after = {"cut": (4 * 3 * 80, 3 * 80 + 8), "kept": (4 * 48, 48), "deep": (4 * 72, 72)}
    planned = PlannedCut(
        Plan({"cut": np.array([0, 2, 5])}, {}), Forecast(0, 0, after), {"cut": 0.5, "kept": 0.0}, reached=True, left=0.0
    )
    cut, kept, deep = summarize_layers(network, planned, {"cut": 8, "kept": 8})
    assert (cut.decomposed, cut.rank, cut.full_rank, cut.reason, cut.removed_score) == (True, 3, 8, "", 0.5)
    assert (cut.macs_before, cut.macs_after) == (4 * 576, 4 * 3 * 80)
    assert (cut.parameters_before, cut.parameters_after) == (584, 3 * 80 + 8)
    assert (kept.decomposed, kept.rank, kept.full_rank, kept.macs_after) == (False, 8, 8, 4 * 48)
    assert kept.reason
    assert (deep.decomposed, deep.rank, deep.full_rank, deep.reason) == (False, 0, 0, "depthwise")
    assert {cut.ms_before, cut.ms_after, deep.ms_after} == {None}
    timed = summarize_layers(network, planned, {"cut": 8}, ({"cut": 2.0, "kept": 1.0}, {"cut": 0.5, "kept": 1.0}))
    assert [(item.ms_before, item.ms_after) for item in timed] == [(2.0, 0.5), (1.0, 1.0), (None, None)]
    # Where only channels are pruned, bases aren't looked at.
    _, unseen, _ = summarize_layers(network, planned, {"cut": 8})
    assert (unseen.full_rank, unseen.rank) == (0, 0)
    assert unseen.reason not in ("", kept.reason)


def test_groups() -> None:
    groups = (
        DependencyGroup("a", np.array([3, 4, 5]), ""),
        DependencyGroup("b", np.array([7, 9]), ""),
        DependencyGroup("c", np.array([8]), "an output"),
    )
    reports = summarize_groups(groups, {4, 5})
    assert [(item.name, item.channels, item.kept, item.blocked_by) for item in reports] == [
        ("a", 3, 1, ""), ("b", 2, 2, ""), ("c", 1, 1, "an output"),
    ]  # fmt: skip
