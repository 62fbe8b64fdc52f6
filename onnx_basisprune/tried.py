"""Candidates that a search has looked at, and how far from them the next one is to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np

from onnx_basisprune.candidates import Candidate
from onnx_basisprune.results import SearchLook

# Where no candidate has been too small yet, what may come of the line through two: the next budget as a fraction of the
# smallest that was accepted.
_STRIDES = (0.4, 0.85)
# After a claim that failed, the next candidate keeps so many times as much as those near it: at least, and at most.
_STEPS_BACK = (1.03, 1.26)
# How steep drops are is measured on candidates that keep so many times as much, or as little, at most.
_NEAR = 1.5
# Points that sums of drops and errors may be off by.
_ROUNDING = 1e-9


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


def measure_rise(tried: Sequence[Tried], kept: float, bound: float) -> float:
    """Return by how much recovered candidates' drops rise near one, in percentage points, with kept's logarithm.

    Those far beyond the bound are left out, as they aren't on a line with the others.

    Args:
        tried: All candidates.
        kept: Near which fraction.
        bound: The largest drop.

    Returns:
        0 where too few are near.
    """
    near = [item for item in tried if item.tuned and item.excess < bound and abs(log(item.kept / kept)) <= log(_NEAR)]
    places = np.array([log(item.kept) for item in near])
    spread = places - places.mean() if near else places
    below = float(spread @ spread)
    return -float(spread @ [item.drop for item in near]) / below if below > 0 else 0.0


def choose_step_back(drop: float, error: float, bound: float, rise: float) -> float:
    """Return how many times as much the next candidate keeps, after one whose drop with its error is over the bound.

    Drops were seen to fall with the square of what is kept, or faster: with its logarithm by twice what they are.

    Args:
        drop: The failed candidate's, in percentage points.
        error: What it counts with besides: its standard error, or more.
        bound: The largest drop.
        rise: By how much drops rise there, see `measure_rise`, as far as is known.

    Returns:
        Over 1 whatever chance has made of the drop and the rise: both may be negative.
    """
    over = max(drop + error - bound, _ROUNDING)
    least, most = _STEPS_BACK
    return max(least, exp(over / max(rise, 2 * drop, over / log(most))))
