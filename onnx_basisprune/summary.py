"""What a compression run's report says about its layers, its gates and its options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from onnx_basisprune.config import DEFAULT_TARGET_MACS, CompressionConfig
from onnx_basisprune.decomposition import Network
from onnx_basisprune.graph.cost import make_mac_price, price_parameters
from onnx_basisprune.planning.allocation import Allocation
from onnx_basisprune.results import Gate, LayerReport, ModelMeasurement

_NO_GAIN = "its full weights cost less than any pair at this budget"


def summarize_layers(
    network: Network, allocation: Allocation, component_counts: Mapping[str, int]
) -> tuple[LayerReport, ...]:
    """Return one row per Conv, in graph order."""
    mac_price = make_mac_price(network.cost)
    nodes = {node.name: node for node in network.cost.nodes}
    rows = []
    for layer in network.layers:
        kept = allocation.plan.components.get(layer.name)
        before = nodes[layer.name]
        after_macs, after_parameters = before.macs or 0, before.parameters
        full_rank = component_counts.get(layer.name, 0)
        if kept is not None:
            after_macs = int(mac_price(layer, len(kept)))
            after_parameters = price_parameters(layer, len(kept))
        rows.append(
            LayerReport(
                name=layer.name,
                op_type=layer.op_type,
                decomposed=kept is not None,
                reason=layer.reason or ("" if kept is not None else _NO_GAIN),
                full_rank=full_rank,
                rank=full_rank if kept is None else len(kept),
                macs_before=before.macs or 0,
                macs_after=after_macs,
                parameters_before=before.parameters,
                parameters_after=after_parameters,
                removed_score=allocation.losses.get(layer.name, 0.0),
            )
        )
    return tuple(rows)


def choose_budget(config: CompressionConfig) -> tuple[Literal["macs", "params"], float]:
    """Return the unit of the budget, `macs` or `params`, and the fraction to keep."""
    if config.target_params is not None:
        return "params", config.target_params
    return "macs", DEFAULT_TARGET_MACS if config.target_macs is None else config.target_macs


def judge_gates(
    config: CompressionConfig, original: ModelMeasurement, compressed: ModelMeasurement, has_eligible: bool
) -> tuple[Gate, ...]:
    """Return the gates: the target, unless nobody asked for it and there is nothing to prune."""
    unit, asked = choose_budget(config)
    if not has_eligible and config.target_macs is None and config.target_params is None:
        return ()
    before, after = (original.macs, compressed.macs) if unit == "macs" else (original.parameters, compressed.parameters)
    reached = after / before if before else 1.0
    return (Gate(f"target_{unit}", asked, reached, reached <= asked),)


def describe_config(
    config: CompressionConfig, output: Path | None, preprocessing: Mapping[str, object]
) -> dict[str, Any]:
    """Return the options as JSON-ready values, with the output and the preprocessing that were really used."""
    values = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()}
    return {**values, "output": None if output is None else str(output), "preprocessing": dict(preprocessing)}


def describe_metadata(
    config: CompressionConfig, version: str, original: ModelMeasurement, cost: tuple[int, int]
) -> dict[str, str]:
    """Return the `metadata_props` that say what was done to the model.

    The same run writes the same bytes: no time, no path.
    """
    unit, target = choose_budget(config)
    done = {
        "target": {unit: target},
        "basis": config.basis,
        "prune": config.prune,
        "recover": config.recover,
        "seed": config.seed,
        "macs": [original.macs, cost[0]],
        "parameters": [original.parameters, cost[1]],
    }
    return {"basisprune.version": version, "basisprune.compression": json.dumps(done)}
