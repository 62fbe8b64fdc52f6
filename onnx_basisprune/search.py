"""Search the smallest model whose accuracy holds: `--max-drop`.

Three parts of the images have a task each: candidates are made from the first, chosen on the second, and the third is
looked at for the claim only. A candidate is accepted where its estimated drop on the second part plus one standard
error is within the bound. It is claimed where its drop on the third is, and that on both together plus one standard
error: each of them alone is so small that a sound candidate often fails on one. With `--strict` the end of the 95 %
interval stands for the estimate and its error.

Budgets are tried without recovery first, which is quick: they tell from where on it is needed. From there on each
budget is tried with it, the next where a line through what was found meets the bound, down to the smallest that is
accepted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, exp, hypot, log
from time import perf_counter

from onnx_basisprune.budget import keeps_as_much
from onnx_basisprune.candidates import Candidate, build_candidate, predict_candidate
from onnx_basisprune.choosing import Outlook
from onnx_basisprune.progress import TimeUpError
from onnx_basisprune.results import SearchReport
from onnx_basisprune.run import Trial
from onnx_basisprune.runtime.evaluation import compare, estimate_standard_error
from onnx_basisprune.runtime.intervals import QUANTILE
from onnx_basisprune.tried import Tried, choose_step_back, extrapolate, measure_rise

# Fractions to keep: nothing is tried below the least.
_LEAST = 0.001
# The ratio of two budgets at which the search ends: of quick tries before those with recovery, of these, which take
# minutes each and can't be told apart where they are nearer, and of quick tries alone.
_QUICK_RATIO, _TUNED_RATIO, _FINE_RATIO = 1.3, 1.05, 1.03
# Where none has been too small yet, the next budget as a fraction of the smallest that was accepted, at first.
_STRIDE = 0.7
# Else how far it lies from the accepted one to the other, whatever the line says: a drop far beyond the bound isn't on
# it.
_SHARES = (0.25, 0.75)
_MOST_LOOKS = 12
# Of the time of a look with recovery so much may be missing: the recovery hurries then. What a claim that fails late
# leaves else was accepted without recovery, and is much larger.
_HASTE = 0.4
_IMAGES_PER_POINT = 800


def search_candidate(outlook: Outlook, trial: Trial, bound: float) -> tuple[Candidate, SearchReport]:
    """Search the smallest model that loses at most `bound` percentage points.

    Args:
        outlook: Makes the plans, in the unit that is to become small.
        trial: Images to choose on.
        bound: The largest drop, in percentage points.
    """
    config, recorder = outlook.run.config, outlook.run.recorder
    warning = check_images(bound, len(trial.images), "candidates are chosen on")
    if warning is not None:
        recorder.warn(f"{warning}: give twice as many with --val, of which half are for the claim.")
    search = Search(outlook, trial, bound)
    search.run()
    candidate, claims = search.claim()
    if search.stopped:
        recorder.warn(f"the search stopped at the time limit of {config.time_limit:g} s, with the best model so far.")
    return candidate, search.describe(claims)


@dataclass
class Search:
    """A search while it goes on.

    Attributes:
        outlook: Makes the plans.
        trial: Images to choose on.
        bound: Largest drop, in percentage points.
        tried: What was looked at, in this order.
        stopped: Whether the deadline ended the search.
    """

    outlook: Outlook
    trial: Trial
    bound: float
    tried: list[Tried] = field(default_factory=list)
    stopped: bool = False
    # What the smallest plan there is keeps, once it was asked for.
    _least: float = 0.0
    # Seconds that the last candidate's predictions took.
    _judging: float = 0.0

    @property
    def margin(self) -> float:
        """How many standard errors a drop counts with."""
        return QUANTILE if self.outlook.run.config.strict else 1.0

    def run(self) -> None:
        """Try budgets until the smallest that is accepted is known well enough."""
        if self.outlook.whole <= 0:  # no weight, or no multiply-add: there is nothing to keep a fraction of
            return
        if not self._can_hold():
            self.outlook.run.recorder.warn(
                "nothing is tried: on so few images not even a model that says the same as the original would hold."
            )
            return
        is_recovered = self.outlook.run.config.is_recovered
        known = self._bisect(_QUICK_RATIO if is_recovered else _FINE_RATIO)
        target: float | None = known * _STRIDE
        for _ in range(_MOST_LOOKS if is_recovered else 0):
            # Should the claim of what was accepted fail, there must be time left to step back.
            looks = 2 if any(tried.tuned and tried.is_accepted for tried in self.tried) else 1
            if target is None or self._is_over(tune=True, looks=looks) or self.try_target(target, tune=True) is None:
                return
            target = self._choose_next(known)

    def _can_hold(self) -> bool:
        """Return whether a candidate would be accepted and claimed that differs from the original on no image."""
        run, chosen = self.outlook.run, self.trial.baseline
        is_accepted = self.margin * estimate_standard_error(chosen, chosen) <= self.bound
        return is_accepted and (not run.config.strict or compare(run.baseline, run.baseline).high <= self.bound)

    def _bisect(self, ratio: float) -> float:
        """Return what the smallest keeps that is accepted without recovery, 1 for the original.

        Args:
            ratio: How far it may be from one that isn't.
        """
        low, high = _LEAST, 1.0
        while high / low > ratio and not self._is_over(tune=False):
            tried = self.try_target((low * high) ** 0.5, tune=False)
            if tried is None:
                break
            low, high = (low, tried.kept) if tried.is_accepted else (tried.ceiling, high)
            low = max(low, min(high, self._least))
        return high

    def _choose_next(self, known: float) -> float | None:
        """Return the budget to try next, `None` where the smallest is known well enough.

        Args:
            known: What the smallest keeps that was accepted without recovery, and would be with it; else 1.
        """
        tuned = [tried for tried in self.tried if tried.tuned]
        accepted = sorted((tried for tried in tuned if tried.is_accepted), key=lambda tried: tried.kept)
        best = min([*(tried.kept for tried in accepted), known])
        refused = [tried for tried in tuned if not tried.is_accepted and tried.ceiling < best]
        if not refused:
            ratio = _STRIDE if len(accepted) < 2 else extrapolate(*accepted[:2])
            is_last = any(tried.kept <= self._least for tried in tuned) or best * ratio < _LEAST
            return None if is_last else best * ratio
        last = max(refused, key=lambda tried: tried.ceiling)
        if best / last.ceiling <= _TUNED_RATIO:
            return None
        reserve = -accepted[0].excess if accepted and accepted[0].kept == best else self.bound
        share = min(max(reserve / (reserve + last.excess), _SHARES[0]), _SHARES[1])
        return exp((1 - share) * log(best) + share * log(last.ceiling))

    def _is_over(self, *, tune: bool, looks: int = 1) -> bool:
        """Return whether other candidates would take longer than there is time, be they as quick as the quickest.

        The last of them may hurry.
        """
        seconds = min((tried.seconds for tried in self.tried if tried.tuned == tune), default=0.0)
        run = self.outlook.run
        deadline = run.recorder.find_deadline(run.config.time_limit)
        needed = (looks - (_HASTE if tune else 0.0)) * seconds
        is_over = deadline is not None and perf_counter() + needed > deadline
        self.stopped |= is_over
        return is_over

    def try_target(self, target: float, *, tune: bool) -> Tried | None:
        """Make the candidate of a budget and look at it, `None` where time is up before it is made."""
        run = self.outlook.run
        try:
            with run.recorder.limited(run.config.time_limit):
                return self._look(target, tune=tune)
        except TimeUpError:
            self.stopped = True
            return None

    def _look(self, target: float, *, tune: bool) -> Tried:
        """Make the candidate of a budget and look at it; what a plan gives is looked at once."""
        start, run = perf_counter(), self.outlook.run
        planned = self.outlook.plan(target)
        kept = self.outlook.count_kept(planned)
        if not planned.reached:
            self._least = kept
        for tried in self.tried:
            if tried.tuned == tune and keeps_as_much(tried.candidate.planned.plan, planned.plan):
                tried.budget = max(tried.budget, target)
                return tried
        deadline = None if run.recorder.deadline is None else run.recorder.deadline - self._judging
        candidate = build_candidate(run, self.outlook.prospect, planned, tune=tune, deadline=deadline)
        built = perf_counter()
        predictions = predict_candidate(run, candidate, self.trial.images)
        self._judging = perf_counter() - built
        drop = compare(self.trial.baseline, predictions).estimate
        error = estimate_standard_error(self.trial.baseline, predictions)
        excess, seconds = drop + self.margin * error - self.bound, perf_counter() - start
        tried = Tried(candidate, target, kept, target, tune, drop, error, excess, seconds)
        self.tried.append(tried)
        run.recorder.note(
            f"{kept:.1%} kept{'' if tune else ', not recovered'}: {drop:.2f} pp lower (standard error {error:.2f}): "
            f"{'accepted' if tried.is_accepted else 'too much'}"
        )
        return tried

    def claim(self) -> tuple[Candidate, int]:
        """Return the smallest accepted candidate that holds the bound on the images for the claim, and the looks taken.

        The smallest of what was accepted is the one that luck has helped most, and so is what holds at a second look:
        so what both parts say counts with its standard error. Where none holds, the model stays as it is.
        """
        run, claims, floor, step = self.outlook.run, 0, 0.0, 1.0
        while (tried := self._find_next(floor, step)) is not None:
            claims += 1
            predictions = predict_candidate(run, tried.candidate, run.validation)
            found = compare(run.baseline, predictions)
            drop = found.estimate
            pooled, error = self._pool(tried, drop, estimate_standard_error(run.baseline, predictions))
            margin = self.margin * error
            judged = found.high if run.config.strict else drop
            if judged <= self.bound and pooled + margin <= self.bound:
                return tried.candidate, claims
            run.recorder.note(
                f"{tried.kept:.1%} kept: {drop:.2f} pp lower on the images for the claim, {pooled:.2f} with the others "
                f"(standard error {error:.2f}): the search steps back"
            )
            rise = measure_rise(self.tried, tried.kept, self.bound)
            # What is as near as the search looks is no other candidate.
            floor = tried.kept * _FINE_RATIO
            step = choose_step_back(max(judged - margin, pooled), margin, self.bound, rise)
        run.recorder.warn(f"nothing smaller was found that loses at most {self.bound:g} pp: the model stays as it is.")
        return Candidate(self.outlook.plan_nothing(), self.outlook.untouched.model, None), claims

    def _pool(self, tried: Tried, drop: float, error: float) -> tuple[float, float]:
        """Return the drop of an accepted candidate over both parts, and its standard error.

        Args:
            tried: The candidate.
            drop: On the images for the claim.
            error: Its standard error.
        """
        chosen, claimed = len(self.trial.images), len(self.outlook.run.validation)
        whole = chosen + claimed
        return (
            (chosen * tried.drop + claimed * drop) / whole,
            hypot(chosen * tried.error, claimed * error) / whole,
        )

    def _find_next(self, floor: float, step: float) -> Tried | None:
        """Return the smallest accepted candidate that keeps more than those near one whose claim failed, if any.

        It may be far away, and without recovery: nearer ones are tried on the way there, each `step` times the one
        before it, and then itself with recovery. Where there is no time for that, they are tried without.

        Args:
            floor: What the largest near the failed one keep, 0 where none did.
            step: Over 1 where one did.
        """
        recovers, known, target = self.outlook.run.config.is_recovered, self._find_smallest(floor), floor
        while target and target * step < (1.0 if known is None else known.kept):
            tune = recovers and not self._is_over(tune=True)
            if not tune and self._is_over(tune=False):
                break
            target *= step
            tried = self.try_target(target, tune=tune)
            if tried is not None and tried.is_accepted and tried.kept > floor:
                return self._find_smallest(floor)
        if known is not None and recovers and not known.tuned and not self._is_over(tune=True):
            self.try_target(known.budget, tune=True)
        return self._find_smallest(floor)

    def _find_smallest(self, floor: float) -> Tried | None:
        """Return the accepted candidate that keeps least, of those over a floor; of two of one plan the recovered."""
        accepted = (tried for tried in self.tried if tried.is_accepted and tried.kept > floor)
        return min(accepted, key=lambda tried: (tried.kept, not tried.tuned), default=None)

    def describe(self, claims: int) -> SearchReport:
        """Return the search's course."""
        count, looks = len(self.trial.images), tuple(tried.describe() for tried in self.tried)
        return SearchReport(self.outlook.unit, self.bound, count, looks, claims, self.stopped)


def check_images(bound: float, count: int, what: str) -> str | None:
    """Return why so few images can't support a bound, `None` where they can.

    Of models that differ on twice the bound of the images, half the bound is then one standard error at most.

    Args:
        bound: The largest drop, in percentage points.
        count: Images.
        what: What is done on them.
    """
    needed = ceil(_IMAGES_PER_POINT / bound) if bound > 0 else 0
    if count >= needed:
        return None
    return (
        f"{what} {count:,} image{'' if count == 1 else 's'}, too few to tell a drop of {bound:g} pp for sure; expected "
        f"{needed:,} or more"
    )
