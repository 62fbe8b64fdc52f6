"""Gates: what passes and what fails, on the estimate and on the pessimistic end; what can't be judged never passes."""

from __future__ import annotations

import dataclasses
from math import isnan, nan
from typing import Any

import pytest

from onnx_basisprune.benchmark_report import BenchmarkReport, BenchmarkRun, ModelTiming
from onnx_basisprune.errors import ConfigError
from onnx_basisprune.limits import GateLimits
from onnx_basisprune.numbers import show_gate
from onnx_basisprune.reporting.gates import judge_benchmark, judge_limits
from onnx_basisprune.results import Accuracy, CompressionReport, Interval, Latency, Speedup

# The report's figures: drop 10 pp (-12.5 to 40), speed-up 1.5 (1.4 to 1.6), 60 MACs, 25 parameters, 600 bytes,
# accuracy 0.8 (0.5 to 0.94).
BOUNDS = [
    ("max_drop", 10.0, 10.0, 40.0, "max_drop {}: 10 pp, at most 10 pp asked"),
    ("min_speedup", 1.5, 1.5, 1.4, "min_speedup {}: 1.5x, at least 1.5x asked"),
    ("max_macs", 60, 60, 60, "max_macs {}: 60, at most 60 asked"),
    ("max_parameters", 25, 25, 25, "max_parameters {}: 25, at most 25 asked"),
    ("max_file_bytes", 600, 600, 600, "max_file_bytes {}: 600, at most 600 asked"),
    ("min_accuracy", 0.8, 0.8, 0.5, "min_accuracy {}: 80 %, at least 80 % asked"),
]


@pytest.mark.parametrize(("name", "asked", "reached", "worst", "line"), BOUNDS)
def test_a_bound_is_met_exactly_and_missed_by_little(
    full_report: CompressionReport, name: str, asked: float, reached: float, worst: float, line: str
) -> None:
    (gate,) = judge_limits(full_report, GateLimits(**{name: asked}))
    assert (gate.name, gate.asked, gate.reached, gate.passed) == (name, asked, reached, True)
    assert show_gate(gate).startswith(line.format("passed"))
    step = 1 if isinstance(asked, int) else 0.01
    harder = asked + step if name.startswith("min") else asked - step
    (gate,) = judge_limits(full_report, GateLimits(**{name: harder}))
    assert not gate.passed
    assert " FAILED: " in show_gate(gate)


@pytest.mark.parametrize(("name", "asked", "reached", "worst", "line"), BOUNDS)
def test_strict_judges_the_pessimistic_end(
    full_report: CompressionReport, name: str, asked: float, reached: float, worst: float, line: str
) -> None:
    (gate,) = judge_limits(full_report, GateLimits(**{name: asked}, strict=True))
    assert (gate.reached, gate.passed) == (worst, worst == reached)
    assert ("(estimate " in show_gate(gate)) == (worst != reached)
    assert judge_limits(full_report, GateLimits(**{name: worst}, strict=True))[0].passed


def test_rounding_of_percentages_fails_nothing(full_report: CompressionReport) -> None:
    drop = 100 * 0.07
    assert drop > 7
    report = dataclasses.replace(full_report, drop_pp=Interval(drop, drop, drop))
    assert judge_limits(report, GateLimits(max_drop=7.0))[0].passed
    assert not judge_limits(report, GateLimits(max_drop=6.999))[0].passed


def test_every_bound_is_a_gate_of_its_own(full_report: CompressionReport) -> None:
    limits = GateLimits(**{name: asked for name, asked, *_ in BOUNDS})
    assert [gate.name for gate in judge_limits(full_report, limits)] == [name for name, *_ in BOUNDS]
    assert judge_limits(full_report, GateLimits(strict=True)) == ()


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", ["max_drop", "min_speedup", "max_file_bytes", "min_accuracy"])
def test_a_dry_run_passes_no_gate_on_what_it_doesnt_measure(
    full_report: CompressionReport, name: str, strict: bool
) -> None:
    report = dataclasses.replace(
        full_report,
        config={"dry_run": True},
        compressed=dataclasses.replace(full_report.compressed, file_bytes=None, latency=None, accuracy=None),
        speedup=None,
        drop_pp=None,
    )
    (gate,) = judge_limits(report, GateLimits(**{name: 0.5 if name[:3] == "min" else 100}, strict=strict))
    assert (isnan(gate.reached), gate.passed) == (True, False)
    assert "can't be judged: the report has no " in show_gate(gate)
    assert "dry run" in show_gate(gate)


@pytest.mark.parametrize(
    ("changes", "limits", "message"),
    [
        ({"drop_pp": Interval(nan, nan, nan)}, {"max_drop": 100.0}, "is no number"),
        ({"speedup": Speedup(2.0, nan, nan)}, {"min_speedup": 0.1, "strict": True}, "is no number"),
        ({"accuracy": Accuracy(10, None, None, 0.9)}, {"min_accuracy": 0.0}, "the images have no labels"),
        ({"accuracy": Accuracy(10, 0.9)}, {"min_accuracy": 0.0, "strict": True}, "is no number"),
    ],
)
def test_what_isnt_known_passes_nothing(
    full_report: CompressionReport, changes: dict[str, Any], limits: dict[str, Any], message: str
) -> None:
    if "accuracy" in changes:
        changes = {"compressed": dataclasses.replace(full_report.compressed, **changes)}
    (gate,) = judge_limits(dataclasses.replace(full_report, **changes), GateLimits(**limits))
    assert not gate.passed
    assert message in show_gate(gate)


def test_multiply_adds_that_arent_known_are_told(full_report: CompressionReport) -> None:
    (gate,) = judge_limits(full_report, GateLimits(max_macs=1000))
    assert gate.explanation == "without Resize, whose multiply-adds aren't known"


@pytest.mark.parametrize(
    "limits",
    [
        {"max_drop": nan},
        {"max_drop": 101.0},
        {"min_speedup": 0.0},
        {"min_speedup": float("inf")},
        {"max_macs": -1},
        {"min_accuracy": 75.0},
        {"min_accuracy": nan},
    ],
)
def test_bounds_that_cant_be_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(limits)).replace('_', '-')} is .*; expected"):
        GateLimits(**limits)


def test_a_benchmark_has_a_gate_per_measurement() -> None:
    timing = ModelTiming(Latency(1.0, 1.2, 1, 30), 1000.0)
    runs = tuple(
        BenchmarkRun(size, threads, timing, timing, Speedup(median, median - 0.1, median + 0.1))
        for size, threads, median in ((1, None, 1.5), (8, 1, 1.25), (8, 2, 1.1))
    )
    report = BenchmarkReport({}, {}, runs)
    assert judge_benchmark(report, None) == ()
    gates = judge_benchmark(report, 1.2)
    assert [(gate.name, gate.passed) for gate in gates] == [
        ("min_speedup[batch 1, default threads]", True),
        ("min_speedup[batch 8, 1 thread]", True),
        ("min_speedup[batch 8, 2 threads]", False),
    ]
    assert "at least 1.2x asked" in show_gate(gates[2])
    assert [gate.passed for gate in judge_benchmark(report, 1.2, strict=True)] == [True, False, False]
    alone = BenchmarkReport({}, {}, (BenchmarkRun(1, None, timing, None, None),))
    assert not judge_benchmark(alone, 0.5)[0].passed
