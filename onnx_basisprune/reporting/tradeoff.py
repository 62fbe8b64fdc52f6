"""What a report's page says of the trade-off: a plot for each thing that is saved, and a row for each size."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, nan

from onnx_basisprune.numbers import UNKNOWN, show_budget, show_percent
from onnx_basisprune.reporting.plots import LinePlot, plot_points
from onnx_basisprune.results import CompressionReport, FrontierPoint


@dataclass(frozen=True)
class TradeoffPlot:
    """Accuracy over what is left of one thing."""

    what: str
    description: str
    drawing: LinePlot


@dataclass(frozen=True)
class TradeoffRow:
    """A size as text; the ranges stand in small print."""

    point: FrontierPoint
    size: str
    speedup: str
    speedup_range: str
    macs: str
    parameters: str
    accuracy: str
    accuracy_range: str
    drop: str
    drop_range: str


@dataclass(frozen=True)
class TradeoffSection:
    """The trade-off.

    Attributes:
        measure: What accuracy means here.
        images: How many it was measured on.
        original: The original's accuracy on them.
        plots: Those that have two points at least.
        rows: The largest size first.
    """

    measure: str
    images: int
    original: str
    plots: tuple[TradeoffPlot, ...]
    rows: tuple[TradeoffRow, ...]


def describe_tradeoff(report: CompressionReport) -> TradeoffSection | None:
    """Return what `--frontier` found, `None` where it wasn't asked for."""
    if not report.frontier:
        return None
    first = report.frontier[0]
    # All points were compared with the original on the same images: which are not always those of the claim.
    original = _read_accuracy(first) + first.drop_pp.estimate / 100
    shares = [_measure_left(point, report) for point in report.frontier]
    rows = tuple(_describe_point(point, share) for point, share in zip(report.frontier, shares, strict=True))
    drawn = (_plot(report.frontier, [share[i] for share in shares], original, what) for i, what in enumerate(_SAVED))
    return TradeoffSection(
        measure="Agreement with the original" if first.accuracy.top1 is None else "Top-1 accuracy",
        images=first.accuracy.n,
        original=show_percent(original),
        plots=tuple(plot for plot in drawn if plot is not None),
        rows=rows,
    )


_SAVED = ("time", "multiply-adds", "parameters")


def _measure_left(point: FrontierPoint, report: CompressionReport) -> tuple[float, float, float]:
    """Return which fractions of time, multiply-adds and parameters are left; NaN for what isn't known."""
    before = report.original
    return (
        1 / point.speedup.median if point.speedup is not None and point.speedup.median > 0 else nan,
        point.macs / before.macs if before.macs else nan,
        point.parameters / before.parameters if before.parameters else nan,
    )


def _read_accuracy(point: FrontierPoint) -> float:
    """Return a point's accuracy, without labels its agreement; NaN where there is none."""
    found = point.accuracy.agreement if point.accuracy.top1 is None else point.accuracy.top1
    return nan if found is None else found


def _plot(points: tuple[FrontierPoint, ...], shares: list[float], original: float, what: str) -> TradeoffPlot | None:
    """Return accuracy over what is left, both in percent, joined from the original down."""
    known = [
        (100 * share, 100 * _read_accuracy(point), _name_size(point), point.chosen)
        for point, share in zip(points, shares, strict=True)
        if isfinite(share) and isfinite(_read_accuracy(point))
    ]
    ordered = sorted([(100.0, 100 * original, "the original", False), *known], key=lambda item: -item[0])
    drawing = plot_points(
        [(share, accuracy) for share, accuracy, _, _ in ordered],
        [f"{name}: {share:.3g} % of the {what} left, {accuracy:.2f} %" for share, accuracy, name, _ in ordered],
        ("{:g}".format, "{:g}".format),
        joined=True,
        highlighted=[chosen for _, _, _, chosen in ordered],
        reference=100 * original,
    )
    if drawing is None or not known or not isfinite(original):
        return None
    least = min(known, key=lambda item: item[0])
    said = f"From {100 * original:.2f} % with all of the {what} to {least[1]:.2f} % with {least[0]:.3g} % left"
    written = next((item for item in known if item[3]), None)
    if written is not None:
        said += f"; the model that was written has {written[1]:.2f} % with {written[0]:.3g} % left"
    return TradeoffPlot(what, f"{said}. The table below has the figures.", drawing)


def _describe_point(point: FrontierPoint, left: tuple[float, float, float]) -> TradeoffRow:
    """Return a size as text."""
    speedup, accuracy, drop = point.speedup, point.accuracy, point.drop_pp
    interval = accuracy.interval
    return TradeoffRow(
        point=point,
        size=_name_size(point),
        speedup=UNKNOWN if speedup is None or not isfinite(speedup.median) else f"{speedup.median:.2f}×",
        speedup_range="" if speedup is None else _show_range(speedup.low, speedup.high, "×"),
        macs=show_percent(left[1]),
        parameters=show_percent(left[2]),
        accuracy=show_percent(_read_accuracy(point)),
        accuracy_range="" if interval is None else _show_range(100 * interval.low, 100 * interval.high, " %"),
        drop=f"{drop.estimate:.2f} pp" if isfinite(drop.estimate) else UNKNOWN,
        drop_range=_show_range(drop.low, drop.high, " pp"),
    )


def _name_size(point: FrontierPoint) -> str:
    """Return what a point is called."""
    return "written" if point.chosen else show_budget(point.unit, point.target)


def _show_range(low: float, high: float, unit: str) -> str:
    """Return the ends of an interval, empty where they aren't known."""
    return f"{low:.2f} to {high:.2f}{unit}" if isfinite(low) and isfinite(high) else ""
