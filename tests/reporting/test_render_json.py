"""Reports become strict JSON whose keys are the dataclasses' fields."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pytest

from onnx_basisprune.benchmark_report import BenchmarkReport, BenchmarkRun, ModelTiming
from onnx_basisprune.reporting.render_json import render_json, to_plain
from onnx_basisprune.results import (
    Accuracy,
    CompressionReport,
    Gate,
    Interval,
    Latency,
    LayerReport,
    ModelMeasurement,
    RecoveryReport,
    Speedup,
)


def refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} isn't JSON")


def make_report() -> CompressionReport:
    accuracy = Accuracy(10, 0.9, None, 0.8, Interval(0.9, 0.6, 0.98))
    measurement = ModelMeasurement(100, 50, 1000, ("Resize",), Latency(1.5, 2.0, 1, 30), accuracy)
    return CompressionReport(
        config={"model": Path("a") / "b.onnx", "mean": (0.5,), "target_macs": None},
        environment={"cpu": "x"},
        original=measurement,
        compressed=dataclasses.replace(measurement, macs=np.int64(60)),
        speedup=Speedup(1.5, 1.4, math.inf),
        drop_pp=Interval(0.5, -0.1, 1.0),
        layers=(LayerReport("c", "Conv", True, "", 8, np.int64(3), 9, 5, 4, 2, np.float32(0.5)),),
        groups=(),
        gates=(Gate("target_macs", 0.5, math.nan, np.bool_(False)),),
        recovery=RecoveryReport("scale", 2, True, 0.5, 0.25, ((0, 0.5, 0.0), (2, 0.25, 1e-3))),
        timings={"data": 0.5},
        warnings=("careful",),
    )


def test_a_compression_report_has_the_keys_that_readers_rely_on() -> None:
    text = render_json(make_report())
    values = json.loads(text, parse_constant=refuse)
    assert text.endswith("}\n")
    assert next(iter(values)) == "format_version"
    assert values["format_version"] == 1
    assert set(values) == {field.name for field in dataclasses.fields(CompressionReport)}
    for side in ("original", "compressed"):
        model = values[side]
        assert set(model) >= {"macs", "parameters", "file_bytes"}
        assert model["latency"]["median_ms"] == 1.5
        assert (model["accuracy"]["top1"], model["accuracy"]["agreement"], model["accuracy"]["n"]) == (0.9, 0.8, 10)
    assert values["compressed"]["macs"] == 60
    assert values["speedup"] == {"median": 1.5, "low": 1.4, "high": None}
    assert values["drop_pp"] == {"estimate": 0.5, "low": -0.1, "high": 1.0}
    assert values["gates"] == [
        {"name": "target_macs", "asked": 0.5, "reached": None, "passed": False, "explanation": ""}
    ]
    assert values["layers"][0]["rank"] == 3
    assert values["recovery"]["curve"] == [[0, 0.5, 0.0], [2, 0.25, 1e-3]]
    assert values["config"]["mean"] == [0.5]


def test_missing_figures_are_null() -> None:
    measurement = ModelMeasurement(1, 1, None)
    report = dataclasses.replace(make_report(), compressed=measurement, speedup=None, drop_pp=None)
    values = json.loads(render_json(report))
    assert values["compressed"]["latency"] is None
    assert values["compressed"]["file_bytes"] is None
    assert values["speedup"] is None


def test_the_same_report_gives_the_same_text() -> None:
    assert render_json(make_report()) == render_json(make_report())


def test_any_text_is_ascii_and_comes_back_unchanged() -> None:
    # The last character is what Python makes of a file name's byte that isn't UTF-8.
    text = 'Größe "\u2028\x1b[31m\\ \udcff'
    report = dataclasses.replace(make_report(), environment={"cpu": text})
    rendered = render_json(report)
    assert rendered.isascii()
    assert json.loads(rendered)["environment"]["cpu"] == text


def test_a_benchmark_report_nests_its_runs() -> None:
    timing = ModelTiming(Latency(1.0, 1.25, 8, 30), 8000.0)
    run = BenchmarkRun(8, None, timing, None, None)
    values = json.loads(render_json(BenchmarkReport({"a": "a.onnx"}, {}, (run,))))
    assert values["runs"][0]["a"]["latency"]["median_ms"] == 1.0
    assert values["runs"][0]["a"]["peak_memory_bytes"] is None
    assert values["runs"][0]["threads"] is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.float64("nan"), None),
        (-math.inf, None),
        (np.bool_(True), True),
        (True, True),
        (np.int64(3), 3),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array([1.0, np.nan]), [1.0, None]),
        (PureWindowsPath("C:/a/b"), "C:\\a\\b"),
        ({1: (None, "x")}, {"1": [None, "x"]}),
    ],
)
def test_values_become_plain(value: Any, expected: Any) -> None:
    plain = to_plain(value)
    assert plain == expected
    assert type(plain) is type(expected)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", Interval])
def test_what_has_no_form_in_json_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="has no form in JSON"):
        to_plain(value)
