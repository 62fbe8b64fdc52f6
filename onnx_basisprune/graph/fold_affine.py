"""Fold per-channel affine nodes into the Conv before them.

    z = scale · y + shift,  y = W x + b   →   z = (scale·W) x + (scale·b + shift)

with `scale` and `shift` of shape [C_out]. BatchNormalization has scale = gamma / sqrt(var + epsilon) and
shift = beta - scale · mean; Mul, Div, Add and Sub by a constant that is one number per channel are the other cases.
Computed in float64, stored in the weight's dtype.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_basisprune.graph.editing import find_only_reader, make_unique

Vector = NDArray[np.float64]

_DEFAULT_EPSILON = 1e-5


def fold_affine_nodes(graph: gs.Graph, taken: set[str]) -> None:
    """Fold every affine node that follows a Conv whose output nothing else reads, in place.

    Args:
        graph: A skeleton; its Constant nodes must be initializers, and no two Convs may share a weight or bias.
        taken: Names in use; those of new biases are added.
    """
    for conv in [node for node in graph.nodes if node.op == "Conv"]:
        while (reader := find_only_reader(conv, graph)) is not None:
            with np.errstate(all="ignore"):  # what isn't finite in the end is refused
                affine = _read_affine(reader, conv)
                if affine is None or not _apply_affine(conv, reader, *affine, taken):
                    break
            graph.nodes.remove(reader)


def _is_known(tensor: gs.Tensor) -> bool:
    """Return whether a tensor is a floating-point constant."""
    return isinstance(tensor, gs.Constant) and bool(np.issubdtype(tensor.dtype, np.floating))


def _read_affine(node: gs.Node, conv: gs.Node) -> tuple[Vector, Vector] | None:
    """Return `(scale, shift)`, each `[C_out]`, of a node that maps a Conv's output, else `None`.

    Weight and bias of the Conv must be constants too.
    """
    if not all(_is_known(tensor) for tensor in conv.inputs[1:] if not tensor.is_empty()):
        return None
    channels, rank = conv.inputs[1].shape[0], len(conv.inputs[1].shape)
    if node.op == "BatchNormalization":
        return _read_batch_normalization(node, channels)
    if node.op not in ("Mul", "Div", "Add", "Sub") or len(node.inputs) != 2:
        return None
    position = 0 if node.inputs[0] is conv.outputs[0] else 1
    other = node.inputs[1 - position]
    if not _is_known(other):
        return None
    value = _read_channel_vector(other.values, channels, rank)
    if value is None:
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op == "Mul":
        return value, zero
    if node.op == "Add":
        return one, value
    if node.op == "Sub":
        return (one, -value) if position == 0 else (-one, value)
    if position == 1 or np.any(value == 0):  # a constant divided by y isn't affine
        return None
    return 1.0 / value, zero


def _read_batch_normalization(node: gs.Node, channels: int) -> tuple[Vector, Vector] | None:
    """Return `(scale, shift)` of an inference-mode BatchNormalization over the channel axis."""
    # Before opset 14 further outputs are what tells training from inference.
    in_training = node.attrs.get("training_mode", 0) or any(not output.is_empty() for output in node.outputs[1:])
    if in_training or not node.attrs.get("spatial", 1):
        return None
    if len(node.inputs) != 5 or not all(_is_known(tensor) for tensor in node.inputs[1:]):
        return None
    gamma, beta, mean, variance = (tensor.values.astype(np.float64) for tensor in node.inputs[1:])
    if any(item.shape != (channels,) for item in (gamma, beta, mean, variance)) or np.any(variance < 0):
        return None
    scale = gamma / np.sqrt(variance + node.attrs.get("epsilon", _DEFAULT_EPSILON))
    return scale, beta - scale * mean


def _read_channel_vector(value: NDArray[np.floating], channels: int, rank: int) -> Vector | None:
    """Return a constant as one number per channel if that is how it broadcasts over `[N, C, ...]`."""
    if value.ndim > rank:
        return None
    shape = (1,) * (rank - value.ndim) + value.shape
    if any(size != 1 for axis, size in enumerate(shape) if axis != 1) or shape[1] not in (1, channels):
        return None
    vector: Vector = np.broadcast_to(value.astype(np.float64).reshape(-1), (channels,)).copy()
    return vector


def _apply_affine(conv: gs.Node, reader: gs.Node, scale: Vector, shift: Vector, taken: set[str]) -> bool:
    """Write `scale·W` and `scale·b + shift` into the Conv and let it produce the reader's output.

    Returns:
        Whether that was possible: nothing is changed where a value would leave the weight's range.
    """
    weight = conv.inputs[1]
    W = weight.values.astype(np.float64)
    has_bias = len(conv.inputs) > 2 and not conv.inputs[2].is_empty()
    b = conv.inputs[2].values.astype(np.float64) if has_bias else np.zeros(len(scale))
    folded_weight = (scale.reshape(-1, *(1,) * (W.ndim - 1)) * W).astype(weight.dtype)
    folded_bias = (scale * b + shift).astype(weight.dtype)
    if not (np.isfinite(folded_weight).all() and np.isfinite(folded_bias).all()):
        return False
    bias_name = conv.inputs[2].name if has_bias else make_unique(f"{weight.name}.bias", taken)
    taken.add(bias_name)
    conv.inputs = [
        conv.inputs[0],
        gs.Constant(weight.name, folded_weight),
        gs.Constant(bias_name, folded_bias),
    ]
    output = reader.outputs[0]
    reader.inputs.clear()
    reader.outputs.clear()
    conv.outputs = [output]
    return True
