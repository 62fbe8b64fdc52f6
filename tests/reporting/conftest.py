"""A report with every part filled."""

from __future__ import annotations

import pytest

from onnx_basisprune.results import (
    Accuracy,
    ClassReport,
    CompressionReport,
    Gate,
    GroupReport,
    Interval,
    Latency,
    LayerReport,
    ModelMeasurement,
    RecoveryReport,
    SearchLook,
    SearchReport,
    Speedup,
    TimingReport,
)


@pytest.fixture
def full_report() -> CompressionReport:
    """Return the report of a labelled run that searched."""
    return CompressionReport(
        config={"model": "a.onnx", "output": "b.onnx", "max_drop": 1.0, "target_macs": None},
        environment={"cpu": "x", "threads": None, "seed": 0, "versions": {"onnx": "1.16.0"}},
        original=ModelMeasurement(
            100, 50, 1000, (), Latency(3.0, 3.5, 1, 30), Accuracy(10, 0.9, 1.0, None, Interval(0.9, 0.6, 0.98))
        ),
        compressed=ModelMeasurement(
            60, 25, 600, ("Resize",), Latency(2.0, 2.5, 1, 30), Accuracy(10, 0.8, 1.0, 0.9, Interval(0.8, 0.5, 0.94))
        ),
        speedup=Speedup(1.5, 1.4, 1.6),
        drop_pp=Interval(10.0, -12.5, 40.0),
        layers=(LayerReport("c", "Conv", True, "", 8, 3, 9, 5, 4, 2, 0.5),),
        groups=(GroupReport("c", 8, 8, "it is the model's output"),),
        gates=(Gate("max_drop", 1.0, 10.0, False), Gate("not_slower", 1.0, 1.5, True)),
        recovery=RecoveryReport("scale", 2, True, 0.5, 0.25, ((0, 0.5, 0.0), (2, 0.25, 1e-3)), 1e-3, "float32", 99.0),
        timings={"opening": 0.5},
        timing=TimingReport("ab" * 32, 16, 8, 0.6, 0.62, 2),
        search=SearchReport("latency", 1.0, 80, (SearchLook(0.5, 0.51, True, 0.2, 0.1, True, 2.5),), 1, False),
        warnings=("careful",),
        per_class=(ClassReport(0, "cat", 4, 1.0, 0.75, 25.0), ClassReport(2, None, 6, 5 / 6, 5 / 6, 0.0)),
    )
