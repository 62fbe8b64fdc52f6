"""Assess and plan, in one round or in several: a deep cut changes what the statistics of the whole network said."""

from __future__ import annotations

from onnx_basisprune.assessment import Assessment, Calibration, assess_network
from onnx_basisprune.budget import Budget, PlannedCut, list_removed, plan_cut
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.cutting import cut_network
from onnx_basisprune.network import Network, match_channels, read_network
from onnx_basisprune.planning.types import Plan
from onnx_basisprune.progress import Recorder


def find_plan(
    network: Network,
    calibration: Calibration,
    budget: Budget,
    config: CompressionConfig,
    recorder: Recorder,
) -> tuple[Network, Assessment, PlannedCut, frozenset[int]]:
    """Assess and plan, in several rounds where asked for, each on the channels that the last one left.

    Returns:
        The network that the plan is for, what the passes found out about it, the plan, and the classes of the
        original's channels that go in all rounds together.
    """
    origins = {int(channel): int(channel) for group in network.channels.groups for channel in group.channels}
    gone: set[int] = set()
    whole = network.cost.macs if budget.unit == "macs" else network.cost.parameters
    for turn in range(1, config.rounds):
        limit = whole * (budget.limit / whole) ** (turn / config.rounds)
        assessment = assess_network(network, calibration, config.basis, config.prune, recorder)
        planned = plan_cut(network, assessment, config.prune, Budget(budget.unit, limit))
        model, _ = cut_network(network, assessment, Plan({}, planned.plan.channels))
        removed = list_removed(network, planned.plan).tolist()
        gone.update(origins[channel] for channel in removed)
        left = read_network(model, network.input_shape, config.exclude)
        matches = match_channels(network.channels, left.channels, removed)
        origins = {new: origins[old] for new, old in matches.items() if old in origins}
        network = left
    assessment = assess_network(network, calibration, config.basis, config.prune, recorder)
    planned = plan_cut(network, assessment, config.prune, budget)
    gone.update(origins[channel] for channel in list_removed(network, planned.plan).tolist())
    return network, assessment, planned, frozenset(gone)
