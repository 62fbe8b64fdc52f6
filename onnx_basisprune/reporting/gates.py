"""The gates: pass or fail, by a report's figures alone.

A gate whose figure the report doesn't have can't be judged, and fails: its `reached` is NaN and its `explanation` says
why.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite, nan

from onnx_basisprune.benchmark_report import BenchmarkReport
from onnx_basisprune.limits import GateLimits
from onnx_basisprune.numbers import is_lower_bound, show_interval, show_name
from onnx_basisprune.results import CompressionReport, Gate, Interval, Speedup

# Fractions times 100 have rounding errors: a drop of 7 pp is 7.000000000000001.
_ROUNDING = 1e-9


def judge_limits(report: CompressionReport, limits: GateLimits) -> tuple[Gate, ...]:
    """Return a gate for every bound that is asked for.

    Args:
        report: Of a compression run.
        limits: The bounds, and whether they are held against the pessimistic ends of intervals.
    """
    return tuple(
        judge(name, asked, read(report), strict=limits.strict, note=_note_doubt(name, report))
        for name, read in _FIGURES.items()
        if (asked := getattr(limits, name)) is not None
    )


def judge_benchmark(report: BenchmarkReport, min_speedup: float | None, *, strict: bool = False) -> tuple[Gate, ...]:
    """Return a gate for the speed-up at each batch size and number of threads.

    Args:
        report: Of two models.
        min_speedup: Least time of the first divided by time of the second; `None` for no gates.
        strict: Judge by the lower end of the interval.
    """
    if min_speedup is None:
        return ()
    gates = []
    for run in report.runs:
        threads = "default threads" if run.threads is None else f"{run.threads} thread{'s' * (run.threads != 1)}"
        figure = "only one model was timed" if run.speedup is None else _as_interval(run.speedup)
        name = f"min_speedup[batch {run.batch_size}, {threads}]"
        gates.append(judge(name, min_speedup, figure, strict=strict))
    return tuple(gates)


def judge(name: str, asked: float, figure: Interval | str, *, strict: bool, note: str = "") -> Gate:
    """Hold one figure to its bound.

    Args:
        name: The gate.
        asked: The bound.
        figure: The figure with its interval (of counts all three are the same), or why there is none.
        strict: Judge by the pessimistic end.
        note: What the explanation begins with.
    """
    if isinstance(figure, str):
        return Gate(name, asked, nan, False, f"can't be judged: {figure}")
    is_least = is_lower_bound(name)
    reached = figure.estimate if not strict else figure.low if is_least else figure.high
    if not isfinite(reached):
        return Gate(name, asked, nan, False, "can't be judged: the report's figure is no number")
    passed = reached >= asked - _ROUNDING if is_least else reached <= asked + _ROUNDING
    notes = [note] if note else []
    if isfinite(figure.low) and figure.low != figure.high:
        scale, unit = (100.0, " %") if name == "min_accuracy" else (1.0, "")
        notes += [f"estimate {figure.estimate * scale:.4g}{unit}"] * strict
        notes += [show_interval(figure, scale, unit=unit)]
    return Gate(name, asked, reached, passed, ", ".join(notes))


def _read_drop(report: CompressionReport) -> Interval | str:
    """Return the accuracy drop, or why there is none."""
    return report.drop_pp or _explain_absence(report, "accuracy of the compressed model")


def _read_speedup(report: CompressionReport) -> Interval | str:
    """Return the speed-up, or why there is none."""
    return _as_interval(report.speedup) if report.speedup else _explain_absence(report, "speed-up")


def _read_macs(report: CompressionReport) -> Interval | str:
    """Return the compressed model's multiply-adds, or why there is none."""
    return _exactly(report.compressed.macs)


def _read_parameters(report: CompressionReport) -> Interval | str:
    """Return the compressed model's parameters, or why there is none."""
    return _exactly(report.compressed.parameters)


def _read_file_bytes(report: CompressionReport) -> Interval | str:
    """Return the compressed model's size on disk, or why there is none."""
    size = report.compressed.file_bytes
    return _explain_absence(report, "file size") if size is None else _exactly(size)


def _read_accuracy(report: CompressionReport) -> Interval | str:
    """Return the compressed model's top-1 accuracy, or why there is none."""
    accuracy = report.compressed.accuracy
    if accuracy is None:
        return _explain_absence(report, "accuracy of the compressed model")
    if accuracy.top1 is None:
        return "the images have no labels"
    # Without an interval nothing but the estimate can be judged.
    return accuracy.interval or Interval(accuracy.top1, nan, nan)


def _note_doubt(name: str, report: CompressionReport) -> str:
    """Return what a figure leaves out."""
    if name != "max_macs" or not report.compressed.uncounted_ops:
        return ""
    ops = ", ".join(show_name(op) for op in report.compressed.uncounted_ops)
    return f"without {ops}, whose multiply-adds aren't known"


def _explain_absence(report: CompressionReport, what: str) -> str:
    """Return why a report lacks a figure."""
    why = ": it is of a dry run" if report.config.get("dry_run") else ""
    return f"the report has no {what}{why}"


def _exactly(count: int) -> Interval:
    """Return a count as a figure without doubt."""
    return Interval(count, count, count)


def _as_interval(speedup: Speedup) -> Interval:
    """Return a speed-up with its ends."""
    return Interval(speedup.median, speedup.low, speedup.high)


# Gate → its figure. The names are the options', too.
_FIGURES: dict[str, Callable[[CompressionReport], Interval | str]] = {
    "max_drop": _read_drop,
    "min_speedup": _read_speedup,
    "max_macs": _read_macs,
    "max_parameters": _read_parameters,
    "max_file_bytes": _read_file_bytes,
    "min_accuracy": _read_accuracy,
}
