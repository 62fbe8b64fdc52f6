"""The course of a recovery: the loss at each check, the best weights so far, and when a rate no longer helps."""

from __future__ import annotations

import math
from typing import Any, Literal

from numpy.typing import NDArray

from onnx_basisprune.calibration.student import Student

Arrays = dict[str, NDArray[Any]]
Verdict = Literal["go on", "stalled", "diverged"]

# Held-out loss relative to the start beyond which a learning rate is given up.
_DIVERGED = 2.0
# So many checks in a row must bring the loss so much further down than those before them did. One check alone tells
# little: at high learning rates the loss goes up and down, and falls when they fall.
_PATIENCE = 5
_LEAST_GAIN = 0.01


class Course:
    """What was reached, over all attempts.

    Attributes:
        before: Held-out loss at the start.
        best: The lowest held-out loss so far.
        arrays: The weights that reached it, by initializer; none where nothing was better than the start.
        attempts: How many were begun.
        steps: Steps taken.
        curve: `(step, held-out loss, learning rate)` at each check.
    """

    def __init__(self, before: float) -> None:
        self.before = self.best = before
        self.arrays = Arrays()
        self.attempts = self.steps = 0
        self.curve: list[tuple[int, float, float]] = [(0, before, 0.0)]
        self._attempt: list[float] = []
        self._end = math.inf

    def begin_attempt(self) -> None:
        """Begin anew from the weights that were given."""
        self.attempts += 1
        self._attempt = []

    def end_attempt(self) -> bool:
        """Take note that all steps were taken; return whether a lower rate may do better.

        It may where nothing was better than the start, unless it has just brought the end no nearer to it: then the
        weights that were given are as good as this teacher makes them.
        """
        end, before = self.curve[-1][1], self._end
        self._end = end
        return not self.arrays and end < before

    def check(self, student: Student, steps: int, loss: float, rate: float) -> Verdict:
        """Take note of a held-out loss, and keep the weights where it is the lowest.

        Args:
            student: With the weights that have this loss.
            steps: Steps since the last check.
            loss: On the held-out slice; may be infinite or NaN.
            rate: Learning rate of the last step.
        """
        self.steps += steps
        self.curve.append((self.steps, loss, rate))
        self._attempt.append(loss)
        if loss < self.best:
            self.best, self.arrays = loss, student.read_arrays()
        # In this form NaN counts as diverged, and a loss of 0 at the start doesn't.
        if not (math.isfinite(loss) and loss <= _DIVERGED * self.before):
            return "diverged"
        recent, earlier = self._attempt[-_PATIENCE:], self._attempt[-2 * _PATIENCE : -_PATIENCE]
        if len(earlier) < _PATIENCE or min(recent) <= (1 - _LEAST_GAIN) * min(earlier):
            return "go on"
        self._attempt = []
        return "stalled"
