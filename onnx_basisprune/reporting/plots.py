"""Geometry of the page's plots; the template draws them as SVG.

Text sits in the drawings only where these are never much wider or narrower than drawn. Bars of many layers or classes
are stretched to the page's width instead, without any text inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

# Size of a plot with axes, in the drawing's own units: at this width its text has the size of the page's small print.
WIDTH, HEIGHT = 400.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 20.0, 12.0, 40.0
_ROW = 30.0
_LABELS = 76.0
# One column of a bar chart, and what of it is left empty while columns are few.
COLUMN, CEILING = 10.0, 100.0
_GAP, _MANY_COLUMNS = 2.0, 120
_TICKS = 4
# What lies further out than any figure of a real run isn't drawn.
_LARGEST, _SMALLEST = 1e18, 1e-12


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: where it is, and what stands beside it."""

    position: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A point of a plot, with what a pointer at it is told."""

    x: float
    y: float
    label: str
    highlighted: bool = False


@dataclass(frozen=True)
class LinePlot:
    """Points over two axes.

    Attributes:
        x_ticks: Marks of the x axis.
        y_ticks: Marks of the y axis.
        marks: The points.
        path: Joins them in their order; empty where they aren't to be joined.
        reference: Where a line across marks a value of y to compare with.
    """

    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    path: str
    reference: float | None = None


@dataclass(frozen=True)
class Whisker:
    """An estimate with its interval on a row of its own."""

    label: str
    y: float
    low: float
    estimate: float
    high: float


@dataclass(frozen=True)
class IntervalPlot:
    """Estimates with their intervals over one axis; `reference` is where a line marks a value to compare with."""

    height: float
    ticks: tuple[Tick, ...]
    whiskers: tuple[Whisker, ...]
    reference: float | None


@dataclass(frozen=True)
class BarChart:
    """Bars from a base line, one per column; each path holds those of one kind."""

    width: float
    base: float
    paths: tuple[str, ...]


def plot_points(
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    show: tuple[Callable[[float], str], Callable[[float], str]],
    *,
    joined: bool,
    highlighted: Sequence[bool] = (),
    reference: float | None = None,
) -> LinePlot | None:
    """Return a plot of points over axes with round ticks, `None` where fewer than two can be drawn.

    Args:
        points: `(x, y)` of each.
        labels: What a pointer at each is told.
        show: How figures on the x and on the y axis are written.
        joined: Whether a line joins them in their order.
        highlighted: Which of them stand out; empty for none.
        reference: A value of y to mark.
    """
    marks = list(highlighted) or [False] * len(points)
    kept = [
        (point, label, mark)
        for point, label, mark in zip(points, labels, marks, strict=True)
        if all(map(_is_drawable, point))
    ]
    if len(kept) < 2:
        return None
    x_axis = _make_axis([point[0] for point, _, _ in kept], LEFT, WIDTH - RIGHT, show[0])
    level = reference if reference is not None and _is_drawable(reference) else None
    heights = [point[1] for point, _, _ in kept] + ([] if level is None else [level])
    y_axis = _make_axis(heights, HEIGHT - BOTTOM, TOP, show[1])
    drawn = tuple(Mark(x_axis.place(x), y_axis.place(y), label, mark) for (x, y), label, mark in kept)
    path = "M" + "L".join(f"{mark.x:.1f} {mark.y:.1f}" for mark in drawn) if joined else ""
    return LinePlot(x_axis.ticks, y_axis.ticks, drawn, path, None if level is None else y_axis.place(level))


def plot_intervals(
    rows: Sequence[tuple[str, float, float, float]], show: Callable[[float], str], reference: float | None = None
) -> IntervalPlot | None:
    """Return a row per estimate, `None` where none can be drawn.

    Args:
        rows: Label, low end, estimate and high end of each.
        show: How figures on the axis are written.
        reference: A value to mark on the axis.
    """
    kept = [row for row in rows if all(map(_is_drawable, row[1:]))]
    if not kept:
        return None
    values = [value for row in kept for value in row[1:]] + ([] if reference is None else [reference])
    axis = _make_axis(values, _LABELS, WIDTH - RIGHT, show)
    whiskers = tuple(
        Whisker(label, _ROW * (index + 0.6), axis.place(low), axis.place(estimate), axis.place(high))
        for index, (label, low, estimate, high) in enumerate(kept)
    )
    line = None if reference is None else axis.place(reference)
    return IntervalPlot(_ROW * len(kept) + 26, axis.ticks, whiskers, line)


def draw_bars(series: Sequence[Sequence[float]]) -> BarChart:
    """Return bars for several series over the same columns, scaled to the largest of all values.

    Args:
        series: Values of each column, positive ones upwards; those that can't be drawn are left out.
    """
    values = [value if _is_drawable(value) else 0.0 for row in series for value in row]
    highest, lowest = max([0.0, *values]), min([0.0, *values])
    span = (highest - lowest) or 1.0
    columns = max(map(len, series), default=0)
    gap = _GAP if columns <= _MANY_COLUMNS else 0.0
    base = CEILING * highest / span
    paths = []
    for row in series:
        bars = [
            f"M{COLUMN * index + gap / 2:g} {base:.2f}v{-CEILING * value / span:.2f}h{COLUMN - gap:g}V{base:.2f}z"
            for index, value in enumerate(row)
            if _is_drawable(value) and value
        ]
        paths.append("".join(bars))
    return BarChart(max(COLUMN * columns, 1.0), base, tuple(paths))


@dataclass(frozen=True)
class _Axis:
    """An axis from one round value to another."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[Tick, ...] = ()

    def place(self, value: float) -> float:
        """Return where a value lies in the drawing."""
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)


def _make_axis(values: Sequence[float], start: float, end: float, show: Callable[[float], str]) -> _Axis:
    """Return an axis that holds all values between its first and last tick.

    Args:
        values: All finite.
        start: Where the first tick lies in the drawing.
        end: Where the last one lies.
        show: How figures are written.
    """
    low, high = min(values), max(values)
    if high - low < max(_SMALLEST * abs(high), _SMALLEST):
        margin = max(abs(low) / 10, _SMALLEST)
        low, high = low - margin, high + margin
    step = _round_step((high - low) / _TICKS)
    first, last = floor(low / step), ceil(high / step)
    bare = _Axis(first * step, last * step, start, end)
    marks = tuple(Tick(bare.place(index * step), show(index * step)) for index in range(first, last + 1))
    return _Axis(bare.low, bare.high, start, end, marks)


def _is_drawable(value: float) -> bool:
    """Return whether a figure has a place on an axis: NaN, infinities and absurd sizes have none."""
    return abs(value) < _LARGEST


def _round_step(step: float) -> float:
    """Return the next step of 1, 2 or 5 times a power of ten."""
    power: float = 10.0 ** floor(log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)
