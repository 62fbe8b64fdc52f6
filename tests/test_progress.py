"""The recorder passes all on and keeps warnings and times."""

from __future__ import annotations

import pytest

import onnx_basisprune.progress as progress
from onnx_basisprune.progress import Recorder, Silence


class Listener:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def start(self, stage: str, total: float | None = None) -> None:
        self.told.append(("start", stage, total))

    def advance(self, amount: float) -> None:
        self.told.append(("advance", amount))

    def note(self, message: str) -> None:
        self.told.append(("note", message))

    def warn(self, message: str) -> None:
        self.told.append(("warn", message))


@pytest.fixture
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is a second later."""
    ticks = iter(range(100))
    monkeypatch.setattr(progress, "perf_counter", lambda: float(next(ticks)))


def test_everything_is_passed_on() -> None:
    listener = Listener()
    recorder = Recorder(listener)
    recorder.start("moments", 5)
    recorder.advance(2)
    recorder.note("so")
    recorder.warn("beware")
    recorder.start("bases")
    recorder.finish()
    assert listener.told == [
        ("start", "moments", 5),
        ("advance", 2),
        ("note", "so"),
        ("warn", "beware"),
        ("start", "bases", None),
    ]
    assert recorder.warnings == ["beware"]


@pytest.mark.usefixtures("_clock")
def test_times_of_stages_add_up_and_end_with_the_next() -> None:
    recorder = Recorder(Silence())
    for stage in ("a", "b", "a"):
        recorder.start(stage)
    recorder.finish()
    recorder.finish()
    assert recorder.timings == {"a": 2.0, "b": 1.0}


def test_no_stage_no_time() -> None:
    recorder = Recorder(Silence())
    recorder.finish()
    assert recorder.timings == {}


def test_silence_takes_everything() -> None:
    silence = Silence()
    recorder = Recorder(silence)
    recorder.start("a", 1)
    recorder.advance(1)
    recorder.note("n")
    recorder.warn("w")
    assert recorder.warnings == ["w"]


def test_fractions_become_advances() -> None:
    listener = Listener()
    follow = progress.follow_fraction(listener)
    for fraction in (0.25, 0.25, 1.0):
        follow(fraction)
    assert listener.told == [("advance", 0.25), ("advance", 0.0), ("advance", 0.75)]
