"""The recovery's learning rate: found for each network by short trials, then raised and lowered in one cycle.

Rates are relative: the fraction of its own size by which a weight moves in a step (see `Student`). What networks bear
still differs about tenfold, by their depth and by how much was cut. A trial takes a few steps from the same start on
the same batches without any warm-up, where rates that are too high show at once. The best rate of such a sprint is too
low for a course that ends in small steps: about three times as much is best there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

# For so few steps that trials don't pay.
DEFAULT_RATE = 5e-3
_LADDER = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
_START = 3
_MARGIN = 3.0
# All together, trials may cost this much of the steps that follow.
_TRIAL_SHARE = 0.1
# The first, the one above it, and all below.
_MOST_TRIALS = 5
_TRIAL_STEPS = range(3, 6)
_WARM_UP = 0.1


def count_trial_steps(images: int, trial_images: int) -> int:
    """Return the steps of each trial, 0 where trials would cost too much.

    Args:
        images: Those of all steps of the course.
        trial_images: Those of one step of a trial.
    """
    affordable = int(_TRIAL_SHARE * images / (trial_images * _MOST_TRIALS))
    return 0 if affordable < _TRIAL_STEPS[0] else min(affordable, _TRIAL_STEPS[-1])


def find_learning_rate(measure_trial: Callable[[float], float]) -> float:
    """Climb up a ladder of rates while they get better, else down, and return the one for the whole course.

    Args:
        measure_trial: Learning rate → held-out loss after a trial with it; may be infinite or NaN.
    """

    def measure(rung: int) -> float:
        loss = measure_trial(_LADDER[rung])
        return loss if math.isfinite(loss) else math.inf

    best, lowest = _START, measure(_START)
    for rung in range(_START + 1, len(_LADDER)):
        loss = measure(rung)
        if loss >= lowest:
            break
        best, lowest = rung, loss
    if best == _START:
        for rung in reversed(range(_START)):
            loss = measure(rung)
            if loss > lowest:
                break
            best, lowest = rung, loss
    return _MARGIN * _LADDER[best]


def compute_cycle(step: int, steps: int) -> float:
    """Return a step's learning rate relative to the highest (one cycle, Smith, arXiv 1708.07120).

    It rises in a straight line over the first tenth of the steps, then falls as half a cosine to almost 0.

    Args:
        step: From 0 on.
        steps: All steps.
    """
    rise = max(1.0, _WARM_UP * steps)
    if step + 1 <= rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step + 1 - rise) / (steps + 1 - rise)))
