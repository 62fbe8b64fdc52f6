"""The recovery's learning rate: as high as a network bears, raised and lowered in one cycle.

Rates are relative: the fraction of its own size by which a weight moves in a step (see `Student`). A course that ends
in small steps comes the further the higher it began, until it diverges, and what a short trial finds best is a tenth of
what is best. So a course begins with the highest rate that any network was seen to bear, and where the loss shows early
that it is too high, again with a third of it.
"""

from __future__ import annotations

import math

from onnx_basisprune.calibration.student import RecoveryMode

HIGHEST_RATE = 1e-2
# In short courses there is no time to come back from where such a rate leads.
_RATE_PER_STEP = 1e-4
# Where all weights are trained, what is best falls with the square root of the steps, and rises with the cube root of
# how far the student is from the original: on VGG-16 and ResNet-20, from loss 0.04 to 2, it is this after that many
# steps at loss 1.
_FULL_RATE, _FULL_STEPS = 8.4e-3, 600
_HIGHEST_FULL_RATE = 1.5e-2
_WARM_UP = 0.1


def choose_first_rate(mode: RecoveryMode, steps: int, loss: float) -> float:
    """Return the highest learning rate of the first attempt at a course.

    Args:
        mode: What is trained.
        steps: Of the whole course.
        loss: Distillation loss before it.
    """
    highest = HIGHEST_RATE
    if mode == "full":
        highest = min(_HIGHEST_FULL_RATE, _FULL_RATE * (_FULL_STEPS / steps) ** (1 / 2) * max(loss, 0.0) ** (1 / 3))
    return min(highest, _RATE_PER_STEP * steps)


def compute_cycle(step: float, steps: int) -> float:
    """Return a step's learning rate relative to the highest (one cycle, Smith, arXiv 1708.07120).

    It rises in a straight line over the first tenth of the steps, then falls as half a cosine to almost 0.

    Args:
        step: From 0 on, below `steps`; between two steps, too.
        steps: All steps.
    """
    rise = max(1.0, _WARM_UP * steps)
    if step + 1 <= rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step + 1 - rise) / (steps + 1 - rise)))
