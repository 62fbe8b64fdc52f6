"""A normalised model, read once for planning: its graph, Convs, costs and coupled channels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.foreign import read_program
from onnx_basisprune.graph.cost import ModelCost, measure_cost
from onnx_basisprune.graph.dependency import ChannelMap, map_channels
from onnx_basisprune.graph.layers import list_conv_layers
from onnx_basisprune.graph.surgery import find_unfit_groups
from onnx_basisprune.planning.channels import Labels
from onnx_basisprune.planning.types import ConvLayer, Operation, Program

if TYPE_CHECKING:
    from onnx import ModelProto

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Network:
    """A normalised model, read for planning.

    Attributes:
        model: The normalised model.
        program: Its graph as plain data.
        layers: All its Convs; `reason` says why one can't be decomposed.
        cost: What it costs for one image.
        channels: Its coupled channels; groups that must stay say why.
        input_shape: Shape of a batch of one image.
    """

    model: ModelProto
    program: Program
    layers: tuple[ConvLayer, ...]
    cost: ModelCost
    channels: ChannelMap
    input_shape: tuple[int, ...]

    @cached_property
    def eligible(self) -> dict[str, ConvLayer]:
        """The Convs that can be decomposed, by name."""
        return {layer.name: layer for layer in self.layers if not layer.reason}

    @cached_property
    def operations(self) -> dict[str, Operation]:
        """All nodes by name."""
        return {operation.name: operation for operation in self.program.operations}

    @property
    def input_name(self) -> str:
        """The image input."""
        return self.program.inputs[0].name

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """What shape inference is given."""
        return {self.input_name: self.input_shape}

    def weight(self, layer: ConvLayer) -> Matrix:
        """Return a Conv's weight as a matrix `[C_out, K]`, float64."""
        return self.program.initializers[layer.weight].reshape(layer.out_channels, -1).astype(np.float64)

    def bias(self, layer: ConvLayer) -> Matrix:
        """Return a Conv's bias `[C_out]`, float64; zeros where it has none."""
        if not layer.bias:
            return np.zeros(layer.out_channels)
        return self.program.initializers[layer.bias].astype(np.float64)


def read_network(normalized: ModelProto, input_shape: tuple[int, ...], exclude: Collection[str]) -> Network:
    """Read a normalised model for planning.

    Args:
        normalized: The model.
        input_shape: Shape of a batch of one image.
        exclude: Names of nodes that stay as they are.

    Raises:
        ConfigError: `exclude` names a node that doesn't exist.
    """
    program = read_program(normalized)
    shapes = {program.inputs[0].name: input_shape}
    cost = measure_cost(normalized, shapes)
    counted = {node.name for node in cost.nodes if node.macs is not None}
    layers = tuple(
        layer if layer.reason or layer.name in counted else replace(layer, reason="its output shape isn't known")
        for layer in list_conv_layers(normalized, exclude)
    )
    channels = read_channels(normalized, shapes, exclude)
    return Network(normalized, program, layers, cost, channels, input_shape)


def read_channels(
    normalized: ModelProto, shapes: Mapping[str, Sequence[int]] | None, exclude: Collection[str]
) -> ChannelMap:
    """Map channels, and block groups that touch an excluded node or whose removal can't be put right.

    Args:
        normalized: A normalised model.
        shapes: What shape inference is given.
        exclude: Names of nodes that stay as they are.
    """
    channels = map_channels(normalized, shapes)
    touched = {int(label) for labels in _list_touched(normalized, channels, exclude) for label in np.unique(labels)}
    groups = tuple(
        replace(group, blocked_by="one of its nodes is excluded by --exclude")
        if not group.blocked_by and touched.intersection(group.channels.tolist())
        else group
        for group in channels.groups
    )
    channels = replace(channels, groups=groups)
    unfit = find_unfit_groups(normalized, channels, shapes)
    return replace(
        channels,
        groups=tuple(replace(group, blocked_by=unfit.get(group.name, group.blocked_by)) for group in groups),
    )


def _list_touched(normalized: ModelProto, channels: ChannelMap, exclude: Collection[str]) -> Iterator[Labels]:
    """Go through the labels of all that some nodes read and write: weights and activations."""
    yield from (coupling.labels for coupling in channels.couplings if coupling.node in exclude)
    for node in normalized.graph.node:
        if node.name in exclude:
            yield from (channels.labels[name] for name in (*node.input, *node.output) if name in channels.labels)


def match_channels(before: ChannelMap, after: ChannelMap, removed: Collection[int]) -> dict[int, int]:
    """Return which class of the whole network each class of a network without some channels was.

    Args:
        before: Channels of the whole network.
        after: Channels of what is left of it.
        removed: Classes of `before` that went.
    """
    gone = np.fromiter(removed, dtype=np.int64)
    left = {
        (item.node, item.input_index, item.axis): item.labels[~np.isin(item.labels, gone)] for item in before.couplings
    }
    return {
        new: old
        for item in after.couplings
        for new, old in zip(
            item.labels.tolist(), left.get((item.node, item.input_index, item.axis), gone[:0]).tolist(), strict=False
        )
    }
