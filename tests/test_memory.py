"""What a run remembers is what it worked out, to the bit, and only for the same model, images and options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnx_basisprune.assessment import Assessment, assess_network
from onnx_basisprune.cache import Cache
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.memory import Memory
from onnx_basisprune.network import Network
from onnx_basisprune.planning.types import Plan
from onnx_basisprune.progress import Recorder, Silence
from onnx_basisprune.results import RecoveryReport

RECOVERY = RecoveryReport("scale", 20, True, 0.5, 0.25, ((0, 0.5, 0.0), (20, 0.25, 1e-3)), 1e-3, "float32", 12.5)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "runs", pytest.fail)


def remember(cache: Cache | None, sources: tuple[Any, ...] = ("model", "images"), **options: Any) -> Memory:
    return Memory(cache, CompressionConfig(**options), sources)


def assert_same(one: Assessment, other: Assessment) -> None:
    assert (one.bases.keys(), one.components.keys(), one.reads.keys()) == (
        other.bases.keys(),
        other.components.keys(),
        other.reads.keys(),
    )
    assert one.channels == other.channels
    for name, basis in one.bases.items():
        for field in ("R", "A", "center"):
            np.testing.assert_array_equal(getattr(basis, field), getattr(other.bases[name], field))
        np.testing.assert_array_equal(one.components[name], other.components[name])
    for name, read in one.reads.items():
        np.testing.assert_array_equal(read.total, other.reads[name].total)
        np.testing.assert_array_equal(read.outer.values, other.reads[name].outer.values)
        assert read.positions == other.reads[name].positions
    assert [item.edge for item in one.compensated] == [item.edge for item in other.compensated]


@pytest.mark.parametrize("prune", ["basis", "channels", "double"])
def test_an_assessment_is_recalled_to_the_bit(
    cache: Cache, branching: Callable[..., Network], calibrate: Callable[..., Any], prune: Any
) -> None:
    network = branching()
    first = assess_network(network, calibrate(network), "fisher", prune, Silence())
    assert remember(cache, prune=prune).recall_assessment(network, lambda: first) is first
    again = remember(cache, prune=prune).recall_assessment(network, lambda: pytest.fail("worked out again"))
    assert_same(again, first)


@pytest.mark.parametrize(
    ("sources", "options"),
    [
        (("other model", "images"), {}),
        (("model", "other images"), {}),
        (("model", "images"), {"basis": "svd"}),
        (("model", "images"), {"exclude": ("node",)}),
        (("model", "images"), {"seed": 1}),
    ],
)
def test_others_are_not_recalled(
    cache: Cache, branching: Callable[..., Network], sources: tuple[Any, ...], options: dict[str, Any]
) -> None:
    network, empty, other = branching(), Assessment({}, {}, {}, {}, ()), Assessment({}, {}, {1: 2.0}, {}, ())
    remember(cache).recall_assessment(network, lambda: empty)
    assert remember(cache, sources, **options).recall_assessment(network, lambda: other) is other


def build(model: ModelProto, recorder: Recorder, recovery: RecoveryReport | None = RECOVERY) -> Callable[[], Any]:
    def run() -> tuple[ModelProto, RecoveryReport | None]:
        recorder.warn("something of this candidate")
        return model, recovery

    return run


PLAN = Plan({"first": np.array([0, 2])}, {"stem": np.array([1, 3])})


@pytest.mark.parametrize("recovery", [RECOVERY, None])
def test_a_candidate_is_recalled_with_its_recovery_and_warnings(
    cache: Cache, branching: Callable[..., Network], recovery: RecoveryReport | None
) -> None:
    model, recorder = branching().model, Recorder(Silence())
    recorder.warn("before")
    remember(cache).recall_candidate(PLAN, build(model, recorder, recovery), recorder, tune=True)
    later = Recorder(Silence())
    found = remember(cache).recall_candidate(PLAN, lambda: pytest.fail("built again"), later, tune=True)
    assert found == (model, recovery)
    assert later.warnings == ["something of this candidate"]


def test_a_candidate_that_had_to_hurry_is_built_again(cache: Cache, branching: Callable[..., Network]) -> None:
    model, recorder = branching().model, Recorder(Silence())
    hurried = replace(RECOVERY, hurried=True)
    assert remember(cache).recall_candidate(PLAN, build(model, recorder, hurried), recorder, tune=True)[1] == hurried
    found = remember(cache).recall_candidate(PLAN, build(model, recorder), recorder, tune=True)
    assert found == (model, RECOVERY)


@pytest.mark.parametrize(
    ("plan", "tune", "options"),
    [
        (Plan({"first": np.array([0, 1])}, PLAN.channels), True, {}),
        (Plan(PLAN.components, {}), True, {}),
        (PLAN, False, {}),
        (PLAN, True, {"recover": "full"}),
        (PLAN, True, {"recover_steps": 7}),
        (PLAN, True, {"augment": "none"}),
    ],
)
def test_other_candidates_are_built(
    cache: Cache, branching: Callable[..., Network], plan: Plan, tune: bool, options: dict[str, Any]
) -> None:
    model, recorder = branching().model, Recorder(Silence())
    remember(cache).recall_candidate(PLAN, build(model, recorder), recorder, tune=True)
    _, recovery = remember(cache, **options).recall_candidate(plan, lambda: (model, None), recorder, tune=tune)
    assert recovery is None


def test_without_a_cache_nothing_is_remembered(branching: Callable[..., Network]) -> None:
    model, recorder = branching().model, Recorder(Silence())
    memory = remember(None)
    for _ in range(2):
        memory.recall_candidate(PLAN, build(model, recorder), recorder, tune=True)
    assert len(recorder.warnings) == 2
