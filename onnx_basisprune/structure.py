"""What a network is but for its weights: the nodes, how they are connected, and their shapes.

Two versions of a network that was trained again have the same structure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.errors import quote
from onnx_basisprune.network import Network
from onnx_basisprune.planning.types import Operation

# Whole numbers shape a graph: so many of them are written out, more stand as a digest.
_MOST_VALUES = 64


@dataclass(frozen=True)
class NodeRecord:
    """One node of a normalised graph.

    Attributes:
        name: Its unique name.
        op_type: ONNX operator, with its domain where it isn't ONNX's own.
        inputs: The node that makes each, `input 0` for the model's, type and shape for a weight, `""` for none.
        attributes: By name; floats are left out (they are trained or tuned), tensors stand as type and shape.
        output_shape: Of the first output for one image, `None` where it isn't known.
    """

    name: str
    op_type: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    output_shape: tuple[int, ...] | None


def describe_structure(network: Network) -> tuple[NodeRecord, ...]:
    """Return a record per node, in the graph's order."""
    program = network.program
    sources = {spec.name: f"input {index}" for index, spec in enumerate(program.inputs)}
    sources |= {name: _describe_tensor(values) for name, values in program.initializers.items()}
    for operation in program.operations:
        for index, name in enumerate(operation.outputs):
            sources[name] = operation.name if index == 0 else f"{operation.name} output {index}"
    sources[""] = ""
    shapes = {row.name: row.output_shape for row in network.cost.nodes}
    return tuple(
        NodeRecord(
            operation.name,
            f"{operation.domain}.{operation.op_type}" if operation.domain else operation.op_type,
            tuple(sources.get(name, name) for name in operation.inputs),
            _describe_attributes(operation),
            shapes.get(operation.name),
        )
        for operation in program.operations
    )


def _describe_tensor(values: NDArray[Any]) -> str:
    """Return a constant's type and shape, and its values where these are whole numbers."""
    text = f"{values.dtype}[{','.join(map(str, values.shape))}]"
    if values.dtype.kind not in "iub":
        return text
    if values.size > _MOST_VALUES:
        return f"{text} sha256 {hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]}"
    return f"{text} = {','.join(str(int(value)) for value in values.ravel())}"


def _describe_attributes(operation: Operation) -> dict[str, Any]:
    """Return the attributes that shape the graph, sorted by name, as JSON knows them."""
    found: dict[str, Any] = {}
    for name, value in sorted(operation.attributes.items()):
        is_list = isinstance(value, (list, tuple))
        items = list(value) if is_list else [value]
        if not any(isinstance(item, float) for item in items):
            items = [_describe_tensor(item) if isinstance(item, np.ndarray) else item for item in items]
            found[name] = items if is_list else items[0]
    return found


def find_difference(planned: Sequence[NodeRecord], found: Sequence[NodeRecord]) -> str | None:
    """Return what is the first difference between a plan's network and another, in words; `None` for no difference."""
    for index, (one, other) in enumerate(zip(planned, found, strict=False)):
        if one != other:
            return _describe_difference(index, one, other)
    if len(planned) == len(found):
        return None
    extra = (planned if len(planned) > len(found) else found)[min(len(planned), len(found))]
    return f"the model has {len(found)} nodes, the plan's {len(planned)}; the first one over is {quote(extra.name)}"


def _describe_difference(index: int, planned: NodeRecord, found: NodeRecord) -> str:
    """Return in what two nodes at the same place differ first."""
    if planned.name != found.name:
        return f"node {index} is {quote(found.name)}, in the plan it is {quote(planned.name)}"
    where = f"node {quote(found.name)}"
    if planned.op_type != found.op_type:
        return f"{where} is a {found.op_type}, in the plan it is a {planned.op_type}"
    if len(planned.inputs) != len(found.inputs):
        return f"{where} has {len(found.inputs)} inputs, in the plan {len(planned.inputs)}"
    for number, (one, other) in enumerate(zip(planned.inputs, found.inputs, strict=True)):
        if one != other:
            return f"input {number} of {where} is {quote(other)}, in the plan it is {quote(one)}"
    for name in sorted({*planned.attributes, *found.attributes}):
        was, is_now = planned.attributes.get(name), found.attributes.get(name)
        if was != is_now:
            return f"attribute {quote(name)} of {where} is {quote(is_now)}, in the plan it is {quote(was)}"
    return f"the output of {where} has shape {found.output_shape}, in the plan it has {planned.output_shape}"
