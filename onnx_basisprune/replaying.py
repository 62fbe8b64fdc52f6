"""Make a plan from a run, and apply one to a network that was trained again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import onnx_basisprune
from onnx_basisprune.assessment import Assessment
from onnx_basisprune.budget import PlannedCut, forecast_cost
from onnx_basisprune.choosing import Outlook
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.errors import PlanError, quote
from onnx_basisprune.files import write_atomically
from onnx_basisprune.network import Network
from onnx_basisprune.plan_file import SavedPlan, Share, render_plan
from onnx_basisprune.planning.terms import accumulate_losses, select_best, sort_channels
from onnx_basisprune.planning.types import Plan
from onnx_basisprune.pricing import choose_align
from onnx_basisprune.results import ModelMeasurement
from onnx_basisprune.structure import describe_structure, find_difference
from onnx_basisprune.summary import describe_target


def save_plan(outlook: Outlook, planned: PlannedCut, path: Path) -> None:
    """Write the plan of a run to a file.

    Raises:
        OutputError: See `write_atomically`.
    """
    run = outlook.run
    removed = outlook.prospect.list_gone(planned)
    saved = make_plan(run.network, run.original, planned, removed, _describe_options(outlook))
    write_atomically(render_plan(saved).encode(), path, force=run.config.force)


def make_plan(
    network: Network,
    original: ModelMeasurement,
    planned: PlannedCut,
    removed: Collection[int],
    made_with: Mapping[str, Any],
) -> SavedPlan:
    """Return a plan as counts.

    Args:
        network: The original.
        original: What it costs.
        planned: What is done to it.
        removed: Its classes of channels that go.
        made_with: Options and version.
    """
    forecast = planned.forecast
    ranks = {name: len(kept) for name, kept in planned.plan.components.items()}
    return SavedPlan(
        made_with=made_with,
        macs=(original.macs, forecast.macs),
        parameters=(original.parameters, forecast.parameters),
        layers={name: Share(ranks.get(name), layer.full_rank) for name, layer in network.eligible.items()},
        groups={
            group.name: Share(sum(channel not in removed for channel in group.channels.tolist()), len(group.channels))
            for group in network.channels.groups
            if not group.blocked_by
        },
        input_shape=network.input_shape,
        nodes=describe_structure(network),
    )


def _describe_options(outlook: Outlook) -> dict[str, Any]:
    """Return what a plan was made with."""
    config, prices = outlook.run.config, outlook.prospect.prices
    return {
        "basisprune": onnx_basisprune.__version__,
        "target": describe_target(config),
        "align": choose_align(config, outlook.unit, None if prices is None else prices.block),
        "allow_slower": config.allow_slower,
        "convolved": outlook.run.is_convolved,
        "basis": config.basis,
        "prune": config.prune,
        "rounds": config.rounds,
        "exclude": list(config.exclude),
        "seed": config.seed,
    }


def check_fit(saved: SavedPlan, network: Network, config: CompressionConfig) -> None:
    """Refuse a plan of another network, or one that the options don't allow.

    Raises:
        PlanError: It doesn't fit; the message tells the first difference.
    """
    difference = find_difference(saved.nodes, describe_structure(network))
    if difference is None and saved.input_shape != network.input_shape:
        difference = f"the input has shape {network.input_shape}, in the plan it has {saved.input_shape}"
    problems = [*_list_layer_problems(saved, network, config), *_list_group_problems(saved, network, config)]
    if difference is not None or problems:
        raise PlanError(
            f"plan {quote(config.plan)} doesn't fit {quote(config.model)}: {difference or problems[0]}; make a plan "
            "for this model and these options with --save-plan."
        )


def _list_layer_problems(saved: SavedPlan, network: Network, config: CompressionConfig) -> Iterator[str]:
    """Go through the layers that can't be decomposed as a plan says."""
    layers = {layer.name: layer for layer in network.layers}
    for name, share in saved.layers.items():
        layer = layers.get(name)
        if share.kept is None:
            continue
        if layer is None or layer.reason:
            yield f"{quote(name)} can't be decomposed ({layer.reason if layer else 'there is no such Conv'})"
        elif layer.full_rank != share.total:
            yield f"{quote(name)} has {layer.full_rank} components, in the plan {share.total}"
        elif config.prune == "channels":
            yield f"it decomposes {quote(name)}, which --prune channels doesn't allow"


def _list_group_problems(saved: SavedPlan, network: Network, config: CompressionConfig) -> Iterator[str]:
    """Go through the groups that can't lose channels as a plan says."""
    groups = {group.name: group for group in network.channels.groups}
    for name, share in saved.groups.items():
        group = groups.get(name)
        if share.kept == share.total:
            continue
        if group is None or group.blocked_by:
            yield f"channels of {quote(name)} can't go ({group.blocked_by if group else 'there is no such group'})"
        elif len(group.channels) != share.total:
            yield f"{quote(name)} has {len(group.channels)} channels, in the plan {share.total}"
        elif config.prune == "basis":
            yield f"it removes channels of {quote(name)}, which --prune basis doesn't allow"


def apply_plan(saved: SavedPlan, outlook: Outlook) -> PlannedCut:
    """Choose components and channels anew, by what was found out about the network, as many as a plan keeps.

    Returns:
        The plan for this network; it takes what the saved one says, unless that was edited.

    Raises:
        PlanError: The weights or the images don't give what the plan keeps.
    """
    network, assessment, recorder = outlook.run.network, outlook.prospect.assessment, outlook.run.recorder
    made_with = saved.made_with.get("basis", outlook.run.config.basis)
    if made_with != outlook.run.config.basis:
        recorder.warn(f"the plan was made with --basis {made_with}, and is applied with {outlook.run.config.basis}.")
    components = {
        name: select_best(_expect_components(assessment, name, share.kept), share.kept)
        for name, share in saved.layers.items()
        if share.kept is not None
    }
    channels = {}
    for group in network.channels.groups:
        share = saved.groups.get(group.name, Share(None, 0))
        if share.kept is None or share.kept == share.total:
            continue
        if not any(assessment.channels.get(int(channel)) for channel in group.channels):
            raise PlanError(
                f"the plan removes channels of {quote(group.name)}, on which the class scores don't depend."
            )
        removed = sort_channels(group.channels, assessment.channels)[: share.total - share.kept]
        channels[group.name] = group.channels[~np.isin(group.channels, removed)]
    plan = Plan(components, channels)
    forecast = forecast_cost(network, plan)
    if (forecast.macs, forecast.parameters) != (saved.macs[1], saved.parameters[1]):
        recorder.warn(
            f"the plan was edited: it says {saved.macs[1]:,} multiply-adds and {saved.parameters[1]:,} parameters, as "
            f"it is it comes to {forecast.macs:,} and {forecast.parameters:,}."
        )
    losses = {
        name: float(accumulate_losses(scores)[len(components[name])]) if name in components else 0.0
        for name, scores in assessment.components.items()
    }
    return PlannedCut(plan, forecast, losses, reached=True, left=float(forecast.macs))


def _expect_components(assessment: Assessment, name: str, rank: int) -> NDArray[np.float64]:
    """Return the scores of a layer's components.

    Raises:
        PlanError: They are fewer than the plan keeps.
    """
    scores = assessment.components.get(name, np.zeros(0))
    if len(scores) < rank:
        raise PlanError(
            f"the plan keeps {rank} components of {quote(name)}, whose weights have {len(scores)} that do anything: "
            "lower its rank in the plan, or make a new one with --save-plan."
        )
    return scores
