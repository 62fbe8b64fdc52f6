"""Scores of coupled channels by what they lose together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.calibration.gradient_pass import ReadEdge
from onnx_basisprune.compensating import CompensatedRead
from onnx_basisprune.network import Network
from onnx_basisprune.planning.compensation import ReadStatistics
from onnx_basisprune.planning.joint_loss import JointLoss, rank_channels, spread_losses
from onnx_basisprune.planning.shrinkage import find_ridge, shrink

Matrix = NDArray[np.float64]


def join_channel_scores(
    network: Network,
    scores: Mapping[int, float],
    metrics: Mapping[ReadEdge, NDArray[np.float32]],
    reads: Mapping[str, ReadStatistics],
    compensated: Sequence[CompensatedRead],
) -> dict[int, float]:
    """Return scores by what a group's channels lose together, once their consumers are compensated.

    Args:
        network: The network.
        scores: Class → Taylor score.
        metrics: Second moments of the loss's gradient at compensated reads, `[C, C]`.
        reads: Moments of what is read, by tensor.
        compensated: Reads whose consumers are compensated.
    """
    joined = dict(scores)
    for group in network.channels.groups:
        channels = np.array([int(channel) for channel in group.channels if int(channel) in scores], dtype=np.int64)
        taylor = np.array([scores[int(channel)] for channel in channels])
        touching = [read for read in network.channels.reads if np.isin(read.labels, channels).any()]
        found = {(read.node, read.input_index): _find_places(read.labels, channels) for read in touching}
        places = {edge: place for edge, place in found.items() if place is not None}
        items = [item for item in compensated if item.edge in places]
        losses = _list_losses(items, places, reads, metrics)
        alone = sum((loss.alone for loss in losses), np.zeros(len(channels)))
        if not alone.any() or not taylor.any():
            continue
        is_whole = len(items) == len(touching)
        # What one reader loses whatever is kept is in the Taylor scores, which aren't known for each.
        fixed = np.zeros(len(channels)) if is_whole else taylor
        # One by one, both are known: the Taylor scores see that positions depend on each other.
        scale = float(taylor.sum() / alone.sum()) if is_whole else 1.0
        order, gains = rank_channels(losses, fixed)
        joined.update(zip(channels[order].tolist(), (scale * spread_losses(gains)).tolist(), strict=True))
    return joined


def _list_losses(
    items: Sequence[CompensatedRead],
    places: Mapping[ReadEdge, NDArray[np.int64]],
    reads: Mapping[str, ReadStatistics],
    metrics: Mapping[ReadEdge, NDArray[np.float32]],
) -> list[JointLoss]:
    """Return what the readers of each tensor lose: those that take a constant, and those that don't."""
    summed: dict[tuple[str, bool], Matrix] = {}
    for item in items:
        key, place = (item.tensor, bool(item.bias)), places[item.edge]
        summed[key] = summed.get(key, 0.0) + metrics[item.edge][np.ix_(place, place)].astype(np.float64)
    # One tensor's readers find its channels at the same places.
    found = {item.tensor: places[item.edge] for item in items}
    return [
        _make_loss(metric, reads[tensor].select(found[tensor]), is_shifted=is_shifted)
        for (tensor, is_shifted), metric in summed.items()
    ]


def _make_loss(metric: Matrix, part: ReadStatistics, *, is_shifted: bool) -> JointLoss:
    """Return a loss that doesn't take few images at their word."""
    covariance = part.covariance
    return JointLoss(
        shrink(metric, part.images),
        covariance if is_shifted else part.second,
        find_ridge(covariance, part.images),
    )


def _find_places(labels: NDArray[np.int64], channels: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Return where channels are read, in their order; `None` unless each is read exactly once."""
    places = np.flatnonzero(np.isin(labels, channels))
    found = dict(zip(labels[places].tolist(), places.tolist(), strict=True))
    if not len(channels) or not len(places) == len(found) == len(channels):
        return None
    return np.array([found[channel] for channel in channels.tolist()])
