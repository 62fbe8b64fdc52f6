"""Choose the plan of a compression run: assess, price, and meet the budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from onnx_basisprune.assessment import Calibration
from onnx_basisprune.budget import Budget, PlannedCut
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.costing import sum_latency
from onnx_basisprune.fitting import fit_latency
from onnx_basisprune.network import Network
from onnx_basisprune.opening import Subject
from onnx_basisprune.pricing import Pricing, choose_align
from onnx_basisprune.progress import Recorder
from onnx_basisprune.results import ModelMeasurement, TimingReport
from onnx_basisprune.rounds import Prospect, assess_in_rounds
from onnx_basisprune.summary import choose_budget
from onnx_basisprune.timing import time_pair

# How long a plan's model is timed, at most.
_LOOK_SECONDS = 4.0


def choose_plan(
    network: Network,
    subject: Subject,
    original: ModelMeasurement,
    calibration: Calibration,
    config: CompressionConfig,
    recorder: Recorder,
) -> tuple[Prospect, PlannedCut, TimingReport | None]:
    """Assess the network and plan its cut; a budget of time is met by the clock."""
    unit, target = choose_budget(config)
    batch_size = config.benchmark_batch_size or subject.session.fixed_batch or 1
    pricing = None if config.allow_slower else Pricing(config, batch_size, recorder)
    prices = None if pricing is None else pricing.price(network)
    if unit == "latency" and prices is not None:
        whole = sum_latency(network, prices)
    else:
        whole = float(original.macs if unit == "macs" else original.parameters)
    budget = Budget(unit, target * whole)
    prospect = assess_in_rounds(network, calibration, budget, whole, config, pricing, recorder)
    if pricing is None or prices is None:
        return prospect, prospect.plan(budget, config), None
    timing = TimingReport(pricing.digest, prices.block, choose_align(config, prices.block))
    if unit != "latency" or config.dry_run:
        planned = prospect.plan(budget, config)
        return prospect, planned, replace(timing, predicted=planned.left / whole if unit == "latency" else None)

    def time_model(path: Path) -> float:
        speedup = time_pair(path, network.input_shape[1:], config, _LOOK_SECONDS).speedup
        return 1.0 if speedup is None else 1 / speedup.median

    best, plans = fit_latency(prospect, whole, target, time_model, pricing, config, recorder)
    timing = replace(timing, table_sha256=pricing.digest, predicted=best.predicted, measured=best.measured, plans=plans)
    return prospect, best.planned, timing
