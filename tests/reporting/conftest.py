"""A report with every part filled."""

from __future__ import annotations

import pytest

from onnx_basisprune.results import (
    Accuracy,
    ClassReport,
    CompressionReport,
    FrontierPoint,
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


def make_point(target: float, macs: int, top1: float, *, speedup: float, chosen: bool = False) -> FrontierPoint:
    """Return a size of a model whose original has 100 MACs and 50 parameters, and 90 % of 80 images right."""
    return FrontierPoint(
        unit="macs",
        target=target,
        chosen=chosen,
        recovered=not chosen,
        macs=macs,
        parameters=macs // 3,
        speedup=Speedup(speedup, speedup - 0.1, speedup + 0.1),
        accuracy=Accuracy(80, top1, None, top1, Interval(top1, top1 - 0.1, top1 + 0.08)),
        drop_pp=Interval(100 * (0.9 - top1), 100 * (0.9 - top1) - 4, 100 * (0.9 - top1) + 4),
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
        layers=(LayerReport("c", "Conv", True, "", 8, 3, 9, 5, 4, 2, 0.5, 0.25, 0.125),),
        groups=(GroupReport("c", 8, 8, "it is the model's output"),),
        gates=(Gate("max_drop", 1.0, 10.0, False), Gate("not_slower", 1.0, 1.5, True)),
        recovery=RecoveryReport("scale", 2, True, 0.5, 0.25, ((0, 0.5, 0.0), (2, 0.25, 1e-3)), 1e-3, "float32", 99.0),
        timings={"opening": 0.5},
        timing=TimingReport("ab" * 32, 16, 8, 0.6, 0.62, 2),
        search=SearchReport("latency", 1.0, 80, (SearchLook(0.5, 0.51, True, 0.2, 0.1, True, 2.5),), 1, False),
        warnings=("careful",),
        frontier=(
            make_point(0.8, 78, 0.85, speedup=1.25),
            make_point(0.6, 60, 0.8, speedup=1.5, chosen=True),
            make_point(0.25, 24, 0.55, speedup=2.5),
        ),
        per_class=(ClassReport(0, "cat", 4, 1.0, 0.75, 25.0), ClassReport(2, None, 6, 5 / 6, 5 / 6, 0.0)),
    )
