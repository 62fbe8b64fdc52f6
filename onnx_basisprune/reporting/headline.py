"""What a report's page says first: the verdict, the key figures, before and after, the gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from onnx_basisprune.numbers import UNKNOWN, show_amount, show_change, show_count, show_ms, show_percent
from onnx_basisprune.reporting.plots import IntervalPlot, plot_intervals
from onnx_basisprune.results import Accuracy, CompressionReport, Gate, Interval, Latency, Speedup

Status = Literal["passed", "failed", "open"]


@dataclass(frozen=True)
class Verdict:
    """The page's first line.

    Attributes:
        status: Whether gates failed; `open` where there were none.
        label: The same in a word or two.
        headline: What was gained and lost.
        remark: What qualifies it, else empty.
    """

    status: Status
    label: str
    headline: str
    remark: str


@dataclass(frozen=True)
class KeyFigure:
    """One large figure with what it rests on; `worse` where nobody can be glad of it."""

    title: str
    value: str
    note: str
    worse: bool = False


@dataclass(frozen=True)
class Comparison:
    """A row of before and after; the ranges stand in small print below their figures."""

    title: str
    before: str
    after: str
    change: str
    before_range: str = ""
    after_range: str = ""
    change_range: str = ""


@dataclass(frozen=True)
class ComparisonPlot:
    """Intervals of one quantity over a common axis."""

    title: str
    description: str
    drawing: IntervalPlot


def judge(report: CompressionReport) -> Verdict:
    """Return the verdict on a run."""
    failed = sum(not gate.passed for gate in report.gates)
    count = len(report.gates)
    status: Status
    if failed:
        status, label = "failed", f"Failed: {failed} of {count} gate{'s' * (count != 1)}"
    elif count:
        which = {1: "the gate", 2: "both gates"}.get(count, f"all {count} gates")
        status, label = "passed", f"Passed: {which}"
    else:
        status, label = "open", "No gates"
    said = [_say_speed(report.speedup), _say_size(report), _say_accuracy(report)]
    headline = ", ".join(part for part in said if part)
    return Verdict(status, label, headline[:1].upper() + headline[1:], _say_remark(report))


def _say_speed(speedup: Speedup | None) -> str:
    """Return how much faster or slower it got, as far as the benchmark can tell."""
    if speedup is None or not isfinite(speedup.median) or speedup.median <= 0:
        return ""
    if speedup.low > 1:
        return f"{speedup.median:.2f}× faster"
    if speedup.high < 1:
        return f"{1 / speedup.median:.2f}× slower"
    return "no measurable change of speed"


def _say_size(report: CompressionReport) -> str:
    """Return how much smaller the file is; where there is none, how many multiply-adds went."""
    before, after = report.original, report.compressed
    if before.file_bytes and after.file_bytes:
        return _say_less(before.file_bytes, after.file_bytes, "smaller", "larger")
    return _say_less(before.macs, after.macs, "fewer MACs", "more MACs") if before.macs else ""


def _say_less(before: int, after: int, less: str, more: str) -> str:
    """Return a relative change in whole percent."""
    percent = round(100 * (1 - after / before))
    return f"{abs(percent)} % {more if percent < 0 else less}"


def _say_accuracy(report: CompressionReport) -> str:
    """Return what became of the accuracy, as far as the images can tell."""
    drop, accuracy = report.drop_pp, report.compressed.accuracy
    if drop is None or accuracy is None or not isfinite(drop.estimate):
        return ""
    if accuracy.top1 is None:
        return f"same answer as the original on {100 - drop.estimate:.1f} % of the images"
    if drop.low > 0:
        return f"accuracy down by {drop.estimate:.2f} pp"
    if drop.high < 0:
        return f"accuracy up by {-drop.estimate:.2f} pp"
    return "no measurable change of accuracy"


def _say_remark(report: CompressionReport) -> str:
    """Return what a reader must know about the headline."""
    if report.config.get("dry_run"):
        return "A dry run: sizes are predicted, nothing was measured or written."
    accuracy = report.compressed.accuracy
    if accuracy is not None and accuracy.top1 is None:
        return "There were no labels: agreement with the original model stands in for accuracy."
    return ""


def list_key_figures(report: CompressionReport) -> list[KeyFigure]:
    """Return the figures that decide, those that are known."""
    before, after = report.original, report.compressed
    figures = []
    if report.speedup is not None and before.latency is not None and after.latency is not None:
        times = f"{show_ms(before.latency.median_ms)} → {show_ms(after.latency.median_ms)}"
        slower = report.speedup.median < 1
        figures.append(KeyFigure("Speed-up", _show_times(report.speedup.median), times, slower))
    if report.drop_pp is not None and after.accuracy is not None:
        figures.append(_make_accuracy_figure(report.drop_pp, before.accuracy, after.accuracy))
    for title, old, new, unit in (
        ("MACs", before.macs, after.macs, ""),
        ("Parameters", before.parameters, after.parameters, ""),
        ("File size", before.file_bytes, after.file_bytes, "B"),
    ):
        if old is not None and new is not None:
            steps = f"{show_amount(old, unit)} → {show_amount(new, unit)}"
            figures.append(KeyFigure(title, show_change(old, new), steps, new > old))
    return figures


def _make_accuracy_figure(drop: Interval, before: Accuracy | None, after: Accuracy) -> KeyFigure:
    """Return the change of accuracy; without labels the agreement."""
    images = f"{show_count(after.n)} image{'s' * (after.n != 1)}"
    if after.top1 is None:
        return KeyFigure("Agreement", show_percent(after.agreement), images, drop.low > 0)
    old = None if before is None else before.top1
    steps = f"{show_percent(old)} → {show_percent(after.top1)}"
    return KeyFigure("Accuracy", _show_points(-drop.estimate), steps, drop.low > 0)


def list_comparisons(report: CompressionReport) -> list[Comparison]:
    """Return the rows of the table of before and after; what wasn't measured has none."""
    before, after = report.original, report.compressed
    rows = [
        Comparison("MACs", show_amount(before.macs), show_amount(after.macs), show_change(before.macs, after.macs)),
        Comparison(
            "Parameters",
            show_amount(before.parameters),
            show_amount(after.parameters),
            show_change(before.parameters, after.parameters),
        ),
    ]
    if after.file_bytes is not None:
        sizes = show_amount(before.file_bytes, "B"), show_amount(after.file_bytes, "B")
        rows.append(Comparison("File size", *sizes, show_change(before.file_bytes, after.file_bytes)))
    if before.latency is not None and after.latency is not None:
        rows.append(_compare_latency(before.latency, after.latency, report.speedup))
    if after.accuracy is not None:
        rows += _compare_accuracy(before.accuracy, after.accuracy, report.drop_pp)
    return rows


def _compare_latency(before: Latency, after: Latency, speedup: Speedup | None) -> Comparison:
    """Return the row of the latencies, with the tenth-slowest run's."""
    images = f"{show_count(after.batch_size)} image{'s' * (after.batch_size != 1)}"
    return Comparison(
        f"Median latency of {images}",
        show_ms(before.median_ms),
        show_ms(after.median_ms),
        UNKNOWN if speedup is None else f"{_show_times(speedup.median)}",
        f"p90 {show_ms(before.p90_ms)}",
        f"p90 {show_ms(after.p90_ms)}",
        "" if speedup is None else f"{_show_times(speedup.low)} to {_show_times(speedup.high)}",
    )


def _compare_accuracy(before: Accuracy | None, after: Accuracy, drop: Interval | None) -> list[Comparison]:
    """Return the rows of the accuracies that are known."""
    rows = []
    if before is not None and after.top1 is not None:
        change = UNKNOWN if drop is None else _show_points(-drop.estimate)
        change_range = "" if drop is None else f"{_show_points(-drop.high)} to {_show_points(-drop.low)}"
        accuracies = show_percent(before.top1), show_percent(after.top1)
        ranges = _show_range(before.interval), _show_range(after.interval), change_range
        rows.append(Comparison("Top-1 accuracy", *accuracies, change, *ranges))
    if before is not None and before.top5 is not None and after.top5 is not None:
        change = _show_points(100 * (after.top5 - before.top5))
        rows.append(Comparison("Top-5 accuracy", show_percent(before.top5), show_percent(after.top5), change))
    if after.agreement is not None:
        agreement_range = _show_range(after.interval) if after.top1 is None else ""
        agreement = show_percent(after.agreement)
        rows.append(Comparison("Agreement with the original", UNKNOWN, agreement, UNKNOWN, after_range=agreement_range))
    return rows


def plot_comparisons(report: CompressionReport) -> list[ComparisonPlot]:
    """Return the intervals as plots, those that are known."""
    candidates: list[tuple[str, IntervalPlot | None, str]] = []
    if report.speedup is not None:
        row = ("speed-up", report.speedup.low, report.speedup.median, report.speedup.high)
        drawing = plot_intervals([row], lambda value: f"{value:g}×", reference=1.0)
        said = f"Speed-up {row[2]:.2f}, 95 % interval {row[1]:.2f} to {row[3]:.2f}; 1 is the original's speed."
        candidates.append(("Speed-up over the original", drawing, said))
    before, after = report.original.accuracy, report.compressed.accuracy
    rows = [
        (label, 100 * interval.low, 100 * interval.estimate, 100 * interval.high)
        for label, interval in (
            ("before", before.interval if before and before.top1 is not None else None),
            ("after", after.interval if after else None),
        )
        if interval is not None
    ]
    title = "Agreement with the original" if after is not None and after.top1 is None else "Top-1 accuracy"
    drawing = plot_intervals(rows, lambda value: f"{value:g} %")
    said = "; ".join(f"{row[0]} {row[2]:.2f} %, 95 % interval {row[1]:.2f} to {row[3]:.2f} %" for row in rows)
    candidates.append((title, drawing, f"{title} {said}."))
    return [ComparisonPlot(title, said, drawing) for title, drawing, said in candidates if drawing is not None]


def order_gates(gates: Sequence[Gate]) -> list[Gate]:
    """Return the gates, those that failed first."""
    return sorted(gates, key=lambda gate: gate.passed)


def _show_range(interval: Interval | None) -> str:
    """Return the ends of an interval of fractions, in percent."""
    return "" if interval is None else f"{100 * interval.low:.2f} to {100 * interval.high:.2f} %"


def _show_points(points: float) -> str:
    """Return a signed change in percentage points."""
    # Adding zero makes -0.0, which a drop of nothing comes to, positive.
    return f"{round(points, 2) + 0.0:+.2f} pp" if isfinite(points) else UNKNOWN


def _show_times(factor: float) -> str:
    """Return a factor."""
    return f"{factor:.2f}×" if isfinite(factor) else UNKNOWN
