"""Search the smallest model whose accuracy holds: `--max-drop`.

Three parts of the images have a task each: candidates are made from the first, chosen on the second, and the third is
looked at for the claim only. A candidate is accepted where its estimated drop on the second part plus one standard
error is within the bound. It is claimed where its drop on the third is, and that on both together plus one standard
error: each of them alone is so small that a sound candidate often fails on one.

Budgets are tried without recovery first, which is quick: they tell from where on it is needed. From there on each
budget is tried with it, the next where a line through what was found meets the bound, down to the smallest that is
accepted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, exp, hypot, log
from time import perf_counter

from onnx_basisprune.candidates import Candidate, build_candidate, predict_candidate
from onnx_basisprune.choosing import Outlook
from onnx_basisprune.progress import TimeUpError
from onnx_basisprune.results import SearchLook, SearchReport
from onnx_basisprune.run import Trial
from onnx_basisprune.runtime.evaluation import compare, estimate_standard_error

# Fractions to keep: nothing is tried below the least; the quick tries end at this ratio of two budgets, the ones with
# recovery at that one.
_LEAST = 0.001
_QUICK_RATIO, _FINE_RATIO = 1.3, 1.07
# Where none has been too small yet, the next budget as a fraction of the smallest that was accepted: at first, and what
# may come of the line through two.
_STRIDE = 0.7
_STRIDES = (0.4, 0.85)
# Else how far it lies from the accepted one to the other, whatever the line says: a drop far beyond the bound isn't on
# it.
_SHARES = (0.25, 0.75)
_MOST_LOOKS = 12
# After a claim that failed, the next candidate keeps so much more: at least, and at most.
_STEPS_BACK = (1.07, 1.3)
_IMAGES_PER_POINT = 800


def search_candidate(outlook: Outlook, trial: Trial, bound: float) -> tuple[Candidate, SearchReport]:
    """Search the smallest model that loses at most `bound` percentage points.

    Args:
        outlook: Makes the plans, in the unit that is to become small.
        trial: Images to choose on.
        bound: The largest drop, in percentage points.
    """
    config, recorder = outlook.run.config, outlook.run.recorder
    warning = check_images(bound, len(trial.images))
    if warning is not None:
        recorder.warn(warning)
    deadline = None if config.time_limit is None else recorder.started + config.time_limit
    search = Search(outlook, trial, bound, deadline)
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
        deadline: When the search ends, of `perf_counter`; `None` for never. Nothing is begun that there is hardly the
            time for.
        looks: What was tried.
        accepted: Fraction to keep → candidate that was accepted.
        stopped: Whether the deadline ended the search.
    """

    outlook: Outlook
    trial: Trial
    bound: float
    deadline: float | None = None
    looks: list[SearchLook] = field(default_factory=list)
    accepted: dict[float, Candidate] = field(default_factory=dict)
    stopped: bool = False
    # Fraction to keep → by how much the drop with its error was over the bound; negative where it was accepted.
    _excess: dict[float, float] = field(default_factory=dict)
    # Fraction to keep → the drop and its standard error of the candidate that was accepted.
    _drops: dict[float, tuple[float, float]] = field(default_factory=dict)
    # What the smallest plan there is keeps, once it was asked for.
    _least: float = 0.0

    def run(self) -> None:
        """Try budgets until the smallest that is accepted is known well enough."""
        low, high = _LEAST, 1.0
        while high / low > _QUICK_RATIO and not self._is_over(tune=False):
            middle = (low * high) ** 0.5
            low, high = (low, middle) if self.try_target(middle, tune=False) else (middle, high)
            low = max(low, min(high, self._least))
        if not self.outlook.run.config.is_recovered:
            return
        self._excess.clear()
        target: float | None = high * _STRIDE
        for _ in range(_MOST_LOOKS):
            if target is None or self._is_over(tune=True):
                return
            is_accepted = self.try_target(target, tune=True)
            target = None if is_accepted and target <= self._least else self._choose_next(high)

    def _choose_next(self, known: float) -> float | None:
        """Return the budget to try next, `None` where the smallest is known well enough.

        Args:
            known: The smallest that was accepted without recovery, and would be with it; else 1, the original.
        """
        accepted = sorted(target for target, excess in self._excess.items() if excess <= 0)
        best = min([*accepted, known])
        least = max((target for target, excess in self._excess.items() if excess > 0 and target < best), default=0.0)
        if not least:
            ratio = _STRIDE if len(accepted) < 2 else self._extrapolate(*accepted[:2])
            return best * ratio if best * ratio >= _LEAST else None
        if best / least <= _FINE_RATIO:
            return None
        reserve = -self._excess[best] if accepted else self.bound
        share = min(max(reserve / (reserve + self._excess[least]), _SHARES[0]), _SHARES[1])
        return exp((1 - share) * log(best) + share * log(least))

    def _extrapolate(self, best: float, other: float) -> float:
        """Return how far below the smallest accepted budget the line through it and the next meets the bound."""
        rise = (self._excess[best] - self._excess[other]) / log(other / best)
        ratio = exp(self._excess[best] / rise) if rise > 0 else 0.0
        return min(max(ratio, _STRIDES[0]), _STRIDES[1])

    def _is_over(self, *, tune: bool) -> bool:
        """Return whether another candidate would take longer than there is time, be it as quick as the quickest."""
        seconds = min((look.seconds for look in self.looks if look.recovered == tune), default=0.0)
        is_over = self.deadline is not None and perf_counter() + seconds > self.deadline
        self.stopped |= is_over
        return is_over

    def try_target(self, target: float, *, tune: bool) -> bool:
        """Make the candidate of a budget, unless time is up before it is made; return whether it is accepted."""
        recorder = self.outlook.run.recorder
        recorder.deadline = self.deadline
        try:
            return self._look(target, tune=tune)
        except TimeUpError:
            self.stopped = True
            return False
        finally:
            recorder.deadline = None

    def _look(self, target: float, *, tune: bool) -> bool:
        """Make the candidate of a budget; return whether it is accepted."""
        start, run = perf_counter(), self.outlook.run
        planned = self.outlook.plan(target)
        kept = planned.left / self.outlook.whole
        if not planned.reached:
            self._least = kept
        candidate = build_candidate(run, self.outlook.prospect, planned, tune=tune)
        predictions = predict_candidate(run, candidate, self.trial.images)
        drop = compare(self.trial.baseline, predictions).estimate
        error = estimate_standard_error(self.trial.baseline, predictions)
        # The smallest plan there is may keep more than was asked for.
        budget = max(target, kept)
        self._excess[budget] = drop + error - self.bound
        is_accepted = self._excess[budget] <= 0
        if is_accepted:
            self.accepted[budget], self._drops[budget] = candidate, (drop, error)
        self.looks.append(SearchLook(target, kept, tune, drop, error, is_accepted, perf_counter() - start))
        run.recorder.note(
            f"{kept:.1%} kept{'' if tune else ', not recovered'}: {drop:.2f} pp lower (standard error {error:.2f}): "
            f"{'accepted' if is_accepted else 'too much'}"
        )
        return is_accepted

    def claim(self) -> tuple[Candidate, int]:
        """Return the smallest accepted candidate that holds the bound on the images for the claim, and the looks taken.

        The smallest of what was accepted is the one that luck has helped most, and so is what holds at a second look:
        so what both parts say counts with its standard error. Where none holds, the model stays as it is.
        """
        run, claims, failed, step = self.outlook.run, 0, 0.0, 1.0
        while (budget := self._find_next(failed, step)) is not None:
            claims += 1
            predictions = predict_candidate(run, self.accepted[budget], run.validation)
            drop = compare(run.baseline, predictions).estimate
            pooled, error = self._pool(budget, drop, estimate_standard_error(run.baseline, predictions))
            if drop <= self.bound and pooled + error <= self.bound:
                return self.accepted[budget], claims
            run.recorder.note(
                f"{budget:.1%} kept: {drop:.2f} pp lower on the images for the claim, {pooled:.2f} with the others "
                f"(standard error {error:.2f}): the search steps back"
            )
            failed, step = budget, choose_step_back(max(drop - error, pooled), error, self.bound)
        return build_candidate(run, self.outlook.prospect, self.outlook.plan(1.0), tune=False), claims

    def _pool(self, budget: float, drop: float, error: float) -> tuple[float, float]:
        """Return the drop of an accepted candidate over both parts, and its standard error.

        Args:
            budget: The candidate's.
            drop: On the images for the claim.
            error: Its standard error.
        """
        chosen, claimed = len(self.trial.images), len(self.outlook.run.validation)
        earlier_drop, earlier_error = self._drops[budget]
        whole = chosen + claimed
        return (
            (chosen * earlier_drop + claimed * drop) / whole,
            hypot(chosen * earlier_error, claimed * error) / whole,
        )

    def _find_next(self, failed: float, step: float) -> float | None:
        """Return the next accepted budget above one whose claim failed (0 for none), `None` where there isn't any.

        It may be far away, and without recovery: nearer ones are tried on the way there, each `step` times the one
        before it, and then itself with recovery. Where there is no time for that, they are tried without.
        """
        recovers = self.outlook.run.config.is_recovered
        known = min((budget for budget in self.accepted if budget > failed), default=1.0)
        while failed and failed * step < known:
            tune = recovers and not self._is_over(tune=True)
            if not tune and self._is_over(tune=False):
                break
            failed *= step
            if self.try_target(failed, tune=tune):
                return min(budget for budget in self.accepted if budget >= failed)
        if known == 1.0:
            return None
        if self.accepted[known].recovery is None and recovers and not self._is_over(tune=True):
            self.try_target(known, tune=True)
        return known

    def describe(self, claims: int) -> SearchReport:
        """Return the search's course."""
        count = len(self.trial.images)
        return SearchReport(self.outlook.unit, self.bound, count, tuple(self.looks), claims, self.stopped)


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


def check_images(bound: float, count: int) -> str | None:
    """Return why so few images can't support a bound, `None` where they can.

    Of models that differ on twice the bound of the images, half the bound is then one standard error at most.
    """
    needed = ceil(_IMAGES_PER_POINT / bound)
    if count >= needed:
        return None
    return (
        f"candidates are chosen on {count:,} images, too few to tell a drop of {bound:g} pp for sure; expected "
        f"{needed:,} or more: give more with --val."
    )
