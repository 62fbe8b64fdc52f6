"""Raise the scores of coupled channels to what they lose together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.compensating import CompensatedRead
from onnx_basisprune.network import Network
from onnx_basisprune.planning.compensation import ReadStatistics
from onnx_basisprune.planning.joint_loss import join_scores, measure_joint_loss
from onnx_basisprune.planning.types import ConvStatistics, ReducedSpace

Matrix = NDArray[np.float64]


def join_channel_scores(
    network: Network,
    scores: Mapping[int, float],
    reads: Mapping[str, ReadStatistics],
    compensated: Sequence[CompensatedRead],
    statistics: Mapping[str, ConvStatistics],
    spaces: Mapping[str, ReducedSpace | None],
) -> dict[int, float]:
    """Return the scores, raised where a group's channels lose more together than one by one.

    Args:
        network: The network.
        scores: Class → Taylor score.
        reads: Moments of what is read, by tensor.
        compensated: Reads whose consumers are compensated; of these, the Convs with statistics are looked at.
        statistics: Conv name → moments of its output's gradient.
        spaces: Conv name → the space that they are in.
    """
    joined = dict(scores)
    items = [item for item in compensated if item.read.node in statistics]
    for group in network.channels.groups:
        channels = [int(channel) for channel in group.channels if int(channel) in scores]
        channels.sort(key=lambda channel: scores[channel], reverse=True)
        joint = np.zeros(len(channels) + 1)
        for item in items:
            # Longest kept first. One that isn't read here, or more than once, has no place in one order for all.
            places = [np.flatnonzero(item.read.labels == channel) for channel in channels]
            if channels and all(len(place) == 1 for place in places):
                order = np.concatenate(places)
                node = item.read.node
                metric = _measure_metric(network, item, statistics[node], spaces[node])
                moments = _find_moments(reads[item.tensor], centred=bool(item.bias))
                joint += measure_joint_loss(metric[np.ix_(order, order)], moments[np.ix_(order, order)])
        if joint.any():
            ascending = np.array([scores[channel] for channel in reversed(channels)])
            joined.update(zip(reversed(channels), join_scores(ascending, joint).tolist(), strict=True))
    return joined


def _measure_metric(
    network: Network, item: CompensatedRead, statistics: ConvStatistics, space: ReducedSpace | None
) -> Matrix:
    """Return `sum_taps W_tapᵀ Gamma W_tap`, `[C, C]`, of a Conv."""
    W = network.program.initializers[item.weight].astype(np.float64)
    W = W.reshape(*W.shape[:2], -1)  # [outputs, C, taps]
    if space is not None:
        W = np.einsum("oq,oct->qct", space.U, W, optimize=True)
    weighted = np.tensordot(statistics.gamma, W, axes=1)
    return np.tensordot(W, weighted, axes=((0, 2), (0, 2)))


def _find_moments(statistics: ReadStatistics, *, centred: bool) -> Matrix:
    """Return the covariance of what is read, or its second moment, `[C, C]`."""
    second = statistics.outer / statistics.positions
    return second - np.outer(statistics.mean, statistics.mean) if centred else second
