"""What a compression run's report says about its layers, its gates and its options."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path
from typing import Any

from onnx_basisprune.budget import PlannedCut
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.costing import Unit
from onnx_basisprune.files import hash_files
from onnx_basisprune.graph.dependency import DependencyGroup
from onnx_basisprune.network import Network
from onnx_basisprune.numbers import show_interval
from onnx_basisprune.planning.types import ConvLayer
from onnx_basisprune.reporting.gates import judge_limits
from onnx_basisprune.results import CompressionReport, Gate, GroupReport, LayerReport, ModelMeasurement, TimingReport

_NO_GAIN = "the budget is met without decomposing it"
# Of the same model a clock shows so much of a difference from one measurement to the next.
_CLOCK_TOLERANCE = 0.04
_NOT_SCORED = "no component of it was scored: not asked for, or the class scores don't depend on it"


def summarize_layers(
    network: Network,
    planned: PlannedCut,
    component_counts: Mapping[str, int],
    times: tuple[Mapping[str, float], Mapping[str, float]] = ({}, {}),
) -> tuple[LayerReport, ...]:
    """Return one row per Conv of the original network, in graph order.

    Args:
        network: The original network.
        planned: What is done to it.
        component_counts: Conv name → components of its basis.
        times: Conv name → predicted milliseconds before and after, of those whose time is known.
    """
    rows = {row.name: row for row in network.cost.nodes}
    reports = []
    for layer in network.layers:
        if layer.name not in planned.forecast.layers:  # a shortcut, in a model that is left in its own form
            continue
        kept = planned.plan.components.get(layer.name)
        before, after = rows[layer.name], planned.forecast.layers[layer.name]
        full_rank = component_counts.get(layer.name, 0)
        reports.append(
            LayerReport(
                name=layer.name,
                op_type=layer.op_type,
                decomposed=kept is not None,
                reason=_explain(layer, kept is not None, full_rank),
                full_rank=full_rank,
                rank=full_rank if kept is None else len(kept),
                macs_before=before.macs or 0,
                macs_after=after[0],
                parameters_before=before.parameters,
                parameters_after=after[1],
                removed_score=planned.losses.get(layer.name, 0.0),
                ms_before=times[0].get(layer.name),
                ms_after=times[1].get(layer.name),
            )
        )
    return tuple(reports)


def _explain(layer: ConvLayer, decomposed: bool, full_rank: int) -> str:
    """Return why a Conv isn't decomposed, `""` where it is."""
    if decomposed or layer.reason:
        return layer.reason
    return _NO_GAIN if full_rank else _NOT_SCORED


def summarize_groups(groups: Sequence[DependencyGroup], removed: Collection[int]) -> tuple[GroupReport, ...]:
    """Return one row per dependency group of the original network, in graph order.

    Args:
        groups: Of the original network.
        removed: Their classes that went.
    """
    return tuple(
        GroupReport(
            name=group.name,
            channels=len(group.channels),
            kept=sum(channel not in removed for channel in group.channels.tolist()),
            blocked_by=group.blocked_by,
        )
        for group in groups
    )


def choose_budget(config: CompressionConfig) -> tuple[Unit, float]:
    """Return the unit of the budget and the fraction to keep; a search or a saved plan begins at everything."""
    if config.plan is not None:
        return "macs", 1.0
    if config.target_latency is not None:
        return "latency", config.target_latency
    if config.target_params is not None:
        return "params", config.target_params
    if config.target_macs is not None:
        return "macs", config.target_macs
    return config.minimize, 1.0


def judge_gates(config: CompressionConfig, report: CompressionReport) -> tuple[Gate, ...]:
    """Return the gates: the target, bounds, and not to be slower.

    A dry run has only those whose figures it foretells.
    """
    unit, asked = choose_budget(config)
    gates = []
    if config.bound is None and config.plan is None:
        reached = _measure_share(unit, report)
        tolerance = _CLOCK_TOLERANCE if unit == "latency" else 0.0
        note = f"up to {tolerance:.0%} more is the clock's" if tolerance else ""
        gates.append(Gate(f"target_{unit}", asked, reached, reached <= asked * (1 + tolerance), note))
    gates += [gate for gate in _judge_limits(config, report) if not config.dry_run or isfinite(gate.reached)]
    if report.speedup is not None and not config.allow_slower:
        least = 1 - _CLOCK_TOLERANCE
        note = f"{show_interval(report.speedup)}; fails where it ends below {least:g}"
        gates.append(Gate("not_slower", 1.0, report.speedup.median, report.speedup.high >= least, note))
    return tuple(gates)


def list_unjudged(config: CompressionConfig, report: CompressionReport) -> list[str]:
    """Return the names of the gates that a dry run leaves out: their figures aren't known before the model is."""
    return [gate.name for gate in _judge_limits(config, report) if config.dry_run and not isfinite(gate.reached)]


def _judge_limits(config: CompressionConfig, report: CompressionReport) -> tuple[Gate, ...]:
    """Return the gates of a search's bound and of all that was asked for by an option of its own."""
    return judge_limits(report, config if config.bound is None else replace(config, max_drop=config.bound))


def _measure_share(unit: Unit, report: CompressionReport) -> float:
    """Return what is left of the original, in the unit of the budget; in a dry run by the forecast."""
    if unit == "latency":
        predicted = report.timing.predicted if report.timing else None
        return 1 / report.speedup.median if report.speedup else predicted or 1.0
    before, after = (
        (report.original.macs, report.compressed.macs)
        if unit == "macs"
        else (report.original.parameters, report.compressed.parameters)
    )
    return after / before if before else 1.0


def describe_config(
    config: CompressionConfig, output: Path | None, preprocessing: Mapping[str, object]
) -> dict[str, Any]:
    """Return the options as JSON-ready values, with the output and the preprocessing that were really used."""
    values = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()}
    if config.bound is not None:  # where nothing was said, what was really held to
        values["max_drop"] = config.bound
    return {**values, "output": None if output is None else str(output), "preprocessing": dict(preprocessing)}


def describe_target(config: CompressionConfig) -> dict[str, float | str]:
    """Return what a run was asked for; of a saved plan, which one."""
    if config.plan is not None:
        return {"plan_sha256": hash_files([config.plan])}
    unit, target = choose_budget(config)
    return {unit: target} if config.bound is None else {"max_drop": config.bound, "minimize": unit}


def describe_metadata(
    config: CompressionConfig, version: str, original: ModelMeasurement, compressed: ModelMeasurement
) -> dict[str, str]:
    """Return the `metadata_props` that say what was done to the model.

    The same run writes the same bytes: no time, no path.
    """
    done = {
        "target": describe_target(config),
        "basis": config.basis,
        "prune": config.prune,
        "recover": config.recover,
        "seed": config.seed,
        "macs": [original.macs, compressed.macs],
        "parameters": [original.parameters, compressed.parameters],
    }
    return {"basisprune.version": version, "basisprune.compression": json.dumps(done)}


def list_variations(config: CompressionConfig, timing: TimingReport | None) -> tuple[str, ...]:
    """Return what could make the same command on the same files write other bytes in another run.

    Args:
        config: Every option.
        timing: How time entered the plan; `None` where it didn't.
    """
    varies = ["environment.cpu and environment.versions: other kernels round otherwise"]
    varies.append("environment.calibration_threads (OMP_NUM_THREADS): sums are rounded by the number of parts")
    if timing is not None and config.latency_table is None:
        varies.append("timing.table_sha256: the table in the cache folder grows and may go; --latency-table pins it")
    if config.time_limit is not None:
        varies.append("config.time_limit: the search ends by the clock")
    return tuple(varies)
