"""The recovery's learning rate: as high as a network bears, raised and lowered in one cycle.

Rates are relative: the fraction of its own size by which a weight moves in a step (see `Student`). A course that ends
in small steps comes the further the higher it began, until it diverges: on ResNet-20 and VGG-16, re-fitted, 1e-2 and
3e-3 are best, and what a short trial finds best is a tenth of that. So a course begins with the highest rate that any
network was seen to bear, and where the loss shows early that it is too high, again with a third of it.
"""

from __future__ import annotations

import math

HIGHEST_RATE = 1e-2
# In shorter courses there is no time to come back from where such a rate leads.
_ENOUGH_STEPS = 100
_WARM_UP = 0.1


def choose_first_rate(steps: int) -> float:
    """Return the highest learning rate of the first attempt at a course of so many steps."""
    return HIGHEST_RATE * min(1.0, steps / _ENOUGH_STEPS)


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
