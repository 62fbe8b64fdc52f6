"""Choose the plan of a compression run: price, assess, and meet the budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnx_basisprune.assessment import Assessment, assess_network
from onnx_basisprune.budget import Budget, PlannedCut, forecast_cost, predict_times
from onnx_basisprune.costing import Unit, sum_latency
from onnx_basisprune.fitting import fit_latency
from onnx_basisprune.network import Network
from onnx_basisprune.planning.types import Plan
from onnx_basisprune.pricing import Pricing, choose_align
from onnx_basisprune.progress import TimeUpError
from onnx_basisprune.results import TimingReport
from onnx_basisprune.rounds import Prospect, assess_in_rounds
from onnx_basisprune.run import Run
from onnx_basisprune.timing import time_pair

if TYPE_CHECKING:
    from onnx import ModelProto

# How long a plan's model is timed, at most.
_LOOK_SECONDS = 6.0


@dataclass(frozen=True)
class Outlook:
    """A network that was assessed and priced: plans for any budget of one unit.

    Attributes:
        run: What is compressed.
        unit: What budgets are counted in.
        whole: What the original costs.
        prospect: What plans are made from.
        pricing: Measured times, `None` where time doesn't matter.
    """

    run: Run
    unit: Unit
    whole: float
    prospect: Prospect
    pricing: Pricing | None

    @property
    def untouched(self) -> Network:
        """The original; with strided shortcuts as Convs, which take less time and more of all else, for time only."""
        return self.run.network if self.unit == "latency" else self.run.plain

    def plan(self, target: float) -> PlannedCut:
        """Return the plan that keeps a fraction of the original, by the forecast."""
        return self.prospect.plan(Budget(self.unit, target * self.whole), self.run.config)

    def count_kept(self, planned: PlannedCut) -> float:
        """Return the fraction of the original that a plan keeps, by the forecast."""
        return planned.left / self.whole

    def plan_nothing(self) -> PlannedCut:
        """Return the plan that leaves the network as it is: in the form that is faster where time is what counts."""
        network, prices = self.untouched, self.prospect.prices
        plan, forecast = Plan({}, {}), forecast_cost(network, Plan({}, {}))
        left = float(forecast.macs if self.unit == "macs" else forecast.parameters)
        if self.unit == "latency" and prices is not None:
            left = sum_latency(network, prices)
        return PlannedCut(plan, forecast, {}, reached=True, left=left)

    def describe_timing(self, planned: PlannedCut) -> TimingReport | None:
        """Return what a plan was made with, and what it should take; `None` where time doesn't matter."""
        prices = self.prospect.prices
        if self.pricing is None or prices is None:
            return None
        predicted = self.count_kept(planned) if self.unit == "latency" else None
        align = choose_align(self.run.config, self.unit, prices.block)
        return TimingReport(self.pricing.digest, prices.block, align, predicted)

    def predict_layers(self, planned: PlannedCut) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """Return each Conv's milliseconds before and after, by the latency table; empty where time doesn't matter."""
        network, prospect = self.run.network, self.prospect
        if self.pricing is None or prospect.prices is None:
            return {}, {}
        # The table has all of the original's times since it was assessed: nothing is measured here.
        before = prospect.prices if prospect.network is network else self.pricing.price(network)
        return (
            predict_times(network, before, Plan({}, {})),
            predict_times(prospect.network, prospect.prices, planned.plan),
        )

    def time_model(self, model: ModelProto) -> float:
        """Return the time of a model as a fraction of the original's."""
        with self.run.save_for_trial(model) as path:
            speedup = time_pair(path, self.run.network.input_shape[1:], self.run.config, _LOOK_SECONDS).speedup
        return 1.0 if speedup is None else 1 / speedup.median


def assess_run(run: Run, unit: Unit, target: float) -> Outlook:
    """Price and assess a run's network.

    Args:
        run: What is compressed.
        unit: What budgets are counted in.
        target: The fraction that `--rounds` goes down to.
    """
    batch_size = run.config.benchmark_batch_size or run.subject.fixed_batch or 1
    # A saved plan is applied whatever it takes.
    is_free = run.config.allow_slower or run.config.plan is not None
    pricing = None if is_free else Pricing(run.config, batch_size, run.recorder)
    if unit == "latency" and pricing is not None:
        whole = sum_latency(run.plain, pricing.price(run.plain))
    else:
        whole = float(run.original.macs if unit == "macs" else run.original.parameters)
    budget = Budget(unit, target * whole)
    assessment = _assess(run)
    prospect = assess_in_rounds(
        run.network, run.calibration, budget, whole, run.config, pricing, run.recorder, assessment
    )
    return Outlook(run, unit, whole, prospect, pricing)


def _assess(run: Run) -> Assessment:
    """Return what the passes find out about the original; nothing where a search's time is up before they end."""
    config = run.config
    try:
        with run.recorder.limited(None if config.bound is None else config.time_limit):
            return run.memory.recall_assessment(
                run.network,
                lambda: assess_network(run.network, run.calibration, config.basis, config.prune, run.recorder),
            )
    except TimeUpError:
        return Assessment({}, {}, {}, {}, ())


def choose_plan(outlook: Outlook, target: float) -> tuple[PlannedCut, TimingReport | None]:
    """Return the plan that keeps a fraction of the original; one of time is held to the clock, but in a dry run."""
    run = outlook.run
    if outlook.unit != "latency" or outlook.pricing is None:
        planned = outlook.plan(target)
        return planned, outlook.describe_timing(planned)
    if run.config.dry_run:
        # What an earlier run found the clock to show over what the table foretells.
        scale = outlook.pricing.read_scale(outlook.prospect.network)
        planned = outlook.plan(target / scale)
        timing = outlook.describe_timing(planned)
        return planned, timing and replace(timing, predicted=outlook.count_kept(planned) * scale)
    best, plans = fit_latency(
        outlook.prospect, outlook.whole, target, outlook.time_model, outlook.pricing, run.config, run.recorder
    )
    timing = outlook.describe_timing(best.planned)
    return best.planned, timing and replace(timing, predicted=best.predicted, measured=best.measured, plans=plans)
