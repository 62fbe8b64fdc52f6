"""Raise the scores of coupled channels to what they lose together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
        # Longest kept first.
        channels.sort(key=lambda channel: scores[channel], reverse=True)
        joint = np.zeros(len(channels) + 1)
        for item in items:
            order = _find_order(item.read.labels, channels)
            if order is not None:
                node = item.read.node
                W = network.program.initializers[item.weight].take(order, axis=item.read.weight_axis)
                part = reads[item.tensor].select(order)
                metric = _measure_metric(W, statistics[node], spaces[node])
                joint += measure_joint_loss(metric, part.covariance if item.bias else part.second)
        if joint.any():
            ascending = np.array([scores[channel] for channel in reversed(channels)])
            joined.update(zip(reversed(channels), join_scores(ascending, joint).tolist(), strict=True))
    return joined


def _find_order(labels: NDArray[np.int64], channels: Sequence[int]) -> NDArray[np.int64] | None:
    """Return where channels are read, in their order; `None` unless each is read exactly once."""
    places = np.flatnonzero(np.isin(labels, channels))
    found = dict(zip(labels[places].tolist(), places.tolist(), strict=True))
    if not channels or not len(places) == len(found) == len(channels):
        return None
    return np.array([found[channel] for channel in channels])


def _measure_metric(weight: NDArray[Any], statistics: ConvStatistics, space: ReducedSpace | None) -> Matrix:
    """Return `sum_taps W_tapᵀ Gamma W_tap`, `[C, C]`, of a Conv's weight `[outputs, C, *kernel]`."""
    W: Matrix = weight.astype(np.float64).reshape(*weight.shape[:2], -1)  # [outputs, C, taps]
    if space is not None:
        W = np.einsum("oq,oct->qct", space.U, W, optimize=True)
    weighted = np.tensordot(statistics.gamma, W, axes=1)
    return np.tensordot(W, weighted, axes=((0, 2), (0, 2)))
