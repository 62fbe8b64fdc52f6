"""What few models have, sound and unsound: inner graphs, functions, further inputs, values that are no tensors."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
from fuzz_tensors import DOMAINS, FLOATS, INTEGERS, NAMES, pick_tensor
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

# What --feed is given for the inputs that `add_input` adds.
FEEDS = ("1", "0", "true", "-1", "1,2", "1e400", "nan", "", "9" * 400, "x", "1,2,3,4")
EXTRA_INPUT = "further"
# Sound where the counts are small; without an end where there are none.
_TURNS = (None, 0, 1, 3, 2**40, -1)

Construct = Callable[[ModelProto, random.Random], None]


def _copy(node: NodeProto) -> NodeProto:
    return NodeProto.FromString(node.SerializeToString())


def _pick_chain_node(model: ModelProto, rng: random.Random) -> tuple[int, NodeProto]:
    """Return a node of one output, as a rule, and where it stands."""
    position = rng.randrange(len(model.graph.node))
    return position, model.graph.node[position]


def _make_body(node: NodeProto, inputs: list[str], rng: random.Random) -> GraphProto:
    """Return a graph of a node alone; inputs of it may have names that the outer graph has, too."""
    inner = _copy(node)
    names = rng.choice(([f"inner_{name}" for name in node.output], list(node.output), ["same"] * len(node.output)))
    del inner.output[:]
    inner.output.extend(names)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    graph = helper.make_graph([inner], rng.choice(("body", *NAMES)), values, results)
    if rng.random() < 0.2:
        tensor = numpy_helper.from_array(np.ones(3, np.float32), rng.choice((*inner.input, "own", "")))
        graph.initializer.append(tensor)
    return graph


def wrap_in_if(model: ModelProto, rng: random.Random) -> None:
    """A node in both branches of an If; at times they differ in what they give."""
    position, node = _pick_chain_node(model, rng)
    first, second = _make_body(node, [], rng), _make_body(node, [], rng)
    if rng.random() < 0.2:
        del second.output[rng.randrange(len(second.output)) :]
    condition = rng.choice((True, False, [True], [True, False], 1.0))
    model.graph.initializer.append(numpy_helper.from_array(np.array(condition), "chosen"))
    made = helper.make_node("If", ["chosen"], list(node.output), then_branch=first, else_branch=second)
    model.graph.node[position].CopyFrom(made)


def wrap_in_loop(model: ModelProto, rng: random.Random) -> None:
    """A node in the body of a Loop that ends soon, or never."""
    position, node = _pick_chain_node(model, rng)
    body = _make_body(node, [], rng)
    body.input.extend(
        helper.make_tensor_value_info(name, kind, [])
        for name, kind in (("turn", TensorProto.INT64), ("go", TensorProto.BOOL))
    )
    body.node.append(helper.make_node("Identity", ["go"], ["again"]))
    body.output.insert(0, helper.make_tensor_value_info("again", TensorProto.BOOL, []))
    turns = rng.choice(_TURNS)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    if turns is not None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(turns), "turns"))
    states = rng.choice(([], [node.input[0]]))
    if states:
        body.input.append(helper.make_tensor_value_info("state", TensorProto.FLOAT, None))
        body.node.append(helper.make_node("Identity", ["state"], ["next"]))
        body.output.insert(1, helper.make_tensor_value_info("next", TensorProto.FLOAT, None))
    outputs = [*(["last"] if states else []), *node.output]
    made = helper.make_node("Loop", ["turns" if turns is not None else "", "yes", *states], outputs, body=body)
    model.graph.node[position].CopyFrom(made)


def wrap_in_scan(model: ModelProto, rng: random.Random) -> None:
    """A node in the body of a Scan."""
    position, node = _pick_chain_node(model, rng)
    source = node.input[0]
    inner = _copy(node)
    inner.input[0] = "slice"
    body = _make_body(inner, ["slice"], rng)
    attributes = {"num_scan_inputs": rng.choice((1, 1, 1, 2, *INTEGERS))}
    for name in ("scan_input_axes", "scan_output_axes", "scan_input_directions", "scan_output_directions"):
        if rng.random() < 0.3:
            attributes[name] = [rng.choice((0, 1, *INTEGERS))] * rng.choice((1, 1, 2))
    model.graph.node[position].CopyFrom(helper.make_node("Scan", [source], list(node.output), body=body, **attributes))


def wrap_in_function(model: ModelProto, rng: random.Random) -> None:
    """A node in a local function; at times one that calls itself, is there twice, or lacks something."""
    position, node = _pick_chain_node(model, rng)
    domain, name = rng.choice(("local", "local", *DOMAINS)), rng.choice(("Wrapped", "Wrapped", *NAMES))
    opsets = list(model.opset_import)
    inner = _copy(node)
    function = helper.make_function(domain, name, list(dict.fromkeys(node.input)), list(node.output), [inner], opsets)
    if rng.random() < 0.2:
        function.node.append(helper.make_node(name, list(node.input), ["again"], domain=domain))
    if rng.random() < 0.2 and inner.attribute:
        attribute = function.node[0].attribute[0]
        reference = AttributeProto(
            name=attribute.name, type=attribute.type, ref_attr_name=rng.choice(("given", *NAMES))
        )
        attribute.CopyFrom(reference)
        function.attribute.append("given")
    if rng.random() < 0.1:
        del function.opset_import[:]
    if rng.random() < 0.1:
        del function.input[rng.randrange(len(function.input) + 1) :]
    model.functions.extend([function] * rng.choice((1, 1, 1, 2)))
    if rng.random() < 0.8:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    call = helper.make_node(name, list(dict.fromkeys(node.input)), list(node.output), domain=domain)
    model.graph.node[position].CopyFrom(call)


def add_input(model: ModelProto, rng: random.Random) -> None:
    """A further input: read or not, in front or behind, a tensor, a sequence, a map, or nothing known."""
    kind = rng.randrange(6)
    shape = rng.choice(([], [1], [2], ["N", 2], ["N"], ["N", 1, 1, 1], [None, None], None, [rng.choice(INTEGERS)]))
    value = helper.make_tensor_value_info(EXTRA_INPUT, rng.choice((1, 1, 1, 7, 9, 10, 8, 16)), shape)
    if kind == 0:
        value.type.CopyFrom(helper.make_sequence_type_proto(value.type))
    elif kind == 1:
        value.type.CopyFrom(helper.make_optional_type_proto(value.type))
    elif kind == 2:
        value.type.Clear()
        value.type.map_type.key_type = TensorProto.INT64
        value.type.map_type.value_type.tensor_type.elem_type = TensorProto.FLOAT
    model.graph.input.insert(rng.choice((0, len(model.graph.input))), value)
    if rng.random() < 0.7:
        position, node = _pick_chain_node(model, rng)
        name = node.output[0]
        node.output[0] = "before"
        op = rng.choice(("Mul", "Add", "Div", "Concat", "Expand", "Reshape", "Where"))
        attributes = {"axis": 1} if op == "Concat" else {}
        model.graph.node.insert(position + 1, helper.make_node(op, ["before", EXTRA_INPUT], [name], **attributes))


def use_sequences(model: ModelProto, rng: random.Random) -> None:
    """A tensor that goes through a sequence, an optional or a string on its way."""
    position, node = _pick_chain_node(model, rng)
    name = node.output[0]
    node.output[0] = "before"
    made = rng.choice((
        [("SequenceConstruct", ["before"], ["many"], {}), ("ConcatFromSequence", ["many"], [name], {"axis": 0})],
        [("SplitToSequence", ["before"], ["many"], {"axis": 1}), ("ConcatFromSequence", ["many"], [name], {"axis": 1})],
        [("Optional", ["before"], ["maybe"], {}), ("OptionalGetElement", ["maybe"], [name], {})],
        [("Cast", ["before"], ["text"], {"to": TensorProto.STRING}), ("Cast", ["text"], [name], {"to": 1})],
        [("SequenceEmpty", [], ["many"], {}), ("SequenceLength", ["many"], [name], {})],
    ))  # fmt: skip
    for offset, (op, inputs, outputs, attributes) in enumerate(made):
        model.graph.node.insert(position + 1 + offset, helper.make_node(op, inputs, outputs, **attributes))
    if rng.random() < 0.3:
        model.graph.output.append(onnx.ValueInfoProto(name=made[0][2][0]))


def use_strings(model: ModelProto, rng: random.Random) -> None:
    """Weights of text, read by somebody or not."""
    text = numpy_helper.from_array(np.array([rng.choice(NAMES).encode(errors="replace") for _ in range(3)]), "texts")
    model.graph.initializer.append(text)
    if rng.random() < 0.5:
        node = rng.choice(model.graph.node)
        node.input[rng.randrange(len(node.input))] = "texts"


def quantize(model: ModelProto, rng: random.Random) -> None:
    """A tensor that is quantised and back, in the main graph or in a function."""
    position, node = _pick_chain_node(model, rng)
    name = node.output[0]
    node.output[0] = "before"
    scale = rng.choice((0.05, *FLOATS))
    model.graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), "scale"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(3, np.uint8), "zero"))
    for offset, (op, source, target) in enumerate(
        (("QuantizeLinear", "before", "integers"), ("DequantizeLinear", "integers", name))
    ):
        model.graph.node.insert(position + 1 + offset, helper.make_node(op, [source, "scale", "zero"], [target]))


def convert_to_float16(model: ModelProto, rng: random.Random) -> None:
    """All floats in half precision, or all but some."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and rng.random() < 0.98:
            with np.errstate(over="ignore"):
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and rng.random() < 0.98:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16


def move_beside(model: ModelProto, rng: random.Random) -> None:
    """All weights that fit in the file beside the model, soundly, at overlapping places."""
    for tensor in model.graph.initializer:
        length = len(tensor.raw_data)
        if 0 < length <= 4096:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            place = rng.choice((0, 0, 4096 - length))
            for key, value in {"location": "weights.bin", "offset": str(place), "length": str(length)}.items():
                tensor.external_data.add(key=key, value=value)


def lie_about_values(model: ModelProto, rng: random.Random) -> None:
    """Recorded shapes and types that aren't so, or are there twice."""
    for _ in range(rng.choice((1, 5, 100))):
        name = rng.choice(rng.choice(model.graph.node).output)
        shape = [rng.choice((1, 3, "N", *NAMES, *INTEGERS)) for _ in range(rng.choice((0, 1, 2, 4, 4, 4, 5)))]
        value = helper.make_tensor_value_info(name, rng.choice((1, 1, 7, 10, 8)), None)
        for size in shape:
            dim = value.type.tensor_type.shape.dim.add()
            if isinstance(size, str):
                dim.dim_param = size
            else:
                dim.dim_value = size
        model.graph.value_info.append(value)


def name_dimensions(model: ModelProto, rng: random.Random) -> None:
    """Open dimensions with names: all, the same ones, hostile ones."""
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if rng.random() < 0.5:
                dim.dim_param = rng.choice(("N", "", *NAMES))


def add_training(model: ModelProto, rng: random.Random) -> None:
    """Information for training, which nobody here reads."""
    info = model.training_info.add()
    info.algorithm.CopyFrom(helper.make_graph([_copy(rng.choice(model.graph.node))], "algorithm", [], []))
    info.initialization.CopyFrom(helper.make_graph([], rng.choice(NAMES), [], [], [_copy_tensor(model, rng)]))
    info.update_binding.add(key=rng.choice(NAMES), value=rng.choice(model.graph.initializer).name)


def _copy_tensor(model: ModelProto, rng: random.Random) -> TensorProto:
    return TensorProto.FromString(pick_tensor(model, rng).SerializeToString())


def empty_interface(model: ModelProto, rng: random.Random) -> None:
    """No input, no output, or neither."""
    for values in rng.choice(((model.graph.input,), (model.graph.output,), (model.graph.input, model.graph.output))):
        del values[:]


def list_weights_as_inputs(model: ModelProto, rng: random.Random) -> None:
    """Weights that a caller may override, with or without the shape that they have."""
    for tensor in model.graph.initializer:
        if rng.random() < 0.5:
            shape = list(tensor.dims) if rng.random() < 0.9 else rng.choice((None, [1], ["N"]))
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, shape)
            model.graph.input.insert(rng.choice((0, len(model.graph.input))), value)
    if rng.random() < 0.5:
        model.ir_version = rng.choice((3, 4, 8))


CONSTRUCTS: tuple[Construct, ...] = (
    wrap_in_if, wrap_in_loop, wrap_in_scan, wrap_in_function, wrap_in_function, add_input, add_input, use_sequences,
    use_strings, quantize, convert_to_float16, move_beside, lie_about_values, name_dimensions, add_training,
    empty_interface, list_weights_as_inputs,
)  # fmt: skip
