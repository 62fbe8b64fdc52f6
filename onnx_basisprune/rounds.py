"""Assess in one round or in several, then plan: a deep cut changes what the statistics of the whole network said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx_basisprune.assessment import Assessment, Calibration, assess_network
from onnx_basisprune.budget import Budget, PlannedCut, list_removed, plan_cut
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.costing import Prices
from onnx_basisprune.cutting import cut_network
from onnx_basisprune.network import Network, match_channels, read_network
from onnx_basisprune.planning.types import Plan
from onnx_basisprune.pricing import Pricing, choose_align
from onnx_basisprune.progress import Recorder


@dataclass(frozen=True)
class Prospect:
    """All that the last plan is made from.

    Attributes:
        network: What earlier rounds left.
        assessment: What the passes found out about it.
        prices: What its forms take, `None` where time doesn't matter.
        origins: Its classes of channels → those of the original network.
        gone: Classes of the original network that earlier rounds removed.
    """

    network: Network
    assessment: Assessment
    prices: Prices | None
    origins: Mapping[int, int]
    gone: frozenset[int]

    def plan(self, budget: Budget, config: CompressionConfig) -> PlannedCut:
        """Choose ranks and channels that meet a budget at the least loss."""
        align = choose_align(config, budget.unit, None if self.prices is None else self.prices.block)
        return plan_cut(self.network, self.assessment, config.prune, budget, self.prices, align)

    def list_gone(self, planned: PlannedCut) -> frozenset[int]:
        """Return the classes of the original network that go in all rounds together."""
        return self.gone | {self.origins[channel] for channel in list_removed(self.network, planned.plan).tolist()}


def assess_in_rounds(
    network: Network,
    calibration: Calibration,
    budget: Budget,
    whole: float,
    config: CompressionConfig,
    pricing: Pricing | None,
    recorder: Recorder,
    assessment: Assessment | None = None,
) -> Prospect:
    """Assess a network, in several rounds where asked for, each on the channels that the last one left.

    Args:
        network: The original.
        calibration: The images.
        budget: What may be left in the end.
        whole: What the original costs, in the budget's unit.
        config: `rounds`, `basis`, `prune`, `exclude`.
        pricing: Measures times; `None` where they don't matter.
        recorder: Told how far it is.
        assessment: Of the original, where it is known already.
    """
    origins = {int(channel): int(channel) for group in network.channels.groups for channel in group.channels}
    prospect = _assess(network, calibration, origins, frozenset(), config, pricing, recorder, assessment)
    for turn in range(1, config.rounds):
        limit = whole ** (1 - turn / config.rounds) * budget.limit ** (turn / config.rounds)
        planned = prospect.plan(Budget(budget.unit, limit), config)
        model, _ = cut_network(prospect.network, prospect.assessment, Plan({}, planned.plan.channels))
        removed = list_removed(prospect.network, planned.plan).tolist()
        left = read_network(model, network.input_shape, config.exclude)
        matches = match_channels(prospect.network.channels, left.channels, removed)
        origins = {new: prospect.origins[old] for new, old in matches.items() if old in prospect.origins}
        prospect = _assess(left, calibration, origins, prospect.list_gone(planned), config, pricing, recorder)
    return prospect


def _assess(
    network: Network,
    calibration: Calibration,
    origins: Mapping[int, int],
    gone: frozenset[int],
    config: CompressionConfig,
    pricing: Pricing | None,
    recorder: Recorder,
    assessment: Assessment | None = None,
) -> Prospect:
    prices = None if pricing is None else pricing.price(network)
    assessment = assessment or assess_network(network, calibration, config.basis, config.prune, recorder)
    return Prospect(network, assessment, prices, origins, gone)
