"""Which consumers can be compensated for removed channels, and their new weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.calibration.gradient_pass import ReadEdge
from onnx_basisprune.graph.channel_tracer import Read
from onnx_basisprune.graph.shapes import infer_shapes
from onnx_basisprune.network import Network
from onnx_basisprune.planning.compensation import ReadStatistics, regress_removed
from onnx_basisprune.planning.types import Operation

Vector = NDArray[np.float64]

# Wider inputs aren't compensated: their moments would take over 128 MiB.
_WIDEST = 4096


@dataclass(frozen=True)
class CompensatedRead:
    """A read whose consumer's weights can take over what removed channels told it.

    Attributes:
        read: The place.
        tensor: What is read.
        weight: The consumer's weight.
        bias: The consumer's own bias that takes the constant, `""` for none.
        padded: Share of its taps that read zero padding.
    """

    read: Read
    tensor: str
    weight: str
    bias: str
    padded: float

    @property
    def edge(self) -> ReadEdge:
        """The node and which of its inputs."""
        return self.read.node, self.read.input_index


def list_compensated(network: Network) -> tuple[CompensatedRead, ...]:
    """Return the reads whose consumers can be compensated for channels that may go.

    Not those of grouped Convs, of weights or inputs that several nodes share in other ways, or of inputs that are too
    wide for their moments.
    """
    shapes = infer_shapes(network.model, network.input_shapes)
    readers = Counter(name for operation in network.program.operations for name in operation.inputs)
    removable = network.channels.removable
    found = []
    for read in network.channels.reads:
        operation = network.operations[read.node]
        tensor = operation.inputs[read.input_index]
        if read.weight_index < 0 or len(read.labels) > _WIDEST or not np.isin(read.labels, removable).any():
            continue
        weight = operation.inputs[read.weight_index]
        if int(operation.attributes.get("group", 1)) != 1 or readers[weight] != 1:
            continue
        bias = operation.inputs[2] if operation.op_type in ("Conv", "Gemm") and len(operation.inputs) > 2 else ""
        values = network.program.initializers.get(bias)
        outputs = shapes[operation.outputs[0]][1:2]  # a Gemm may broadcast a single value
        if (
            values is None
            or bias in network.program.defaults
            or values.shape != outputs
            or readers[bias] != 1
            or operation.attributes.get("beta", 1.0) == 0.0
        ):
            bias = ""
        kernel = network.program.initializers[weight].shape[2:]
        padded = measure_padding(operation, shapes[tensor][2:], shapes[operation.outputs[0]][2:], kernel)
        found.append(CompensatedRead(read, tensor, weight, bias, padded))
    return tuple(found)


def measure_padding(operation: Operation, before: Sequence[int], after: Sequence[int], kernel: Sequence[int]) -> float:
    """Return the share of a Conv's taps, over all output positions, that read zero padding; 0 for other ops.

    Args:
        operation: The consumer.
        before: Spatial sizes of its input.
        after: Spatial sizes of its output.
        kernel: Spatial sizes of its kernel.
    """
    if operation.op_type != "Conv":
        return 0.0
    rank = len(kernel)
    strides = operation.attributes.get("strides") or [1] * rank
    dilations = operation.attributes.get("dilations") or [1] * rank
    inside = 1.0
    for axis in range(rank):
        span = (after[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        begin = _read_begin(operation, axis, max(0, span - before[axis]))
        taps = np.arange(after[axis])[:, None] * strides[axis] + np.arange(kernel[axis]) * dilations[axis] - begin
        inside *= float(np.mean((taps >= 0) & (taps < before[axis])))
    return 1.0 - inside


def _read_begin(operation: Operation, axis: int, total: int) -> int:
    """Return the padding before an axis, of the total that the sizes tell."""
    auto_pad = operation.attributes.get("auto_pad", "NOTSET")
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        return total // 2 if auto_pad == "SAME_UPPER" else (total + 1) // 2
    pads = operation.attributes.get("pads")
    return 0 if auto_pad == "VALID" or not pads else int(pads[axis])


def compensate_weights(
    network: Network,
    reads: Sequence[CompensatedRead],
    statistics: Mapping[str, ReadStatistics],
    removed: NDArray[np.int64],
) -> tuple[dict[str, NDArray[np.float64]], dict[str, Vector]]:
    """Fold what removed channels told their consumers into the weights of the kept ones.

    Returns:
        New weights by initializer name, in their old shapes, and by node name what its bias takes, `[outputs]`.
    """
    weights: dict[str, NDArray[np.float64]] = {}
    shifts: dict[str, Vector] = {}
    for item in reads:
        kept = ~np.isin(item.read.labels, removed)
        if kept.all() or not kept.any():
            continue
        W = network.program.initializers[item.weight].astype(np.float64)
        by_channel = np.moveaxis(W, item.read.weight_axis, 0)
        flat = by_channel.reshape(len(kept), -1)
        C, t = regress_removed(statistics[item.tensor], kept, flat @ flat.T, item.padded, bool(item.bias))
        changed = flat.copy()
        changed[kept] += C.T @ flat[~kept]
        weights[item.weight] = np.moveaxis(changed.reshape(by_channel.shape), 0, item.read.weight_axis)
        if np.any(t):
            # [outputs, *kernel] of a Conv, [outputs] of a Gemm: the constant is the same at every tap.
            lost = np.tensordot(t, by_channel[~kept], axes=1)
            attributes = network.operations[item.read.node].attributes
            factor = attributes.get("alpha", 1.0) / attributes.get("beta", 1.0)
            shifts[item.read.node] = factor * lost.reshape(len(lost), -1).sum(axis=1)
    return weights, shifts
