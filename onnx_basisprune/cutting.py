"""Carry a plan out: compensate consumers, remove channels, rewrite Convs into pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.assessment import Assessment
from onnx_basisprune.budget import list_removed
from onnx_basisprune.compensating import compensate_weights
from onnx_basisprune.graph.rewrite import ConvPair, PairNames, replace_initializers, rewrite_convs
from onnx_basisprune.graph.surgery import remove_channels
from onnx_basisprune.network import Network
from onnx_basisprune.planning.basis import make_pair
from onnx_basisprune.planning.types import Plan

if TYPE_CHECKING:
    from onnx import ModelProto


def cut_network(network: Network, assessment: Assessment, plan: Plan) -> tuple[ModelProto, dict[str, PairNames]]:
    """Return the planned model, and the initializers of its pairs by Conv name."""
    removed = list_removed(network, plan)
    weights, shifts = compensate_weights(network, assessment.compensated, assessment.reads, removed)
    pairs = {name: _make_pair(network, assessment, plan, name, weights, shifts, removed) for name in plan.components}
    model = network.model
    if len(removed):
        arrays = {**weights, **_shift_biases(network, assessment, shifts)}
        model = replace_initializers(model, arrays) if arrays else model
        model = remove_channels(model, network.channels, removed, network.input_shapes)
    return rewrite_convs(model, pairs)


def _shift_biases(
    network: Network, assessment: Assessment, shifts: dict[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """Return the biases that take constants of removed channels."""
    biases = {item.read.node: item.bias for item in assessment.compensated}
    return {
        biases[node]: network.program.initializers[biases[node]].astype(np.float64) + shift
        for node, shift in shifts.items()
    }


def _make_pair(
    network: Network,
    assessment: Assessment,
    plan: Plan,
    name: str,
    weights: dict[str, NDArray[np.float64]],
    shifts: dict[str, NDArray[np.float64]],
    removed: NDArray[np.int64],
) -> ConvPair:
    """Return a Conv's pair, cut to the channels that stay on both sides.

    The basis was found on all output channels, so filters are made of the whole (compensated) weight; then the filters
    lose the removed inputs, scaling weight and bias the removed outputs.
    """
    layer = network.eligible[name]
    shape = network.program.initializers[layer.weight].shape
    stays = {
        coupling.axis: ~np.isin(coupling.labels, removed)
        for coupling in network.channels.couplings
        if coupling.node == name and coupling.input_index == 1
    }
    inputs, outputs = stays.get(1, np.ones(shape[1], dtype=bool)), stays.get(0, np.ones(shape[0], dtype=bool))
    W = weights[layer.weight].reshape(shape[0], -1) if layer.weight in weights else network.weight(layer)
    filters, scaling, bias = make_pair(
        W, network.bias(layer), assessment.bases[name], plan.components[name], shifts.get(name)
    )
    return ConvPair(filters.reshape(-1, *shape[1:])[:, inputs], scaling[outputs], bias[outputs])
