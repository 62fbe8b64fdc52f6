"""Remove coupled channels: slice every weight along its axes, and put right what states a size."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import ModelProto

from onnx_basisprune.errors import ModelError
from onnx_basisprune.graph.dependency import ChannelMap, DependencyGroup
from onnx_basisprune.graph.editing import edit_graph
from onnx_basisprune.graph.lazy_weights import cut_constant
from onnx_basisprune.graph.model_io import read_opset
from onnx_basisprune.graph.shapes import Shape, infer_shapes
from onnx_basisprune.graph.size_context import Site, SizeContext
from onnx_basisprune.graph.size_fixes import SIZE_FIXES
from onnx_basisprune.graph.tensors import drop_weights

InputShapes = Mapping[str, Sequence[int]]


class SurgeryError(ModelError):
    """Channels can't be removed: a size that depends on them can't be put right."""


@dataclass(frozen=True)
class _Cut:
    """What stays of one weight: axis → kept positions."""

    keep: dict[int, tuple[int, ...]]


def remove_channels(
    model: ModelProto, channel_map: ChannelMap, removed: Collection[int], input_shapes: InputShapes | None = None
) -> ModelProto:
    """Return a copy of the model without some coupled channels.

    Args:
        model: The normalised model that was mapped; not changed. Without its weights' data (see `drop_weights`) what
            is returned is without them, too.
        channel_map: Its channels.
        removed: Classes that go, elements of `DependencyGroup.channels`.
        input_shapes: As for `map_channels`.

    Raises:
        SurgeryError: A tensor would lose all its channels, or its shape wouldn't be what the removal makes it.
    """
    gone = np.fromiter(removed, dtype=np.int64)
    shapes = infer_shapes(model, input_shapes)
    cuts = _find_cuts(channel_map, gone)
    context = SizeContext(shapes, channel_map.labels, gone, read_opset(model))

    def change(graph: gs.Graph) -> None:
        nodes = {node.name: node for node in graph.nodes}
        site = Site(graph)
        _cut_weights(site, nodes, cuts)
        for node in list(graph.nodes):
            fix = SIZE_FIXES.get(node.op) if node.domain in (None, "", "ai.onnx") else None
            if fix is not None and any(context.is_cut(tensor.name) for tensor in [*node.inputs, *node.outputs]):
                fix(node, context, site)

    result = edit_graph(model, change)
    _forget_shapes(result, context)
    _check_shapes(result, infer_shapes(result, input_shapes), context)
    return result


def _find_cuts(channel_map: ChannelMap, gone: NDArray[np.int64]) -> dict[tuple[str, int], _Cut]:
    """Return what stays of each weight, by node and input index."""
    cuts: dict[tuple[str, int], _Cut] = {}
    for coupling in channel_map.couplings:
        stays = ~np.isin(coupling.labels, gone)
        if stays.all():
            continue
        if not stays.any():
            raise SurgeryError(
                f"node {coupling.node!r} would lose all channels of an axis; expected at least one to stay."
            )
        cut = cuts.setdefault((coupling.node, coupling.input_index), _Cut({}))
        cut.keep[coupling.axis] = tuple(np.flatnonzero(stays).tolist())
    return cuts


def _cut_weights(site: Site, nodes: Mapping[str, gs.Node], cuts: Mapping[tuple[str, int], _Cut]) -> None:
    """Slice weights; one that is read elsewhere, too, is copied unless all readers cut it alike."""
    outlets = {id(tensor) for tensor in site.graph.outputs}  # those that inner graphs read among them
    made: dict[tuple[str, str], gs.Constant] = {}
    for (name, index), cut in cuts.items():
        node = nodes[name]
        weight = node.inputs[index]
        key = (weight.name, repr(sorted(cut.keep.items())))
        if key not in made:
            readers = [
                cuts.get((reader.name, position))
                for reader in weight.outputs
                for position, tensor in enumerate(reader.inputs)
                if tensor is weight
            ]
            alike = id(weight) not in outlets and all(other == cut for other in readers)
            new_name = weight.name if alike else site.name(weight.name)
            made[key] = gs.Constant(new_name, cut_constant(weight, cut.keep))
        node.inputs[index] = made[key]


def _forget_shapes(model: ModelProto, context: SizeContext) -> None:
    """Drop recorded shapes that are no longer true, in place; the model's outputs are never cut.

    Initializers state their own shape; some exporters record it a second time.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [v for v in model.graph.value_info if v.name not in weights and not context.is_cut(v.name)]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


def _check_shapes(model: ModelProto, found: Mapping[str, Shape], context: SizeContext) -> None:
    """Compare the shape of every node's output with what the removal must make of it, nothing for most."""
    for name in (name for node in model.graph.node for name in node.output):
        before = context.shapes.get(name)
        if before is None:
            continue
        expected = context.new_shape(name)
        if 0 in expected and 0 not in before:
            raise SurgeryError(f"tensor {name!r} would lose all its channels; expected at least one to stay.")
        if found.get(name) != expected:
            raise SurgeryError(
                f"tensor {name!r} would have shape {found.get(name)} instead of {list(expected)} "
                f"(now {list(before)}): a size that depends on its channels is computed in a way that isn't followed."
            )


def find_unfit_groups(
    model: ModelProto, channel_map: ChannelMap, input_shapes: InputShapes | None = None
) -> dict[str, str]:
    """Try to remove channels of every free group, and return those where that fails with the reason.

    All at once first; where that fails, halves are tried until the culprits are found, each beside those that are known
    to be fit: two may fail together only. Each group loses another number of channels, as far as it has so many, since
    sizes that are mixed up may agree where they are the same.
    """
    light = drop_weights(model)
    free = [group for group in channel_map.groups if not group.blocked_by and len(group.channels) > 1]
    lost = {group.name: group.channels[: 1 + at % (len(group.channels) - 1)].tolist() for at, group in enumerate(free)}
    unfit: dict[str, str] = {}

    def choose(fit: list[DependencyGroup], tried: list[DependencyGroup]) -> list[DependencyGroup]:
        """Return the groups that are fit and those that are tried, without the ones that don't fit."""
        try:
            removed = [channel for group in (*fit, *tried) for channel in lost[group.name]]
            remove_channels(light, channel_map, removed, input_shapes)
        except SurgeryError as error:
            if len(tried) == 1:
                unfit[tried[0].name] = str(error)
                return fit
            middle = len(tried) // 2
            return choose(choose(fit, tried[:middle]), tried[middle:])
        return [*fit, *tried]

    if free:
        choose([], free)
    return unfit
