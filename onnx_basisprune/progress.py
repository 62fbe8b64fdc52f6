"""How a long run tells what it is doing; the command line draws bars from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Protocol


class Progress(Protocol):
    """Listens to a run. Every method may be called from the thread that runs only."""

    def start(self, stage: str, total: float | None = None) -> None:
        """A stage begins; `total` is in the unit of `advance`, `None` where it isn't known."""

    def advance(self, amount: float) -> None:
        """The current stage has come so much further."""

    def note(self, message: str) -> None:
        """Say something worth knowing, one line."""

    def warn(self, message: str) -> None:
        """Say something that the user should look at, one line."""


def follow_fraction(progress: Progress) -> Callable[[float], None]:
    """Return a function that is called with the fraction of the stage done so far, of a total of 1."""
    done = 0.0

    def advance(fraction: float) -> None:
        nonlocal done
        progress.advance(fraction - done)
        done = fraction

    return advance


class Silence:
    """A `Progress` that says nothing, the library's default."""

    def start(self, stage: str, total: float | None = None) -> None:
        """Ignore a stage's begin."""

    def advance(self, amount: float) -> None:
        """Ignore an advance."""

    def note(self, message: str) -> None:
        """Ignore a note."""

    def warn(self, message: str) -> None:
        """Ignore a warning; a report holds it too."""


class TimeUpError(Exception):
    """A deadline has passed in the middle of a stage."""


class Recorder:
    """A `Progress` that passes all on to another and keeps the warnings and the seconds of each stage.

    Attributes:
        warnings: All warnings so far.
        timings: Seconds by stage name, in the order in which the stages began.
        started: When the run began, of `time.perf_counter`.
        deadline: When no stage may go on any more, of the same clock; `None` for never.
    """

    def __init__(self, listener: Progress) -> None:
        self.warnings: list[str] = []
        self.timings: dict[str, float] = {}
        self.started = perf_counter()
        self.deadline: float | None = None
        self._listener = listener
        self._stage: tuple[str, float] | None = None

    def start(self, stage: str, total: float | None = None) -> None:
        """Begin a stage; the one before it ends."""
        self.finish()
        self._stage = (stage, perf_counter())
        self._listener.start(stage, total)

    def finish(self) -> None:
        """End the current stage, if there is one."""
        if self._stage is not None:
            name, begin = self._stage
            self.timings[name] = self.timings.get(name, 0.0) + perf_counter() - begin
            self._stage = None

    def advance(self, amount: float) -> None:
        """Pass an advance on.

        Raises:
            TimeUpError: The deadline has passed.
        """
        if self.deadline is not None and perf_counter() > self.deadline:
            raise TimeUpError
        self._listener.advance(amount)

    def find_deadline(self, seconds: float | None) -> float | None:
        """Return when so many seconds since the run began are over, of `perf_counter`; `None` for never."""
        return None if seconds is None else self.started + seconds

    @contextmanager
    def limited(self, seconds: float | None) -> Iterator[None]:
        """Let no stage go on for longer than so many seconds after the run began; `None` for as long as it takes."""
        self.deadline = self.find_deadline(seconds)
        try:
            yield
        finally:
            self.deadline = None

    def note(self, message: str) -> None:
        """Pass a note on."""
        self._listener.note(message)

    def warn(self, message: str) -> None:
        """Keep a warning and pass it on."""
        self.warnings.append(message)
        self._listener.warn(message)

    def warn_once(self, message: str) -> None:
        """Pass a warning on unless it was said before."""
        if message not in self.warnings:
            self.warn(message)
