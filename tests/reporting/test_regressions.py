"""Two releases: what is worse than the measurements' doubt, or than the slack that was given, is a regression."""

from __future__ import annotations

import dataclasses
from math import nan, sqrt

import pytest

from onnx_basisprune.errors import ConfigError
from onnx_basisprune.limits import Slack
from onnx_basisprune.numbers import show_gate
from onnx_basisprune.reporting.regressions import judge_regressions
from onnx_basisprune.results import Accuracy, CompressionReport, Gate, Interval, Speedup


def change_accuracy(report: CompressionReport, accuracy: Accuracy | None) -> CompressionReport:
    return dataclasses.replace(report, compressed=dataclasses.replace(report.compressed, accuracy=accuracy))


def change_size(report: CompressionReport, **sizes: int | None) -> CompressionReport:
    return dataclasses.replace(report, compressed=dataclasses.replace(report.compressed, **sizes))


def find(name: str, old: CompressionReport, new: CompressionReport, slack: Slack | None = None) -> Gate:
    (gate,) = (gate for gate in judge_regressions(old, new, slack or Slack()) if gate.name == name)
    return gate


def accuracy(top1: float, half: float = 0.01, n: int = 1000) -> Accuracy:
    return Accuracy(n, top1, None, 0.9, Interval(top1, top1 - half, top1 + half))


def test_a_release_is_no_worse_than_itself(full_report: CompressionReport) -> None:
    gates = judge_regressions(full_report, full_report, Slack(size=0.0))
    names = ["lower_accuracy", "lower_speedup", "more_macs", "more_parameters", "more_file_bytes"]
    assert [(gate.name, gate.reached, gate.passed) for gate in gates] == [(name, 0.0, True) for name in names]


def test_accuracy_may_be_lower_by_what_the_intervals_cant_tell(full_report: CompressionReport) -> None:
    old = change_accuracy(full_report, accuracy(0.9))
    # Two intervals of ±1 pp: their difference is known to ±1.414 pp.
    gate = find("lower_accuracy", old, change_accuracy(full_report, accuracy(0.887)))
    assert gate.asked == pytest.approx(sqrt(2), abs=1e-9)
    assert (gate.reached, gate.passed) == (pytest.approx(1.3, abs=1e-9), True)
    assert "top-1 90.00 % -> 88.70 % on 1,000 images" in show_gate(gate)
    assert not find("lower_accuracy", old, change_accuracy(full_report, accuracy(0.885))).passed
    assert find("lower_accuracy", old, change_accuracy(full_report, accuracy(0.99))).passed


def test_given_slack_is_held_against_the_estimate(full_report: CompressionReport) -> None:
    old, new = change_accuracy(full_report, accuracy(0.9)), change_accuracy(full_report, accuracy(0.895))
    assert find("lower_accuracy", old, new, Slack(accuracy=0.5)).passed
    assert not find("lower_accuracy", old, new, Slack(accuracy=0.4)).passed


def test_strict_wants_the_pessimistic_end_within_the_slack(full_report: CompressionReport) -> None:
    old, new = change_accuracy(full_report, accuracy(0.9)), change_accuracy(full_report, accuracy(0.9))
    assert not find("lower_accuracy", old, new, Slack(strict=True)).passed
    assert not find("lower_accuracy", old, new, Slack(accuracy=1.4, strict=True)).passed
    assert find("lower_accuracy", old, new, Slack(accuracy=1.42, strict=True)).passed


def test_agreement_takes_accuracys_place_in_both_or_in_none(full_report: CompressionReport) -> None:
    unlabelled = Accuracy(1000, None, None, 0.95, Interval(0.95, 0.94, 0.96))
    old = change_accuracy(full_report, unlabelled)
    worse = dataclasses.replace(unlabelled, agreement=0.9, interval=Interval(0.9, 0.89, 0.91))
    gate = find("lower_accuracy", old, change_accuracy(full_report, worse))
    assert (gate.reached, gate.passed) == (pytest.approx(5.0, abs=1e-9), False)
    assert "agreement 95.00 % -> 90.00 %" in gate.explanation
    gate = find("lower_accuracy", old, full_report)
    assert not gate.passed
    assert "only one of the reports is of labelled images" in gate.explanation


def test_the_speedup_may_be_lower_by_what_a_clock_shows(full_report: CompressionReport) -> None:
    exact = dataclasses.replace(full_report, speedup=Speedup(2.0, 2.0, 2.0))
    for median, passed in ((1.93, True), (1.91, False), (4.0, True)):
        gate = find("lower_speedup", exact, dataclasses.replace(exact, speedup=Speedup(median, median, median)))
        assert (gate.asked, gate.passed) == (4.0, passed)
        assert gate.reached == pytest.approx(100 * (1 - median / 2), abs=1e-9)
    noisy = dataclasses.replace(full_report, speedup=Speedup(1.9, 1.7, 2.1))
    assert find("lower_speedup", exact, noisy).passed
    assert not find("lower_speedup", exact, noisy, Slack(speedup=4.9)).passed
    assert find("lower_speedup", exact, noisy, Slack(speedup=5.1)).passed
    assert not find("lower_speedup", exact, noisy, Slack(speedup=14.9, strict=True)).passed
    assert find("lower_speedup", exact, noisy, Slack(speedup=15.1, strict=True)).passed


@pytest.mark.parametrize("what", ["macs", "parameters", "file_bytes"])
def test_sizes_may_grow_by_a_percent(full_report: CompressionReport, what: str) -> None:
    old = change_size(full_report, **{what: 10_000})
    assert find(f"more_{what}", old, change_size(full_report, **{what: 10_100})).passed
    gate = find(f"more_{what}", old, change_size(full_report, **{what: 10_101}))
    assert not gate.passed
    assert gate.explanation == "10,000 -> 10,101"
    assert find(f"more_{what}", old, change_size(full_report, **{what: 11_000}), Slack(size=10)).passed
    assert not find(f"more_{what}", change_size(full_report, **{what: 0}), old).passed


def test_what_a_report_lacks_passes_nothing(full_report: CompressionReport) -> None:
    bare = dataclasses.replace(change_size(change_accuracy(full_report, None), file_bytes=None), speedup=None)
    for old, new, whose in ((bare, full_report, "baseline"), (full_report, bare, "new report")):
        gates = {gate.name: gate for gate in judge_regressions(old, new, Slack(100, 100, 100))}
        for name in ("lower_accuracy", "lower_speedup", "more_file_bytes"):
            assert not gates[name].passed
            assert f"can't be judged: the {whose} has no " in gates[name].explanation
        assert gates["more_macs"].passed
    for speedup in (Speedup(nan, nan, nan), Speedup(1.0, 0.0, 2.0), Speedup(1e-320, 1e-321, 1e308)):
        broken = dataclasses.replace(full_report, speedup=speedup)
        assert not find("lower_speedup", full_report, broken, Slack(speedup=100)).passed
    uncertain = change_accuracy(full_report, Accuracy(10, 0.8))
    assert not find("lower_accuracy", full_report, uncertain).passed
    assert find("lower_accuracy", full_report, uncertain, Slack(accuracy=1)).passed


@pytest.mark.parametrize("slack", [{"accuracy": -1}, {"speedup": nan}, {"size": float("inf")}])
def test_slack_is_a_number_of_at_least_0(slack: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected 0 or more"):
        Slack(**slack)
