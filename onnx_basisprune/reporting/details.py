"""What a report's page says below: layers, channels, search, recovery, classes, and how the run was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from onnx_basisprune.numbers import UNKNOWN, show_amount, show_change, show_ms
from onnx_basisprune.reporting.plots import BarChart, LinePlot, draw_bars, plot_points
from onnx_basisprune.results import ClassReport, GroupReport, LayerReport, RecoveryReport

_WORST = 10
# So many decimals that the bars of a row are exact on any screen.
_BAR_DECIMALS = 2


@dataclass(frozen=True)
class LayerRow:
    """A layer with the lengths of its bars, in percent of the longest of the same kind."""

    layer: LayerReport
    rank: float
    macs_before: float
    macs_after: float
    ms_before: float
    ms_after: float
    change: str


@dataclass(frozen=True)
class LayerSection:
    """All layers: an overview, and a row for each.

    Attributes:
        chart: A column per layer, multiply-adds before and after.
        rows: In the graph's order.
        largest: The most multiply-adds that a layer has.
        decomposed: How many became pairs.
        narrowed: How many others have fewer multiply-adds.
        times: Sums of the predicted times before and after, in words; `None` where time wasn't looked at.
    """

    chart: BarChart
    rows: tuple[LayerRow, ...]
    largest: str
    decomposed: int
    narrowed: int
    times: tuple[str, str] | None


@dataclass(frozen=True)
class ClassSection:
    """The classes that lost most, and all of them at a glance.

    Attributes:
        chart: A bar per class, greatest loss first; upwards is better.
        worst: Those that lost most, at most ten.
        losing: How many lost.
        gaining: How many gained.
        count: How many there are.
        steepest: The largest change, in percentage points.
    """

    chart: BarChart
    worst: tuple[ClassReport, ...]
    losing: int
    gaining: int
    count: int
    steepest: float


@dataclass(frozen=True)
class GroupSection:
    """The dependency groups by what became of them; `blocked` holds them by their reason."""

    cut: tuple[GroupReport, ...]
    whole: tuple[GroupReport, ...]
    blocked: tuple[tuple[str, tuple[GroupReport, ...]], ...]


@dataclass(frozen=True)
class TimingRow:
    """A step of the run; `share` is its part of the longest one, in percent."""

    name: str
    seconds: float
    share: float


def describe_layers(layers: Sequence[LayerReport]) -> LayerSection:
    """Return the layers in the graph's order."""
    most = max((max(layer.macs_before, layer.macs_after) for layer in layers), default=0) or 1
    known = [_read_times(layer) for layer in layers]
    times = [pair or (0.0, 0.0) for pair in known]
    slowest = max((ms for pair in times for ms in pair if isfinite(ms)), default=0.0)
    rows = tuple(
        LayerRow(
            layer=layer,
            rank=_measure_share(layer.rank, layer.full_rank),
            macs_before=_measure_share(layer.macs_before, most),
            macs_after=_measure_share(layer.macs_after, most),
            ms_before=_measure_share(before, slowest),
            ms_after=_measure_share(after, slowest),
            change=show_change(layer.macs_before, layer.macs_after),
        )
        for layer, (before, after) in zip(layers, times, strict=True)
    )
    total = (show_ms(sum(before for before, _ in times)), show_ms(sum(after for _, after in times)))
    chart = draw_bars([[layer.macs_before for layer in layers], [layer.macs_after for layer in layers]])
    narrowed = sum(not layer.decomposed and layer.macs_after < layer.macs_before for layer in layers)
    decomposed = sum(layer.decomposed for layer in layers)
    return LayerSection(chart, rows, show_amount(most), decomposed, narrowed, total if any(known) else None)


def _read_times(layer: LayerReport) -> tuple[float, float] | None:
    """Return a layer's times before and after; `None` where one isn't known, so that sums compare the same layers."""
    return None if layer.ms_before is None or layer.ms_after is None else (layer.ms_before, layer.ms_after)


def describe_groups(groups: Sequence[GroupReport]) -> GroupSection:
    """Return the groups by what became of them."""
    blocked: dict[str, list[GroupReport]] = {}
    for group in groups:
        if group.blocked_by:
            blocked.setdefault(group.blocked_by, []).append(group)
    free = [group for group in groups if not group.blocked_by]
    return GroupSection(
        cut=tuple(group for group in free if group.kept < group.channels),
        whole=tuple(group for group in free if group.kept >= group.channels),
        blocked=tuple((reason, tuple(members)) for reason, members in blocked.items()),
    )


def describe_classes(classes: Sequence[ClassReport]) -> ClassSection | None:
    """Return what became of each class, `None` where that isn't known."""
    if not classes:
        return None
    ordered = sorted(classes, key=lambda item: -item.drop_pp)
    return ClassSection(
        chart=draw_bars([[min(-item.drop_pp, 0) for item in ordered], [max(-item.drop_pp, 0) for item in ordered]]),
        worst=tuple(item for item in ordered[:_WORST] if item.drop_pp > 0),
        losing=sum(item.drop_pp > 0 for item in ordered),
        gaining=sum(item.drop_pp < 0 for item in ordered),
        count=len(ordered),
        steepest=max(abs(item.drop_pp) for item in ordered),
    )


def plot_recovery(recovery: RecoveryReport) -> LinePlot | None:
    """Return the held-out loss over the steps, `None` where there are too few looks."""
    labels = [f"step {step:,}: loss {loss:.4g}, learning rate {rate:.2g}" for step, loss, rate in recovery.curve]
    points = [(float(step), loss) for step, loss, _ in recovery.curve]
    return plot_points(points, labels, (lambda value: f"{value:,.0f}", lambda value: f"{value:.3g}"), joined=True)


def list_timings(timings: Mapping[str, float]) -> list[TimingRow]:
    """Return the steps in their order, with the length of their bars."""
    longest = max(timings.values(), default=0.0)
    return [TimingRow(name, seconds, _measure_share(seconds, longest)) for name, seconds in timings.items()]


def list_settings(values: Mapping[str, Any], *, leave_out: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return a mapping's entries as text; what is unset is left out."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if key in leave_out or value is None or value in ([], (), {}):
            continue
        rows.append((str(key).replace("_", " "), _show_value(value)))
    return rows


def _show_value(value: Any) -> str:
    """Return any JSON value as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_show_value(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_show_value(item)}" for key, item in value.items())
    return UNKNOWN if value is None else str(value)


def _measure_share(part: float, whole: float) -> float:
    """Return a part of a whole in percent, within 0 and 100."""
    return round(100 * min(max(part / whole, 0.0), 1.0), _BAR_DECIMALS) if whole and part > 0 else 0.0
