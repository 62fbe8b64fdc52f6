"""Models with inputs beside the images: computed with what these are fed as their defaults, written back without.

A default is an initializer of the input's name. Nothing is folded into the graph, since a caller may still feed the
input something else. A value of one image becomes one of the batch by a Tile behind the input.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from onnx_basisprune.graph.batch_axis import rename_reads
from onnx_basisprune.graph.normalize import drop_constant_inputs
from onnx_basisprune.graph.tensors import copy_without
from onnx_basisprune.planning.types import FedInput

_TILED, _SIZES, _COUNT, _REPEATS = ".fed", ".fed.sizes", ".fed.count", ".fed.repeats"
_FIRST, _ONES = ".fed.first", ".fed.ones"


def feed_inputs(model: ModelProto, fed: Sequence[FedInput], image: str) -> ModelProto:
    """Return a model in which inputs have defaults.

    Args:
        model: Not changed.
        fed: The inputs, and what they are fed.
        image: The input that takes the images; its first dimension is the batch.

    Returns:
        The model itself where there is nothing to feed, else a copy.
    """
    if not fed:
        return model
    result = copy_without(model, ("node",))
    drop_constant_inputs(result)
    for item in (item for item in fed if item.is_per_image):
        _add_tile(result, item, image)
    result.graph.initializer.extend(numpy_helper.from_array(item.make_batch(1), item.name) for item in fed)
    start = len(result.graph.node)
    result.graph.node.extend(model.graph.node)
    for item in (item for item in fed if item.is_per_image):
        rename_reads(result, item.name, item.name + _TILED, start)
    return result


def unfeed_inputs(model: ModelProto, fed: Sequence[FedInput]) -> ModelProto:
    """Return a model as it was before `feed_inputs`, but for what else was done to it.

    Args:
        model: Made from what `feed_inputs` returned; not changed.
        fed: As given to `feed_inputs`.
    """
    if not fed:
        return model
    result = copy_without(model, ("node", "initializer", "value_info"))
    made = {item.name + ending for item in fed for ending in (_TILED, _SIZES, _COUNT, _REPEATS, _FIRST, _ONES)}
    gone = made | {item.name for item in fed}
    result.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name not in gone)
    result.graph.value_info.extend(value for value in model.graph.value_info if value.name not in gone)
    result.graph.node.extend(node for node in model.graph.node if made.isdisjoint(node.output))
    for item in fed:
        rename_reads(result, item.name + _TILED, item.name)
    return result


def _add_tile(model: ModelProto, item: FedInput, image: str) -> None:
    """Repeat an input's value for one image as often as there are images, in place."""
    name = item.name
    ones = np.ones(item.value.ndim, dtype=np.int64)
    for ending, array in ((_FIRST, np.zeros(1, dtype=np.int64)), (_ONES, ones)):
        model.graph.initializer.append(numpy_helper.from_array(array, name + ending))
    model.graph.node.extend(
        [
            helper.make_node("Shape", [image], [name + _SIZES], name + _SIZES),
            helper.make_node("Gather", [name + _SIZES, name + _FIRST], [name + _COUNT], name + _COUNT, axis=0),
            helper.make_node("Concat", [name + _COUNT, name + _ONES], [name + _REPEATS], name + _REPEATS, axis=0),
            helper.make_node("Tile", [name, name + _REPEATS], [name + _TILED], name + _TILED),
        ]
    )
