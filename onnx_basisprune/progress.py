"""How a long run tells what it is doing; the command line draws bars from it."""

from __future__ import annotations

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
