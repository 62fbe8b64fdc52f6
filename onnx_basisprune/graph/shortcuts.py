"""Write a shortcut that skips positions, and widens by channels of zeros, as a 1×1 Conv with strides.

`pad(x[:, :, ::2, ::2])`, the option A of He et al. (arXiv 1512.03385), costs no multiply-adds and much time:
onnxruntime leaves its blocked layout for a Slice and for a Pad, and comes back behind them. A Conv that selects the
same values stays in it, and takes a tenth off a ResNet-20.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ModelProto, TensorProto

from onnx_basisprune.graph.channel_tracer import UntraceableError
from onnx_basisprune.graph.cost import measure_cost
from onnx_basisprune.graph.editing import edit_graph, list_names, make_unique
from onnx_basisprune.graph.shapes import Shape, infer_shapes, infer_types
from onnx_basisprune.graph.slices_and_pads import read_pads, read_slices

# Of the model's multiply-adds, what one such Conv may add: a wide one would take longer than what it replaces.
_LARGEST_SHARE = 0.01
_RANK = 4
_CHANNELS = 1


@dataclass
class _Shortcut:
    """Nodes that together skip positions and add channels.

    Attributes:
        nodes: A Slice or several, and perhaps a Pad behind them.
        strides: Along both axes of space.
        pads: Channels of zeros before and behind.
    """

    nodes: list[gs.Node]
    strides: list[int]
    pads: tuple[int, int] = (0, 0)


def convolve_shortcuts(model: ModelProto, input_shapes: Mapping[str, Sequence[int]]) -> ModelProto:
    """Return a model whose strided shortcuts are Convs; the model itself where it has none.

    Args:
        model: A normalised model; not changed.
        input_shapes: Shapes of graph inputs by name.
    """
    if not any(node.op_type == "Slice" for node in model.graph.node):
        return model
    shapes, types = infer_shapes(model, input_shapes), infer_types(model)
    largest = _LARGEST_SHARE * measure_cost(model, input_shapes).macs
    taken, found = list_names(model), list[_Shortcut]()

    def change(graph: gs.Graph) -> None:
        for node in list(graph.nodes):
            shortcut = _find_shortcut(node, graph, shapes)
            if shortcut is None or types.get(node.inputs[0].name) != TensorProto.FLOAT:
                continue
            if _count_macs(shortcut, shapes) <= largest:
                _replace(shortcut, graph, shapes, taken)
                found.append(shortcut)

    changed = edit_graph(model, change)
    return changed if found else model


def _find_shortcut(node: gs.Node, graph: gs.Graph, shapes: Mapping[str, Shape]) -> _Shortcut | None:
    """Return the shortcut that begins at a node, `None` where none does."""
    before = node.inputs[0].inputs if node.inputs else []
    if before and _read_strides(before[0], shapes) is not None and _find_only_reader(before[0], graph) is node:
        return None  # it began earlier
    shortcut = _Shortcut([], [1, 1])
    while node is not None and (strides := _read_strides(node, shapes)) is not None:
        shortcut.nodes.append(node)
        shortcut.strides = [one * other for one, other in zip(shortcut.strides, strides, strict=True)]
        node = _find_only_reader(node, graph)
    if shortcut.strides == [1, 1]:
        return None
    if node is not None and (pads := _read_channel_pads(node)) is not None:
        shortcut.nodes.append(node)
        shortcut.pads = pads
    return shortcut


def _find_only_reader(node: gs.Node, graph: gs.Graph) -> gs.Node | None:
    """Return the one node that reads a node's output, if nothing else does."""
    (output,) = node.outputs
    if len(output.outputs) != 1 or any(output is tensor for tensor in graph.outputs):
        return None
    return output.outputs[0]


def _read_strides(node: gs.Node, shapes: Mapping[str, Shape]) -> list[int] | None:
    """Return the strides of a Slice that takes every n-th position from the first on, `None` for any other node."""
    shape = shapes.get(node.inputs[0].name) if node.op == "Slice" else None
    if shape is None or len(shape) != _RANK or not _are_known(node.inputs[1:]):
        return None
    try:
        slices = read_slices(node.attrs, [_get_values(tensor) for tensor in node.inputs[1:]], _RANK)
    except UntraceableError:
        return None
    strides = [1] * _RANK
    for axis, taken in slices.items():
        if taken.start != 0 or taken.stop < shape[axis] or taken.step < 1:
            return None
        strides[axis] = taken.step
    return strides[2:] if strides[:2] == [1, 1] else None


def _read_channel_pads(node: gs.Node) -> tuple[int, int] | None:
    """Return how many channels of zeros a Pad adds before and behind, `None` for any other node."""
    if node.op != "Pad" or not _are_known(node.inputs[1:]) or node.attrs.get("mode", "constant") != "constant":
        return None
    settings = [_get_values(tensor) for tensor in node.inputs[1:]]
    fill = settings[1] if len(settings) > 1 else None
    if node.attrs.get("value", 0.0) != 0.0 or (fill is not None and np.any(fill)):
        return None
    try:
        pads = read_pads(node.attrs, settings, _RANK)
    except UntraceableError:
        return None
    if any(pad != (0, 0) for axis, pad in pads.items() if axis != _CHANNELS):
        return None
    before, behind = pads.get(_CHANNELS, (0, 0))
    return (before, behind) if min(before, behind) >= 0 else None


def _are_known(tensors: Sequence[gs.Tensor]) -> bool:
    """Return whether each tensor is a constant or omitted."""
    return all(isinstance(tensor, gs.Constant) or tensor.is_empty() for tensor in tensors)


def _get_values(tensor: gs.Tensor) -> np.ndarray | None:
    """Return a constant's values, `None` of what is omitted."""
    return tensor.values if isinstance(tensor, gs.Constant) else None


def _count_macs(shortcut: _Shortcut, shapes: Mapping[str, Shape]) -> float:
    """Return the multiply-adds that a shortcut's Conv takes; infinitely many where its output isn't known."""
    source, target = (shapes.get(name, ()) for name in _get_ends(shortcut))
    if len(source) != _RANK or len(target) != _RANK:
        return np.inf
    return float(source[_CHANNELS] * np.prod(target))


def _get_ends(shortcut: _Shortcut) -> tuple[str, str]:
    """Return the names of what a shortcut reads and gives."""
    return shortcut.nodes[0].inputs[0].name, shortcut.nodes[-1].outputs[0].name


def _replace(shortcut: _Shortcut, graph: gs.Graph, shapes: Mapping[str, Shape], taken: set[str]) -> None:
    """Put the Conv in the place of a shortcut's last node."""
    source, last = shortcut.nodes[0].inputs[0], shortcut.nodes[-1]
    channels = shapes[source.name][_CHANNELS]
    weight = np.pad(np.eye(channels, dtype=np.float32), (shortcut.pads, (0, 0)))[:, :, None, None]
    names = [make_unique(f"{last.name}.conv{suffix}", taken) for suffix in ("", ".weight")]
    taken.update(names)
    conv = gs.Node(
        "Conv",
        names[0],
        {"kernel_shape": [1, 1], "strides": shortcut.strides},
        inputs=[source, gs.Constant(names[1], weight)],
        outputs=list(last.outputs),
    )
    graph.nodes[graph.nodes.index(last)] = conv
    last.outputs.clear()
