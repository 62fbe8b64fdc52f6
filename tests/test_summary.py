"""What the report says about gates, options and layers."""

from __future__ import annotations

import json
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
from onnx_basisprune.results import ModelMeasurement
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
    [({}, ("macs", 0.5)), ({"target_macs": 0.3}, ("macs", 0.3)), ({"target_params": 0.2}, ("params", 0.2))],
)
def test_budget(options: dict[str, float], budget: tuple[str, float]) -> None:
    assert choose_budget(CompressionConfig(**options)) == budget


@pytest.mark.parametrize(
    ("options", "compressed", "reached", "passed"),
    [
        ({"target_macs": 0.5}, measure(500, 500), 0.5, True),
        ({"target_macs": 0.5}, measure(501, 1), 0.501, False),
        ({"target_params": 0.1}, measure(1000, 50), 0.1, True),
        ({"target_params": 0.1}, measure(1, 51), 0.102, False),
        ({}, measure(400, 500), 0.4, True),
    ],
)
def test_gate(options: dict[str, Any], compressed: ModelMeasurement, reached: float, *, passed: bool) -> None:
    (gate,) = judge_gates(CompressionConfig(**options), ORIGINAL, compressed, has_anything=True)
    assert gate.reached == pytest.approx(reached, rel=1e-12)
    assert gate.passed == passed


def test_gate_of_a_model_with_nothing_to_prune() -> None:
    assert judge_gates(CompressionConfig(), ORIGINAL, ORIGINAL, has_anything=False) == ()
    (gate,) = judge_gates(CompressionConfig(target_params=0.5), ORIGINAL, ORIGINAL, has_anything=False)
    assert not gate.passed


def test_gate_of_a_model_without_cost() -> None:
    empty = measure(0, 0)
    (gate,) = judge_gates(CompressionConfig(target_macs=1.0), empty, empty, has_anything=False)
    assert (gate.reached, gate.passed) == (1.0, True)


def test_config_is_ready_for_json() -> None:
    config = CompressionConfig(model=Path("a.onnx"), exclude=("n",), report=Path("r.json"))
    described = describe_config(config, Path("out.onnx"), {"preset": "unit"})
    assert json.loads(json.dumps(described)) == {
        **described,
        "exclude": ["n"],
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
        Plan({"cut": np.array([0, 2, 5])}, {}), Forecast(0, 0, after), {"cut": 0.5, "kept": 0.0}, reached=True
    )
    cut, kept, deep = summarize_layers(network, planned, {"cut": 8, "kept": 8})
    assert (cut.decomposed, cut.rank, cut.full_rank, cut.reason, cut.removed_score) == (True, 3, 8, "", 0.5)
    assert (cut.macs_before, cut.macs_after) == (4 * 576, 4 * 3 * 80)
    assert (cut.parameters_before, cut.parameters_after) == (584, 3 * 80 + 8)
    assert (kept.decomposed, kept.rank, kept.full_rank, kept.macs_after) == (False, 8, 8, 4 * 48)
    assert kept.reason
    assert (deep.decomposed, deep.rank, deep.full_rank, deep.reason) == (False, 0, 0, "depthwise")
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
