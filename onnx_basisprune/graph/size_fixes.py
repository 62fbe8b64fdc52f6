"""Put right what a node states about sizes after channels were removed: groups, split sizes, slices, pads, shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_basisprune.graph.size_context import Site, SizeContext
from onnx_basisprune.graph.slices_and_pads import read_pads, read_slices

# What a vector of sizes goes through: op_type → the inputs that hold the sizes. PyTorch's older exporter writes an
# expansion to sizes of which -1 means "as it is" with Where.
_PASSED_OVER = {
    "Cast": (0,), "Identity": (0,), "Reshape": (0,), "Squeeze": (0,), "Unsqueeze": (0,), "Where": (1, 2),
}  # fmt: skip
# From this opset on, what Split and Squeeze are told is an input.
_FIRST_SETTING_INPUTS = 13
# Position in a vector of sizes → the size before and after.
_Changes = dict[int, tuple[int, int]]

SizeFix = Callable[[gs.Node, SizeContext, Site], None]


def _replace_constant(node: gs.Node, index: int, values: NDArray[np.int64], site: Site) -> None:
    """Give a node its own copy of a constant with new values."""
    old = node.inputs[index]
    node.inputs[index] = gs.Constant(site.name(old.name), values.astype(old.values.dtype))


def fix_conv(node: gs.Node, context: SizeContext, site: Site) -> None:  # noqa: ARG001 - fixes share one signature
    """A depthwise Conv or ConvTranspose has as many groups as input channels stay."""
    group = node.attrs.get("group", 1)
    if group > 1 and group == context.shapes[node.inputs[0].name][1]:
        node.attrs["group"] = context.new_shape(node.inputs[0].name)[1]


def fix_target_shape(node: gs.Node, context: SizeContext, site: Site) -> None:
    """Reshape and Expand: literal sizes of the cut axis, in a constant or among the parts of a Concat."""
    rank = len(context.shapes[node.outputs[0].name])
    # The target of an Expand may leave out the first axes.
    count = _count(node.inputs[1], context) if node.op == "Expand" else rank
    if count is not None:
        _state_shape(node, 1, range(rank - count, rank), context, site)


def fix_resize(node: gs.Node, context: SizeContext, site: Site) -> None:
    """A Resize with literal sizes states those of the channels too."""
    if len(node.inputs) > 3 and not node.inputs[3].is_empty():
        rank = len(context.shapes[node.outputs[0].name])
        axes = [axis % rank for axis in node.attrs.get("axes") or range(rank)]
        _state_shape(node, 3, axes, context, site)


def _state_shape(node: gs.Node, index: int, axes: Iterable[int], context: SizeContext, site: Site) -> None:
    """Let a node read the new sizes of its output, of some axes in this order, where it read literal ones."""
    output = node.outputs[0].name
    old, new = context.shapes[output], context.new_shape(output)
    changes = {at: (old[axis], new[axis]) for at, axis in enumerate(axes) if axis >= 0 and old[axis] != new[axis]}
    changed = _change_sizes(node.inputs[index], changes, context, site) if changes else None
    if changed is not None:
        node.inputs[index] = changed


def _change_sizes(
    tensor: gs.Tensor, changes: _Changes, context: SizeContext, site: Site, *, is_shared: bool = False
) -> gs.Tensor | None:
    """Return a vector with other literal sizes, `None` where it has none of them.

    What others read as well, and all that it is computed from (`is_shared`), is copied: for them nothing changes.
    """
    if isinstance(tensor, gs.Constant):
        values = tensor.values.copy()
        for position, (before, after) in changes.items():
            if position < values.size and values.flat[position] == before:
                values.flat[position] = after
        return None if np.array_equal(values, tensor.values) else gs.Constant(site.name(tensor.name), values)
    if not tensor.inputs:
        return None
    producer = tensor.inputs[0]
    is_shared = is_shared or len(tensor.outputs) > 1 or any(tensor is output for output in site.graph.outputs)
    inputs, is_changed = list(producer.inputs), False
    for index, inside in _list_parts(producer, changes, context):
        part = _change_sizes(inputs[index], inside, context, site, is_shared=is_shared)
        if part is not None:
            inputs[index], is_changed = part, True
    if not is_changed:
        return None
    if is_shared:
        return site.copy_node(producer, inputs)
    producer.inputs = inputs
    return tensor


def _list_parts(producer: gs.Node, changes: _Changes, context: SizeContext) -> Iterator[tuple[int, _Changes]]:
    """Go through the inputs of what computes a vector of sizes that hold some of them, with the changes in each."""
    for index in _PASSED_OVER.get(producer.op, ()):
        yield index, changes
    if producer.op == "Concat":
        for part, start, end in _place_parts(producer, context):
            inside = {at - start: change for at, change in changes.items() if start <= at < end}
            if inside:
                yield part, inside


def _count(tensor: gs.Tensor, context: SizeContext) -> int | None:
    """Return how many elements a vector has, `None` where that isn't known."""
    shape = tensor.values.shape if isinstance(tensor, gs.Constant) else context.shapes.get(tensor.name)
    return shape[0] if shape else None


def _place_parts(node: gs.Node, context: SizeContext) -> Iterator[tuple[int, int, int]]:
    """Give each part of a joined vector with the positions where it starts and ends, as far as sizes are known."""
    start = 0
    for part, item in enumerate(node.inputs):
        count = _count(item, context)
        if count is None:  # the check of all shapes will tell what couldn't be placed
            return
        yield part, start, start + count
        start += count


def fix_split(node: gs.Node, context: SizeContext, site: Site) -> None:
    """State the sizes of the parts."""
    x = node.inputs[0].name
    axis = node.attrs.get("axis", 0) % len(context.shapes[x])
    if context.cut_axis(x) != axis:
        return
    sizes = np.array([context.new_shape(output.name)[axis] for output in node.outputs], dtype=np.int64)
    if "split" in node.attrs:
        node.attrs["split"] = sizes.tolist()
    elif len(node.inputs) > 1 and not node.inputs[1].is_empty():
        _replace_constant(node, 1, sizes, site)
    elif len(set(sizes.tolist())) > 1:  # parts that were equal, and are no longer
        if context.opset < _FIRST_SETTING_INPUTS:
            node.attrs["split"] = sizes.tolist()
            return
        node.attrs.pop("num_outputs", None)
        node.inputs = [node.inputs[0], gs.Constant(site.name(f"{node.name}.split"), sizes)]


def fix_slice(node: gs.Node, context: SizeContext, site: Site) -> None:
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
        _turn_into_gather(node, axis, _renumber(positions[stays[positions]], stays), site)
        return
    slices[axis] = slice(int(stays[:first].sum()), int(stays[:last].sum()))
    starts, ends = ([getattr(item, end) for item in slices.values()] for end in ("start", "stop"))
    if "starts" in node.attrs:
        node.attrs["starts"], node.attrs["ends"] = starts, ends
    else:
        _replace_constant(node, 1, np.array(starts), site)
        _replace_constant(node, 2, np.array(ends), site)


def _turn_into_gather(node: gs.Node, axis: int, indices: NDArray[np.int64], site: Site) -> None:
    """Let a node take positions of its first input; its name tells that it is another node than the original's."""
    node.name = site.name(f"{node.name}.gather")
    node.op, node.attrs = "Gather", {"axis": axis}
    node.inputs = [node.inputs[0], gs.Constant(site.name(f"{node.name}.indices"), indices)]


def fix_gather(node: gs.Node, context: SizeContext, site: Site) -> None:
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
    _replace_constant(node, 1, _renumber(indices, stays), site)


def _renumber(positions: NDArray[np.int64], stays: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return where positions that stay are after the others went."""
    return np.asarray(np.cumsum(stays)[positions] - 1, dtype=np.int64)


def _read_settings(node: gs.Node) -> list[NDArray[np.generic] | None]:
    """Return a node's inputs from the second on, which are constants, `None` where one is omitted."""
    return [item.values if isinstance(item, gs.Constant) else None for item in node.inputs[1:]]


def fix_pad(node: gs.Node, context: SizeContext, site: Site) -> None:
    """A Pad of the channel axis adds what stays of what it added."""
    x, output = node.inputs[0].name, node.outputs[0].name
    # Where it takes channels away, those that go may be among them, or those that stay.
    axis = context.cut_axis(x) if context.is_cut(x) else context.cut_axis(output)
    if axis is None:
        return
    pads = read_pads(node.attrs, _read_settings(node), len(context.shapes[x]))
    if not any(pads.get(axis, (0, 0))):
        return
    before, after = pads[axis]
    pads[axis] = (_count_padded(before, context, x, output), _count_padded(after, context, x, output, at_end=True))
    values = [pair[end] for end in (0, 1) for pair in pads.values()]
    if "pads" in node.attrs:
        node.attrs["pads"] = values
    else:
        _replace_constant(node, 1, np.array(values), site)


def _count_padded(count: int, context: SizeContext, x: str, output: str, *, at_end: bool = False) -> int:
    """Return how many channels a Pad adds at one end after the removal; it takes some away where it is negative."""
    stays = context.stays(output if count > 0 else x).reshape(-1)
    left = int((stays[len(stays) - abs(count) :] if at_end else stays[: abs(count)]).sum())
    return left if count > 0 else -left


def fix_squeeze(node: gs.Node, context: SizeContext, site: Site) -> None:
    """A Squeeze of all axes of size 1 states them where one channel is left, whose axis stays."""
    name = node.inputs[0].name
    axis = context.cut_axis(name)
    if "axes" in node.attrs or len(node.inputs) > 1 or axis is None or context.new_shape(name)[axis] > 1:
        return
    axes = [axis for axis, size in enumerate(context.shapes[name]) if size == 1]
    if context.opset < _FIRST_SETTING_INPUTS:
        node.attrs["axes"] = axes
    else:
        node.inputs = [node.inputs[0], gs.Constant(site.name(f"{node.name}.axes"), np.array(axes, dtype=np.int64))]


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
    "Squeeze": fix_squeeze,
}
