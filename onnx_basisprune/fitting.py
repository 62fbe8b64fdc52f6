"""Meet a budget of time by the clock: plan, time the real model, plan again by what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx_basisprune.budget import Budget, PlannedCut, keeps_as_much
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.cutting import cut_network
from onnx_basisprune.pricing import Pricing
from onnx_basisprune.progress import Recorder
from onnx_basisprune.rounds import Prospect

if TYPE_CHECKING:
    from onnx import ModelProto

# A plan stands where it takes this share of the time that it may take, from and to; a clock can't tell more.
_LEAST_SHARE, _LARGEST_SHARE = 0.93, 1.0
_MOST_LOOKS = 5


@dataclass(frozen=True)
class TimedPlan:
    """A plan whose model was timed.

    Attributes:
        planned: The plan.
        limit: What it was allowed by the table, in microseconds.
        predicted: Its time by the table, as a fraction of the original's.
        measured: The same by the clock.
    """

    planned: PlannedCut
    limit: float
    predicted: float
    measured: float


def fit_latency(
    prospect: Prospect,
    whole: float,
    target: float,
    time_model: Callable[[ModelProto], float],
    pricing: Pricing,
    config: CompressionConfig,
    recorder: Recorder,
) -> tuple[TimedPlan, int]:
    """Find the plan whose model takes a fraction of the original's time.

    Args:
        prospect: What plans are made from.
        whole: The original's time by the table, in microseconds.
        target: The fraction.
        time_model: Returns the time of a model as a fraction of the original's.
        pricing: Keeps how far measured times are from predicted ones, for the next run.
        config: As for every plan.
        recorder: Told how far it is.

    Returns:
        The slowest plan within the target, else the fastest one; and how many plans were timed.
    """
    limit = target * whole / pricing.read_scale(prospect.network)
    looks: list[TimedPlan] = []
    while len(looks) < (1 if pricing.is_pinned else _MOST_LOOKS):
        planned = prospect.plan(Budget("latency", limit), config)
        if any(keeps_as_much(planned.plan, look.planned.plan) for look in looks):
            break
        recorder.start(f"timing plan {len(looks) + 1}")
        looks.append(TimedPlan(planned, limit, planned.left / whole, _time_plan(prospect, planned, time_model)))
        share = looks[-1].measured / target
        if _LEAST_SHARE <= share <= _LARGEST_SHARE or (share > 1 and not planned.reached):
            break
        limit = _choose_limit(looks, target)
    within = [look for look in looks if look.measured <= target * _LARGEST_SHARE]
    best = max(within, key=lambda look: look.measured) if within else min(looks, key=lambda look: look.measured)
    # Just so that a run with this table as it is then makes the same plan at once.
    pricing.note_scale(prospect.network, target * whole / best.limit)
    return best, len(looks)


def _choose_limit(looks: Sequence[TimedPlan], target: float) -> float:
    """Return what the next plan is allowed by the table, in microseconds.

    Between a plan that was too fast and one that was too slow, where there are both: the clock may go down faster than
    the table, and a rule of three would then swing for ever. Else by the rule of three.
    """
    fast = max((look for look in looks if look.measured <= target), key=lambda look: look.measured, default=None)
    slow = min((look for look in looks if look.measured > target), key=lambda look: look.measured, default=None)
    if fast is not None and slow is not None:
        part = (target - fast.measured) / (slow.measured - fast.measured)
        return fast.planned.left + part * (slow.planned.left - fast.planned.left)
    last = looks[-1]
    start = last.limit
    if last.planned.reached:
        # A plan far below its limit would be made again for a limit in between; one that is too slow needs one below.
        start = last.planned.left if slow is not None else max(last.planned.left, last.limit * _LEAST_SHARE)
    return start * target / last.measured


def _time_plan(prospect: Prospect, planned: PlannedCut, time_model: Callable[[ModelProto], float]) -> float:
    """Time a plan's model, without recovery: that changes values only."""
    model, _ = cut_network(prospect.network, prospect.assessment, planned.plan)
    return time_model(model)
