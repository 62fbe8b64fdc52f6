"""Put right what a node states about sizes after channels were removed: groups, split sizes, slices, pads, shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_basisprune.graph.editing import make_unique
from onnx_basisprune.graph.shapes import Shape
from onnx_basisprune.graph.slices_and_pads import read_pads, read_slices
from onnx_basisprune.planning.channels import Labels, varying_axes

# What a vector of sizes goes through: op_type → the inputs that hold the sizes. PyTorch's older exporter writes an
# expansion to sizes of which -1 means "as it is" with Where.
_PASSED_OVER = {
    "Cast": (0,), "Identity": (0,), "Reshape": (0,), "Squeeze": (0,), "Unsqueeze": (0,), "Where": (1, 2),
}  # fmt: skip
_FIRST_SPLIT_INPUT = 13


@dataclass(frozen=True)
class SizeContext:
    """Sizes before and after.

    Attributes:
        shapes: Before, by tensor.
        labels: Labels of traced tensors.
        gone: Removed classes.
        opset: Of the model.
    """

    shapes: Mapping[str, Shape]
    labels: Mapping[str, Labels]
    gone: NDArray[np.int64]
    opset: int

    def stays(self, name: str) -> NDArray[np.bool_]:
        """Return which positions of a traced tensor stay, in the shape of its labels."""
        return np.asarray(~np.isin(self.labels[name], self.gone))

    def is_cut(self, name: str) -> bool:
        """Return whether a tensor loses channels."""
        return name in self.labels and not bool(self.stays(name).all())

    def cut_axis(self, name: str) -> int | None:
        """Return the axis on which a tensor loses channels."""
        return varying_axes(self.labels[name])[0] if self.is_cut(name) else None

    def new_shape(self, name: str) -> Shape:
        """Return a tensor's shape afterwards; without labels, it keeps the one it has."""
        shape = list(self.shapes[name])
        axis = self.cut_axis(name)
        if axis is not None:
            shape[axis] = int(self.stays(name).sum())
        return tuple(shape)


SizeFix = Callable[[gs.Node, SizeContext, set[str]], None]


def _replace_constant(node: gs.Node, index: int, values: NDArray[np.int64], taken: set[str]) -> None:
    """Give a node its own copy of a constant with new values."""
    old = node.inputs[index]
    name = make_unique(old.name, taken)
    taken.add(name)
    node.inputs[index] = gs.Constant(name, values.astype(old.values.dtype))


def fix_conv(node: gs.Node, context: SizeContext, taken: set[str]) -> None:  # noqa: ARG001 - fixes share one signature
    """A depthwise Conv or ConvTranspose has as many groups as input channels stay."""
    group = node.attrs.get("group", 1)
    if group > 1 and group == context.shapes[node.inputs[0].name][1]:
        node.attrs["group"] = context.new_shape(node.inputs[0].name)[1]


def fix_target_shape(node: gs.Node, context: SizeContext, taken: set[str]) -> None:
    """Reshape and Expand: literal sizes of the cut axis, in a constant or among the parts of a Concat."""
    output = node.outputs[0].name
    old, new = context.shapes.get(output), context.new_shape(output) if output in context.labels else None
    if old is None or new is None:
        return
    changes = {
        axis: (before, after) for axis, (before, after) in enumerate(zip(old, new, strict=True)) if before != after
    }
    _fix_shape_vector(node, 1, changes, context, taken)


def _fix_shape_vector(
    node: gs.Node, index: int, changes: dict[int, tuple[int, int]], context: SizeContext, taken: set[str]
) -> None:
    """Replace literal sizes in the vector that a node reads, `changes`: position → (old, new)."""
    tensor = node.inputs[index]
    if isinstance(tensor, gs.Constant):
        values = tensor.values.copy()
        for position, (before, after) in changes.items():
            if position < values.size and values.flat[position] == before:
                values.flat[position] = after
        if not np.array_equal(values, tensor.values):
            _replace_constant(node, index, values, taken)
        return
    if not tensor.inputs:
        return
    producer = tensor.inputs[0]
    for held in _PASSED_OVER.get(producer.op, ()):
        _fix_shape_vector(producer, held, changes, context, taken)
    if producer.op == "Concat":
        for part, start, end in _place_parts(producer, context):
            inside = {at - start: change for at, change in changes.items() if start <= at < end}
            if inside:
                _fix_shape_vector(producer, part, inside, context, taken)


def _place_parts(node: gs.Node, context: SizeContext) -> Iterator[tuple[int, int, int]]:
    """Give each part of a joined vector with the positions where it starts and ends, as far as sizes are known."""
    start = 0
    for part, item in enumerate(node.inputs):
        shape = item.values.shape if isinstance(item, gs.Constant) else context.shapes.get(item.name)
        if not shape:  # the check of all shapes will tell what couldn't be placed
            return
        yield part, start, start + shape[0]
        start += shape[0]


def fix_split(node: gs.Node, context: SizeContext, taken: set[str]) -> None:
    """State the sizes of the parts."""
    x = node.inputs[0].name
    axis = node.attrs.get("axis", 0) % len(context.shapes[x])
    if context.cut_axis(x) != axis:
        return
    sizes = np.array([context.new_shape(output.name)[axis] for output in node.outputs], dtype=np.int64)
    if "split" in node.attrs:
        node.attrs["split"] = sizes.tolist()
    elif len(node.inputs) > 1 and not node.inputs[1].is_empty():
        _replace_constant(node, 1, sizes, taken)
    elif len(set(sizes.tolist())) > 1:  # parts that were equal, and are no longer
        if context.opset < _FIRST_SPLIT_INPUT:
            node.attrs["split"] = sizes.tolist()
            return
        node.attrs.pop("num_outputs", None)
        name = make_unique(f"{node.name}.split", taken)
        taken.add(name)
        node.inputs = [node.inputs[0], gs.Constant(name, sizes)]


def fix_slice(node: gs.Node, context: SizeContext, taken: set[str]) -> None:
    """A Slice of the channel axis takes what stays of what it took; one with steps lists it, as a Gather."""
    x = node.inputs[0].name
    axis = context.cut_axis(x)
    if axis is None:
        return
    slices = read_slices(node.attrs, _read_settings(node), len(context.shapes[x]))
    if axis not in slices:
        return
    stays = context.stays(x).reshape(-1)
    first, last, step = slices[axis].indices(len(stays))
    if step != 1:
        positions = np.arange(first, last, step)
        _turn_into_gather(node, axis, _renumber(positions[stays[positions]], stays), taken)
        return
    slices[axis] = slice(int(stays[:first].sum()), int(stays[:last].sum()))
    starts, ends = ([getattr(item, end) for item in slices.values()] for end in ("start", "stop"))
    if "starts" in node.attrs:
        node.attrs["starts"], node.attrs["ends"] = starts, ends
    else:
        _replace_constant(node, 1, np.array(starts), taken)
        _replace_constant(node, 2, np.array(ends), taken)


def _turn_into_gather(node: gs.Node, axis: int, indices: NDArray[np.int64], taken: set[str]) -> None:
    """Let a node take positions of its first input; its name tells that it is another node than the original's."""
    node.name = make_unique(f"{node.name}.gather", taken)
    taken.add(node.name)
    name = make_unique(f"{node.name}.indices", taken)
    taken.add(name)
    node.op, node.attrs, node.inputs = "Gather", {"axis": axis}, [node.inputs[0], gs.Constant(name, indices)]


def fix_gather(node: gs.Node, context: SizeContext, taken: set[str]) -> None:
    """A Gather from the channel axis takes what stays of what it took, by its new positions."""
    x, output = node.inputs[0].name, node.outputs[0].name
    axis = node.attrs.get("axis", 0) % len(context.shapes[x])
    if context.cut_axis(x) != axis:
        return
    stays = context.stays(x).reshape(-1)
    indices = node.inputs[1].values
    cut = context.cut_axis(output)
    if cut is not None:
        indices = indices.take(np.flatnonzero(context.stays(output)), axis=cut - axis)
    _replace_constant(node, 1, _renumber(indices, stays), taken)


def _renumber(positions: NDArray[np.int64], stays: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return where positions that stay are after the others went."""
    return np.asarray(np.cumsum(stays)[positions] - 1, dtype=np.int64)


def _read_settings(node: gs.Node) -> list[NDArray[np.generic] | None]:
    """Return a node's inputs from the second on, which are constants, `None` where one is omitted."""
    return [item.values if isinstance(item, gs.Constant) else None for item in node.inputs[1:]]


def fix_pad(node: gs.Node, context: SizeContext, taken: set[str]) -> None:
    """A Pad of the channel axis adds what stays of what it added."""
    x, output = node.inputs[0].name, node.outputs[0].name
    axis = context.cut_axis(output)
    if axis is None:
        return
    pads = read_pads(node.attrs, _read_settings(node), len(context.shapes[x]))
    if not any(pads.get(axis, (0, 0))):
        return
    before, after = pads[axis]
    stays = context.stays(output).reshape(-1)
    pads[axis] = (int(stays[:before].sum()), int(stays[len(stays) - after :].sum()))
    values = [pair[end] for end in (0, 1) for pair in pads.values()]
    if "pads" in node.attrs:
        node.attrs["pads"] = values
    else:
        _replace_constant(node, 1, np.array(values), taken)


def fix_resize(node: gs.Node, context: SizeContext, taken: set[str]) -> None:
    """A Resize with literal sizes states those of the channels too."""
    if len(node.inputs) > 3 and not node.inputs[3].is_empty() and not node.attrs.get("axes"):
        output = node.outputs[0].name
        changes = dict(enumerate(zip(context.shapes[output], context.new_shape(output), strict=True)))
        _fix_shape_vector(node, 3, {at: pair for at, pair in changes.items() if pair[0] != pair[1]}, context, taken)


SIZE_FIXES: dict[str, SizeFix] = {
    "Conv": fix_conv,
    "ConvTranspose": fix_conv,
    "Expand": fix_target_shape,
    "Gather": fix_gather,
    "Pad": fix_pad,
    "Reshape": fix_target_shape,
    "Resize": fix_resize,
    "Slice": fix_slice,
    "Split": fix_split,
}
