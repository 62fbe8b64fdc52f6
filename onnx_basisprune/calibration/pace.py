"""How far along its cycle each step takes a recovery: with little time, fewer steps go all the way to the low rates."""

from __future__ import annotations

from time import perf_counter

# What is kept of the time, as a step takes now longer, now shorter.
_RESERVE = 0.03


class Pace:
    """The speed of a recovery, over all its attempts.

    The end of the cycle, where the learning rate falls, is where most is gained: a course that time cuts off has
    little, one that hurries through has almost all.

    Args:
        deadline: When training must have ended, of `time.perf_counter`; `None` for whenever it is done.

    Attributes:
        is_hurried: Whether time didn't suffice for all steps.
    """

    def __init__(self, deadline: float | None) -> None:
        self._begin = perf_counter()
        self._end = None if deadline is None else deadline - _RESERVE * max(deadline - self._begin, 0.0)
        self._steps = 0
        self.is_hurried = False

    def count(self, steps: int) -> None:
        """Take note of so many steps and the check after them."""
        self._steps += steps

    def choose_stride(self, left: float) -> float:
        """Return how many steps of a cycle the next ones are to take it on each: 1, or more.

        Args:
            left: Steps to the cycle's end.
        """
        if self._end is None or not self._steps:
            return 1.0
        now = perf_counter()
        affordable = max(1.0, (self._end - now) * self._steps / max(now - self._begin, 1e-9))
        self.is_hurried |= left > affordable
        return max(1.0, left / affordable)

    def is_over(self) -> bool:
        """Return whether the time is."""
        return self._end is not None and perf_counter() >= self._end
