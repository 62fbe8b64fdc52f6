"""How figures and names are written for people, on the terminal and in reports."""

from __future__ import annotations

from math import isfinite

from onnx_basisprune.errors import quote
from onnx_basisprune.results import Gate, Interval, Speedup

_STEP = 1000.0
UNKNOWN = "-"
# Gates whose bound is the least that will do; of all others it is the most.
_AT_LEAST = frozenset({"min_speedup", "min_accuracy", "not_slower"})
# What a budget counts, in words.
_COUNTED = {"macs": "MACs", "params": "parameters", "latency": "time"}
# Gate → what its numbers are multiplied by and followed by, for people.
_UNITS = {
    "max_drop": (1, " pp"),
    "min_speedup": (1, "x"),
    "not_slower": (1, "x"),
    "min_accuracy": (100, " %"),
    "target_macs": (100, " %"),
    "target_params": (100, " %"),
    "target_latency": (100, " %"),
    "lower_accuracy": (1, " pp"),
    "lower_speedup": (1, " %"),
    "more_macs": (1, " %"),
    "more_parameters": (1, " %"),
    "more_file_bytes": (1, " %"),
}


def show_name(name: str) -> str:
    """Return a name from a file as one line without control characters, which could move a terminal's cursor."""
    return quote(name)[1:-1]


def show_amount(value: float | None, unit: str = "") -> str:
    """Return a count or size with three digits and k, M, G or T, such as `41.2 M`."""
    if value is None or not isfinite(value):
        return UNKNOWN
    prefixes = ["", "k", "M", "G", "T"]
    # 999.5 would be written as 1000 with three digits.
    while value >= _STEP - 0.5 and len(prefixes) > 1:
        value /= _STEP
        prefixes.pop(0)
    prefix = prefixes[0]
    digits = 0 if prefix == "" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {prefix}{unit}".strip()


def show_count(value: int | None) -> str:
    """Return a whole number with separators, a dash where it isn't known."""
    return UNKNOWN if value is None else f"{value:,}"


def show_ms(value: float | None) -> str:
    """Return milliseconds with three digits."""
    if value is None or not isfinite(value):
        return UNKNOWN
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} ms"


def show_percent(fraction: float | None) -> str:
    """Return a fraction as percent."""
    return UNKNOWN if fraction is None or not isfinite(fraction) else f"{100 * fraction:.2f} %"


def show_budget(unit: str, target: float) -> str:
    """Return a budget in words: `50 % of the MACs`."""
    share = f"{100 * target:.3g} %" if isfinite(target) else UNKNOWN
    return f"{share} of the {show_unit(unit)}"


def show_unit(unit: str) -> str:
    """Return what a budget of a unit counts."""
    return _COUNTED.get(unit) or show_name(unit)


def show_change(before: float | None, after: float | None) -> str:
    """Return a relative change in percent."""
    if before is None or after is None or before == 0 or not isfinite(after / before):
        return UNKNOWN
    return f"{100 * (after / before - 1):+.1f} %"


def show_shape(shape: tuple[int | None, ...] | None) -> str:
    """Return a shape such as `1x3x32x32`, `?` for what is open."""
    return "?" if shape is None else "x".join("?" if size is None else str(size) for size in shape)


def show_interval(interval: Interval | Speedup, scale: float = 1.0, digits: int = 2, unit: str = "") -> str:
    """Return the ends of a 95 % confidence interval in words."""
    return f"95 % interval {scale * interval.low:.{digits}f} to {scale * interval.high:.{digits}f}{unit}"


def is_lower_bound(gate: str) -> bool:
    """Return whether a gate's bound is the least that will do."""
    return _name_kind(gate) in _AT_LEAST


def _name_kind(gate: str) -> str:
    """Return a gate's name without what tells it from others of its kind: `min_speedup[batch 8]` is `min_speedup`."""
    return gate.partition("[")[0]


def show_gate(gate: Gate) -> str:
    """Return a gate as one line: its name, whether it passed, what was reached, what was asked."""
    bound = "at least" if is_lower_bound(gate.name) else "at most"
    verdict = "passed" if gate.passed else "FAILED"
    why = f" ({show_name(gate.explanation)})" if gate.explanation else ""
    reached, asked = show_bound(gate.name, gate.reached), show_bound(gate.name, gate.asked)
    return f"{show_name(gate.name)} {verdict}: {reached}, {bound} {asked} asked{why}"


def show_bound(gate: str, value: float) -> str:
    """Return a gate's number with its unit: four digits, of large counts all; a dash where there is none."""
    if not isfinite(value):
        return UNKNOWN
    scale, unit = _UNITS.get(_name_kind(gate), (1, ""))
    value *= scale
    whole = abs(value) >= _STEP and float(value).is_integer()
    return f"{value:,.0f}{unit}" if whole else f"{value:.4g}{unit}"
