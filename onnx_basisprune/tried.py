"""Candidates that a search has looked at, and how far from them the next one is to be."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

from onnx_basisprune.candidates import Candidate
from onnx_basisprune.results import SearchLook

# Where no candidate has been too small yet, what may come of the line through two: the next budget as a fraction of the
# smallest that was accepted.
_STRIDES = (0.4, 0.85)
# After a claim that failed, the next candidate keeps so much more: at least, and at most.
_STEPS_BACK = (1.07, 1.3)


@dataclass
class Tried:
    """A candidate that was looked at.

    Attributes:
        candidate: What came of the plan.
        target: The fraction to keep that it was made for.
        kept: The fraction of the original that its plan keeps.
        budget: The largest fraction to keep for which that plan is made, as far as is known.
        tuned: Whether it was recovered.
        drop: On the images to choose on, in percentage points.
        error: The drop's standard error.
        excess: By how much both together are over the bound; negative where it was accepted.
        seconds: What it took to make and to look at.
    """

    candidate: Candidate
    target: float
    kept: float
    budget: float
    tuned: bool
    drop: float
    error: float
    excess: float
    seconds: float

    @property
    def is_accepted(self) -> bool:
        """Whether it may be claimed."""
        return self.excess <= 0

    @property
    def ceiling(self) -> float:
        """The largest fraction to keep that this plan answers for; where there is no smaller one, what it keeps."""
        return max(self.budget, self.kept)

    def describe(self) -> SearchLook:
        """Return what the report tells of it."""
        return SearchLook(self.target, self.kept, self.tuned, self.drop, self.error, self.is_accepted, self.seconds)


def extrapolate(best: Tried, other: Tried) -> float:
    """Return how far below the smallest accepted candidate the line through it and the next meets the bound."""
    apart = log(other.kept / best.kept)
    rise = (best.excess - other.excess) / apart if apart > 0 else 0.0
    ratio = exp(best.excess / rise) if rise > 0 else 0.0
    return min(max(ratio, _STRIDES[0]), _STRIDES[1])


def choose_step_back(drop: float, error: float, bound: float) -> float:
    """Return how many times as much the next candidate keeps, after one whose drop with its error is over the bound.

    Drops were seen to fall with the square of what is kept, or faster.

    Args:
        drop: The failed candidate's, in percentage points.
        error: Its standard error.
        bound: The largest drop.
    """
    least, most = _STEPS_BACK
    room = bound - error
    return min(max((drop / room) ** (1 / 2), least), most) if room > 0 else most
