"""Write a shortcut that skips positions, and widens by channels of zeros, as a 1×1 Conv with strides.

`pad(x[:, :, ::2, ::2])`, the option A of He et al. (arXiv 1512.03385), costs no multiply-adds and much time:
onnxruntime leaves its blocked layout for a Slice and for a Pad, and comes back behind them. A Conv that selects the
same values stays in it, and takes a tenth off a ResNet-20.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf, prod

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ModelProto, TensorProto

from onnx_basisprune.graph.channel_tracer import UntraceableError
from onnx_basisprune.graph.editing import edit_graph, find_only_reader, list_names, make_unique
from onnx_basisprune.graph.shapes import Shape, infer_dimensions, infer_shapes, infer_types
from onnx_basisprune.graph.slices_and_pads import read_pads, read_slices

# Of the model's multiply-adds, what one such Conv may add: a wide one would take longer than what it replaces.
_LARGEST_SHARE = 0.01
_LARGEST_STRIDE = 16
# From here on, an end means whatever there is.
_NO_END = 2**31 - 1
_RANK = 4
_CHANNELS = 1

Dimensions = Mapping[str, tuple[int | None, ...]]


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


def convolve_shortcuts(
    model: ModelProto, input_shapes: Mapping[str, Sequence[int]], macs: int, exclude: Collection[str] = ()
) -> ModelProto:
    """Return a model whose strided shortcuts are Convs, the same for finite values; the model itself without any.

    A shortcut goes around a Conv, alone: several Slices of one tensor may move all of it elsewhere.

    Args:
        model: A normalised model; not changed.
        input_shapes: Shapes of graph inputs by name.
        macs: Its multiply-adds for one image.
        exclude: Nodes that stay.
    """
    convolved = {node.input[0] for node in model.graph.node if node.op_type == "Conv"}
    sources = {node.input[0] for node in model.graph.node if node.op_type == "Slice"} & convolved
    if not sources:  # else all weights would be copied to change nothing
        return model
    shapes, types = infer_shapes(model, input_shapes), infer_types(model)
    # Sizes that depend on the input are unknown here: what an end cuts off one image, it may leave of another.
    dimensions, taken, is_changed = infer_dimensions(model), list_names(model), False

    def change(graph: gs.Graph) -> None:
        nonlocal is_changed
        for source in [tensor for name, tensor in graph.tensors().items() if name in sources]:
            readers = [node for node in source.outputs if node.inputs[0] is source]
            found = [item for node in readers if (item := _find_shortcut(node, graph, dimensions)) is not None]
            if len(found) != 1 or not source.inputs or types.get(source.name) != TensorProto.FLOAT:
                continue
            is_free = not any(node.name in exclude for node in found[0].nodes)
            if is_free and _count_macs(found[0], shapes) <= _LARGEST_SHARE * macs:
                _replace(found[0], graph, shapes, taken)
                is_changed = True

    changed = edit_graph(model, change)
    return changed if is_changed else model


def _find_shortcut(node: gs.Node, graph: gs.Graph, dimensions: Dimensions) -> _Shortcut | None:
    """Return the shortcut that begins at a node, `None` where none does."""
    shortcut, follower = _Shortcut([], [1, 1]), node
    while follower is not None and (strides := _read_strides(follower, dimensions)) is not None:
        shortcut.nodes.append(follower)
        shortcut.strides = [one * other for one, other in zip(shortcut.strides, strides, strict=True)]
        follower = find_only_reader(follower, graph)
    if max(shortcut.strides) not in range(2, _LARGEST_STRIDE + 1):
        return None
    if follower is not None and (pads := _read_channel_pads(follower)) is not None:
        shortcut.nodes.append(follower)
        shortcut.pads = pads
    return shortcut


def _read_strides(node: gs.Node, dimensions: Dimensions) -> list[int] | None:
    """Return the strides of a Slice that takes every n-th position from the first on, `None` for any other node."""
    sizes = dimensions.get(node.inputs[0].name) if node.op == "Slice" else None
    if sizes is None or len(sizes) != _RANK or not _are_known(node.inputs[1:]):
        return None
    try:
        slices = read_slices(node.attrs, [_get_values(tensor) for tensor in node.inputs[1:]], _RANK)
    except UntraceableError:
        return None
    strides = [1] * _RANK
    for axis, taken in slices.items():
        size = sizes[axis]
        if taken.start != 0 or taken.stop < (_NO_END if size is None else size) or taken.step < 1:
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
    """Return the multiply-adds of a shortcut's Conv for one image; infinitely many where its output isn't known."""
    ends = shortcut.nodes[0].inputs[0], shortcut.nodes[-1].outputs[0]
    source, target = (shapes.get(tensor.name, ()) for tensor in ends)
    if len(source) != _RANK or len(target) != _RANK:
        return inf
    return float(source[_CHANNELS] * prod(target[1:]))


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
    position = next(index for index, node in enumerate(graph.nodes) if node is last)
    graph.nodes[position] = conv
    last.outputs.clear()
