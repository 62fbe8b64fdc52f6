"""What strangers' files may look like: seeded mutations of an ONNX model, of its bytes and of its structure."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
from fuzz_constructs import CONSTRUCTS
from fuzz_tensors import (
    DOMAINS,
    FLOATS,
    INTEGERS,
    NAMES,
    add_sparse,
    change_dims,
    change_tensor_data,
    change_tensor_dims,
    change_tensor_type,
    change_weights,
    change_weights_to_float16,
    move_outside,
)
from google.protobuf.message import Error as ProtobufError
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

_OP_TYPES = tuple(sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}))

Structural = Callable[[ModelProto, random.Random], None]


def mutate_bytes(content: bytes, model: ModelProto, rng: random.Random) -> bytes:
    """Damage a file's bytes, half of the time outside its weights.

    Args:
        content: The file.
        model: The same, parsed.
        rng: Decides.
    """
    start, stop = 0, len(content)
    if rng.random() < 0.5:
        part = rng.choice([*model.graph.node, *model.graph.input, *model.graph.output]).SerializeToString()
        found = content.find(part)
        start, stop = (found, found + len(part)) if found >= 0 else (0, min(stop, 200))
    data = bytearray(content)
    position = rng.randrange(start, stop)
    kind = rng.choice(("truncate", "flip", "overwrite", "splice", "insert", "delete", "zero"))
    if kind == "truncate":
        return bytes(data[: rng.choice((position, rng.randrange(64), len(data) - rng.randrange(64)))])
    if kind == "flip":
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            data[rng.randrange(start, stop)] ^= 1 << rng.randrange(8)
        return bytes(data)
    length = rng.choice((1, 2, 4, 16, 256))
    if kind == "overwrite":
        data[position : position + length] = rng.choice((rng.randbytes(length), b"\xff" * length))
    elif kind == "splice":
        source = rng.randrange(len(data))
        data[position:position] = data[source : source + length]
    elif kind == "insert":
        data[position:position] = rng.randbytes(length)
    elif kind == "delete":
        del data[position : position + length]
    else:
        data[position : position + length] = bytes(length)
    return bytes(data)


def mutate_structure(model: ModelProto, rng: random.Random) -> list[str]:
    """Change one to three things in a model, in place; return what was done.

    What protobuf itself refuses (text that isn't text, numbers out of range) is left out.
    """
    names = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        mutation = rng.choice(MUTATIONS)
        try:
            mutation(model, rng)
        except (ValueError, TypeError, IndexError, ProtobufError, onnx.checker.ValidationError):
            continue  # IndexError: nothing left to choose from; ValidationError: the data are elsewhere
        names.append(mutation.__name__)
    return names


def _pick_values(model: ModelProto) -> list[onnx.ValueInfoProto]:
    return [*model.graph.input, *model.graph.output, *model.graph.value_info]


def change_value_dims(model: ModelProto, rng: random.Random) -> None:
    """Other dimensions of an input, output or tensor in between."""
    shape = rng.choice(_pick_values(model)).type.tensor_type.shape
    dims = change_dims([dim.dim_value for dim in shape.dim], rng)
    del shape.dim[:]
    for size in dims:
        dim = shape.dim.add()
        if rng.random() < 0.1:
            dim.dim_param = rng.choice(NAMES)
        else:
            dim.dim_value = size


def change_value_type(model: ModelProto, rng: random.Random) -> None:
    """Another element type, or none, or not a tensor at all."""
    value = rng.choice(_pick_values(model))
    kind = rng.randrange(4)
    if kind == 0:
        value.ClearField("type")
    elif kind == 1:
        value.type.sequence_type.elem_type.tensor_type.elem_type = rng.randrange(30)
    elif kind == 2:
        value.type.tensor_type.ClearField("shape")
    else:
        value.type.tensor_type.elem_type = rng.choice((rng.randrange(30), 2**31 - 1, -1))


def rename_everywhere(model: ModelProto, rng: random.Random) -> None:
    """A name like no other, or one that is taken, wherever it stands."""
    graph = model.graph
    items = [*graph.input, *graph.output, *graph.initializer, *graph.node]
    old = rng.choice(items).name
    new = rng.choice((*NAMES, rng.choice(items).name))
    for item in [*items, *graph.value_info]:
        if item.name == old:
            item.name = new
    for node in graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                if name == old:
                    names[position] = new


def rename_once(model: ModelProto, rng: random.Random) -> None:
    """One name changed in one place: dangling, duplicate, empty, hostile."""
    graph = model.graph
    item = rng.choice([*graph.input, *graph.output, *graph.initializer, *graph.node, *graph.value_info, graph])
    item.name = rng.choice((*NAMES, rng.choice(graph.node).name, rng.choice(graph.initializer).name))


def rewire(model: ModelProto, rng: random.Random) -> None:
    """An input or output of a node that is another's, or nobody's: cycles, dangling inputs, two producers."""
    node, other = rng.choice(model.graph.node), rng.choice(model.graph.node)
    names = rng.choice((node.input, node.output))
    taken = [*other.input, *other.output, *node.output, *(value.name for value in model.graph.input)]
    new = rng.choice((*taken, "nobody's", ""))
    kind = rng.randrange(3)
    if kind == 0:
        names[rng.randrange(len(names))] = new
    elif kind == 1:
        names.append(new)
    else:
        del names[rng.randrange(len(names))]


def move_nodes(model: ModelProto, rng: random.Random) -> None:
    """Nodes gone, twice there, or in another order; or none."""
    nodes = list(model.graph.node)
    kind = rng.randrange(5)
    if kind == 0:
        del nodes[rng.randrange(len(nodes))]
    elif kind == 1:
        nodes.insert(rng.randrange(len(nodes)), rng.choice(nodes))
    elif kind == 2:
        rng.shuffle(nodes)
    elif kind == 3:
        nodes = nodes[: rng.randrange(len(nodes))]
    else:
        nodes.append(NodeProto())
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def drop_or_double(model: ModelProto, rng: random.Random) -> None:
    """An initializer, input, output or opset gone or twice there."""
    graph = model.graph
    items = rng.choice((graph.initializer, graph.input, graph.output, model.opset_import, graph.value_info))
    position = rng.randrange(len(items))
    if rng.random() < 0.5:
        del items[position]
    else:
        items.add().CopyFrom(items[position])


def change_op(model: ModelProto, rng: random.Random) -> None:
    """Another operator, one of another domain, or none that exists."""
    node = rng.choice(model.graph.node)
    if rng.random() < 0.8:
        node.op_type = rng.choice((*_OP_TYPES, *NAMES))
    if rng.random() < 0.3:
        node.domain = rng.choice(DOMAINS)
        if rng.random() < 0.5:
            model.opset_import.append(helper.make_opsetid(node.domain, rng.choice((1, 0, 22, 2**40))))


def change_attribute(model: ModelProto, rng: random.Random) -> None:
    """An attribute of the wrong kind, with an absurd value, twice there, gone, or unknown."""
    node = rng.choice([node for node in model.graph.node if node.attribute])
    attribute = rng.choice(node.attribute)
    kind = rng.randrange(8)
    if kind == 0:
        attribute.type = rng.choice([*AttributeProto.AttributeType.values()])
    elif kind == 1:
        attribute.i = rng.choice(INTEGERS)
        attribute.f = rng.choice(FLOATS)
        if attribute.ints:
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(INTEGERS)
    elif kind == 2:
        del attribute.ints[rng.randrange(len(attribute.ints) + 1) :]
    elif kind == 3:
        attribute.ints.extend([rng.choice(INTEGERS)] * rng.choice((1, 2, 1000)))
    elif kind == 4:
        attribute.name = rng.choice((*NAMES, "group", "axis", "strides", "pads", "transB", "perm", "auto_pad", "value"))
    elif kind == 5:
        node.attribute.add().CopyFrom(attribute)
    elif kind == 6:
        node.attribute.remove(attribute)
    else:
        name, value = (
            attribute.name,
            rng.choice((rng.choice(INTEGERS), rng.choice(FLOATS), rng.choice(NAMES), [], [1.5])),
        )
        made = helper.make_attribute(name, value, attr_type=AttributeProto.INTS if value == [] else None)
        attribute.CopyFrom(made)


def change_versions(model: ModelProto, rng: random.Random) -> None:
    """Operator sets and IR versions of all kinds."""
    if rng.random() < 0.3:
        model.ir_version = rng.choice((*range(15), *INTEGERS))
        return
    entry = rng.choice(model.opset_import) if rng.random() < 0.7 else model.opset_import.add()
    entry.version = rng.choice((*range(30), *INTEGERS))
    if rng.random() < 0.2:
        entry.domain = rng.choice(DOMAINS)


def nest_graphs(model: ModelProto, rng: random.Random) -> None:
    """An If within an If within an If: more than any exporter nests, at times more than protobuf reads."""
    read = rng.choice([*model.graph.input, *model.graph.initializer]).name
    name = rng.choice((read, "yes"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    value = helper.make_tensor_value_info("v", TensorProto.FLOAT, None)
    inner = other = helper.make_graph([helper.make_node("Identity", [read], ["v"])], "g", [], [value])
    for _ in range(rng.choice((1, 2, 10, 30))):
        node = helper.make_node("If", [name], ["v"], then_branch=inner, else_branch=other)
        inner = helper.make_graph([node], "g", [], [value])
    model.graph.node.append(helper.make_node("If", [name], ["nested"], then_branch=inner, else_branch=other))


def insert_blower(model: ModelProto, rng: random.Random) -> None:
    """A node that makes much out of little: sizes of 2^40 elements in a few bytes."""
    sizes = numpy_helper.from_array(
        np.array([rng.choice((2**20, 2**36, 2**40, -1, 0))] * rng.choice((1, 2, 4))), "blow"
    )
    model.graph.initializer.append(sizes)
    node = rng.choice(model.graph.node)
    source = node.input[0]
    made = rng.choice((
        helper.make_node("ConstantOfShape", ["blow"], ["blown"]),
        helper.make_node("Expand", [source, "blow"], ["blown"]),
        helper.make_node("Tile", [source, "blow"], ["blown"]),
        helper.make_node("Reshape", [source, "blow"], ["blown"]),
        helper.make_node("Pad", [source, "blow"], ["blown"]),
        helper.make_node("Resize", [source, "", "", "blow"], ["blown"]),
        helper.make_node("RandomNormal", [], ["blown"], shape=[2**40]),
    ))  # fmt: skip
    model.graph.node.insert(list(model.graph.node).index(node), made)
    node.input[0] = "blown"


def add_texts(model: ModelProto, rng: random.Random) -> None:
    """Hostile text where text is only shown or passed on."""
    model.producer_name, model.domain, model.doc_string = (rng.choice(NAMES) for _ in range(3))
    for _ in range(rng.choice((1, 2, 1000))):
        model.metadata_props.add(key=rng.choice(NAMES), value=rng.choice(NAMES))
    model.graph.node[0].doc_string = rng.choice(NAMES)


MUTATIONS: tuple[Structural, ...] = (
    change_tensor_dims, change_value_dims, change_value_type, change_tensor_type, change_tensor_data, change_weights,
    change_weights, change_weights_to_float16, rename_everywhere, rename_everywhere, rename_once, rewire, rewire,
    move_nodes, drop_or_double, change_op, change_op, change_attribute, change_attribute, change_attribute,
    move_outside, change_versions, nest_graphs, insert_blower, add_sparse, add_texts, *CONSTRUCTS,
)  # fmt: skip
