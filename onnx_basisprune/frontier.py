"""The trade-off: several sizes of one model, each recovered, evaluated and timed, from one set of statistics."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from onnx_basisprune.candidates import Candidate, build_candidate
from onnx_basisprune.choosing import Outlook
from onnx_basisprune.progress import TimeUpError
from onnx_basisprune.results import FrontierPoint
from onnx_basisprune.runtime.evaluation import compare, summarize_accuracy
from onnx_basisprune.timing import time_pair

# Fractions to keep, in the budget's unit: so many, from here down to there or to the smallest that there is.
_COUNT = 8
_LARGEST, _SMALLEST = 0.8, 0.08
# One that keeps so much the same as the model that is written, or as the last one, shows nothing new.
_LEAST_RATIO = 1.05
# So many points lower, a model is of no use, nor is any smaller one: what is left of the sizes goes between the others.
_COLLAPSED = 50.0
# How long a model is timed, at most.
_LOOK_SECONDS = 5.0


def explore_frontier(outlook: Outlook, chosen: Candidate) -> tuple[FrontierPoint, ...]:
    """Carry out plans for several budgets, and measure each, with the model that is written among them.

    Where there is a time limit, those that don't fit in are left out, and the run says so.

    Args:
        outlook: Makes the plans, in the unit of the budget.
        chosen: The model that is written.

    Returns:
        The points, the largest first.
    """
    run = outlook.run
    own = outlook.count_kept(chosen.planned)
    points = {own: measure_point(outlook, chosen, own, is_chosen=True)}
    limit = run.config.time_limit
    try:
        with run.recorder.limited(limit):
            _add_points(outlook, points)
    except TimeUpError:
        run.recorder.warn(f"the trade-off has fewer points than it could: the time limit of {limit:g} s is over.")
    return tuple(points[kept] for kept in sorted(points, reverse=True))


def _add_points(outlook: Outlook, points: dict[float, FrontierPoint]) -> None:
    """Measure plans for several budgets, and keep each as soon as it is known."""
    targets = choose_targets(outlook.count_kept(outlook.plan(_SMALLEST)))
    for number in range(_COUNT):
        drops = {kept: point.drop_pp.estimate for kept, point in points.items()}
        target = find_widest_gap(drops) if max(drops.values()) > _COLLAPSED else targets[number]
        if target is None:
            return
        planned = outlook.plan(target)
        kept = outlook.count_kept(planned)
        if all(_is_other(kept, known) for known in points):
            candidate = build_candidate(outlook.run, outlook.prospect, planned)
            points[kept] = measure_point(outlook, candidate, target, is_chosen=False)


def choose_targets(least: float) -> list[float]:
    """Return the fractions to keep, each smaller than the last by the same ratio.

    Args:
        least: The smallest of them.
    """
    return [float(target) for target in np.geomspace(max(_LARGEST, least**0.5), least, _COUNT)]


def find_widest_gap(drops: Mapping[float, float]) -> float | None:
    """Return the size in the middle of the two neighbours whose drops differ most, `None` where all are close together.

    Args:
        drops: Fraction kept → drop in percentage points; the original is added.
    """
    known = sorted({1.0: 0.0, **drops}.items(), reverse=True)
    gaps = [
        (abs(drop - other), (kept * smaller) ** 0.5)
        for (kept, drop), (smaller, other) in pairwise(known)
        if kept / smaller > _LEAST_RATIO**2
    ]
    return max(gaps)[1] if gaps else None


def measure_point(outlook: Outlook, candidate: Candidate, target: float, *, is_chosen: bool) -> FrontierPoint:
    """Evaluate and time a candidate.

    Args:
        outlook: Made its plan.
        candidate: What came of it.
        target: The fraction that its plan was to keep.
        is_chosen: Whether it is written.
    """
    run, forecast = outlook.run, candidate.planned.forecast
    images, baseline = (run.validation, run.baseline) if run.trial is None else (run.trial.images, run.trial.baseline)
    with run.save_for_trial(candidate.model) as path:
        predictions = run.predict_file(path, images, "frontier")
        timing = time_pair(path, run.network.input_shape[1:], run.config, _LOOK_SECONDS)
    drop = compare(baseline, predictions)
    run.recorder.note(f"{outlook.count_kept(candidate.planned):.1%} kept: {drop.estimate:.2f} pp lower")
    return FrontierPoint(
        unit=outlook.unit,
        target=target,
        chosen=is_chosen,
        recovered=candidate.recovery is not None and candidate.recovery.kept,
        macs=forecast.macs,
        parameters=forecast.parameters,
        speedup=timing.speedup,
        accuracy=summarize_accuracy(predictions, baseline),
        drop_pp=drop,
    )


def _is_other(kept: float, known: float) -> bool:
    """Return whether two sizes are far enough from each other."""
    low, high = sorted((kept, known))
    return high > _LEAST_RATIO * low
