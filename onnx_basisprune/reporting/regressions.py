"""Whether a release is worse than the last one, by the reports of both.

The compressed models of the two reports are compared; they were measured at different times, perhaps on different
images or machines. So the interval of a change combines those of its two figures (MOVER, the method of variance
estimates recovery: each end's distance is the root of the sum of squares of the two distances that it comes from), for
the speed-up on a logarithmic scale. Where no slack is given, the change may be what the interval can't tell from none.
"""

from __future__ import annotations

from math import exp, hypot, log, nan

from onnx_basisprune.limits import Slack
from onnx_basisprune.numbers import show_percent
from onnx_basisprune.reporting.gates import judge
from onnx_basisprune.results import Accuracy, CompressionReport, Gate, Interval, Speedup

# Of the same model a clock shows so much of a difference, in percent, from one day to the next.
_CLOCK_TOLERANCE = 4.0
# No two models differ so much; what is beyond has no logarithm to compute with, or overflows.
_MOST_SPEEDUP = 1e9


def judge_regressions(old: CompressionReport, new: CompressionReport, slack: Slack) -> tuple[Gate, ...]:
    """Return a gate each for accuracy, speed-up, multiply-adds, parameters and bytes of the compressed models.

    Args:
        old: Of the last release.
        new: Of the one in question.
        slack: How much worse it may be.
    """
    return (
        _judge_accuracy(old.compressed.accuracy, new.compressed.accuracy, slack),
        _judge_speedup(old.speedup, new.speedup, slack),
        _judge_size("macs", old.compressed.macs, new.compressed.macs, slack),
        _judge_size("parameters", old.compressed.parameters, new.compressed.parameters, slack),
        _judge_size("file_bytes", old.compressed.file_bytes, new.compressed.file_bytes, slack),
    )


def _judge_accuracy(old: Accuracy | None, new: Accuracy | None, slack: Slack) -> Gate:
    """Return the gate for top-1 accuracy, or for the agreement where neither report has labels."""
    if old is None or new is None:
        return _judge_change("lower_accuracy", _tell_missing(old, "accuracy"), slack.accuracy, slack)
    if (old.top1 is None) != (new.top1 is None):
        return _judge_change("lower_accuracy", "only one of the reports is of labelled images", slack.accuracy, slack)
    a, b = (_fill_interval(accuracy) for accuracy in (old, new))
    images = f"{old.n:,}" if old.n == new.n else f"{old.n:,} and {new.n:,}"
    what = "agreement" if old.top1 is None else "top-1"
    note = f"{what} {show_percent(a.estimate)} -> {show_percent(b.estimate)} on {images} images"
    change = a.estimate - b.estimate
    low = change - hypot(a.estimate - a.low, b.high - b.estimate)
    high = change + hypot(a.high - a.estimate, b.estimate - b.low)
    return _judge_change(
        "lower_accuracy", Interval(100 * change, 100 * low, 100 * high), slack.accuracy, slack, note=note
    )


def _fill_interval(accuracy: Accuracy) -> Interval:
    """Return what is held against the other report, with its interval if there is one."""
    estimate = accuracy.agreement if accuracy.top1 is None else accuracy.top1
    if accuracy.interval is not None:
        return accuracy.interval
    return Interval(nan if estimate is None else estimate, nan, nan)


def _judge_speedup(old: Speedup | None, new: Speedup | None, slack: Slack) -> Gate:
    """Return the gate for the speed-up over the original, which both models of a report were timed for in turns."""
    if old is None or new is None:
        return _judge_change("lower_speedup", _tell_missing(old, "speed-up"), slack.speedup, slack)
    ends = (old.low, old.median, old.high, new.low, new.median, new.high)
    if not all(1 / _MOST_SPEEDUP < value < _MOST_SPEEDUP for value in ends):
        return _judge_change("lower_speedup", "a report's speed-up is no sensible number", slack.speedup, slack)
    change = log(old.median / new.median)
    low = change - hypot(log(old.median / old.low), log(new.high / new.median))
    high = change + hypot(log(old.high / old.median), log(new.median / new.low))
    # Old over new, 1.25 say, becomes the part that is lost: 20 %.
    lost = Interval(*(100 * (1 - exp(-value)) for value in (change, low, high)))
    note = f"{old.median:.2f}x -> {new.median:.2f}x"
    return _judge_change("lower_speedup", lost, slack.speedup, slack, note=note, least_slack=_CLOCK_TOLERANCE)


def _judge_size(what: str, old: int | None, new: int | None, slack: Slack) -> Gate:
    """Return the gate for a count, which may grow by some percent."""
    if old is None or new is None:
        return _judge_change(f"more_{what}", _tell_missing(old, what), slack.size, slack)
    growth = 100 * (new - old) / max(old, 1)
    return judge(f"more_{what}", slack.size, Interval(growth, growth, growth), strict=False, note=f"{old:,} -> {new:,}")


def _tell_missing(old: object, what: str) -> str:
    """Return which of the reports lacks a figure."""
    return f"the {'baseline' if old is None else 'new report'} has no {what}"


def _judge_change(
    name: str,
    change: Interval | str,
    allowed: float | None,
    slack: Slack,
    *,
    note: str = "",
    least_slack: float = 0.0,
) -> Gate:
    """Hold a change for the worse to its slack.

    Args:
        name: The gate.
        change: With its interval, or why it isn't known.
        allowed: The slack; `None` for what the interval can't tell from nothing, with `strict` for 0.
        slack: Tells whether to judge by the pessimistic end.
        note: The two figures.
        least_slack: What is allowed at least where nothing is given.
    """
    if allowed is None:
        noise = 0.0 if slack.strict or isinstance(change, str) else change.estimate - change.low
        allowed = max(noise, 0.0 if slack.strict else least_slack)
    return judge(name, allowed, change, strict=slack.strict, note=note)
