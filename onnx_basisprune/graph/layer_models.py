"""One-layer models for timing, and which Convs of a graph they stand for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import ceil

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnx_basisprune.graph.shapes import Shape
from onnx_basisprune.planning.prices import ConvShape
from onnx_basisprune.planning.types import Operation, Program

# The node that makes the tensor to be added: a pool of one pixel, so that it lies in the layout that onnxruntime chose
# and can't be fused. Its time is not the layer's.
FEED = "feed"
# Activations that onnxruntime fuses into a Conv; Clip stands for ReLU6.
_FUSED = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid")
_OPSET, _IR_VERSION = 13, 7


def find_conv_shapes(program: Program, shapes: Mapping[str, Shape], names: Sequence[str]) -> dict[str, ConvShape]:
    """Return what the time of each named Conv depends on.

    Args:
        program: The graph.
        shapes: Of its tensors, for the batch to be timed.
        names: Convs whose weight is an initializer and whose input's shape is known.
    """
    readers = Counter(name for operation in program.operations for name in set(operation.inputs))
    following = {name: operation for operation in program.operations for name in operation.inputs}
    read_once = {name: following[name] for name, count in readers.items() if count == 1}
    outputs = {output.name for output in program.outputs}
    wanted = set(names)
    return {
        operation.name: _describe_conv(operation, program, shapes, list(_walk_chain(operation, read_once, outputs)))
        for operation in program.operations
        if operation.name in wanted
    }


def _walk_chain(operation: Operation, read_once: Mapping[str, Operation], outputs: set[str]) -> Iterator[Operation]:
    """Yield the nodes that follow a node and read nothing but its result, as far as they may be fused."""
    name = operation.outputs[0]
    while name in read_once and name not in outputs:
        operation = read_once[name]
        if operation.op_type not in ("Add", *_FUSED):
            return
        yield operation
        name = operation.outputs[0]


def _describe_conv(
    operation: Operation, program: Program, shapes: Mapping[str, Shape], chain: Sequence[Operation]
) -> ConvShape:
    weight = program.initializers[operation.inputs[1]].shape
    axes, attributes = len(weight) - 2, operation.attributes
    auto_pad = str(attributes.get("auto_pad", "NOTSET"))
    adds = bool(chain) and chain[0].op_type == "Add" and not set(chain[0].inputs) & program.initializers.keys()
    rest = chain[1:] if adds else chain
    source = shapes[operation.inputs[0]]
    return ConvShape(
        in_channels=source[1],
        out_channels=weight[0],
        kernel=tuple(weight[2:]),
        strides=tuple(attributes.get("strides", (1,) * axes)),
        dilations=tuple(attributes.get("dilations", (1,) * axes)),
        pads=tuple(attributes.get("pads", (0,) * 2 * axes)) if auto_pad == "NOTSET" else (),
        auto_pad=auto_pad,
        group=int(attributes.get("group", 1)),
        input_size=tuple(source[2:]),
        activation=rest[0].op_type if rest and rest[0].op_type in _FUSED else "",
        adds=adds,
        batch=source[0],
    )


def split_pair(shape: ConvShape) -> tuple[ConvShape, ConvShape]:
    """Return the shapes of a Conv's basis conv and scaling conv at full rank."""
    axes = len(shape.kernel)
    basis = ConvShape(
        shape.in_channels, shape.out_channels, shape.kernel, shape.strides, shape.dilations, shape.pads,
        shape.auto_pad, 1, shape.input_size, batch=shape.batch,
    )  # fmt: skip
    scaling = ConvShape(
        shape.out_channels, shape.out_channels, (1,) * axes, (1,) * axes, (1,) * axes, (0,) * 2 * axes,
        "NOTSET", 1, find_output_size(shape), shape.activation, shape.adds, shape.batch,
    )  # fmt: skip
    return basis, scaling


def find_output_size(shape: ConvShape) -> tuple[int, ...]:
    """Return the spatial size of a Conv's output, by ONNX's formula."""
    axes = range(len(shape.kernel))
    if shape.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        return tuple(ceil(shape.input_size[axis] / shape.strides[axis]) for axis in axes)
    pads = shape.pads or (0,) * 2 * len(shape.kernel)
    return tuple(
        (shape.input_size[i] + pads[i] + pads[i + len(axes)] - shape.dilations[i] * (shape.kernel[i] - 1) - 1)
        // shape.strides[i]
        + 1
        for i in axes
    )


def make_layer_model(shape: ConvShape) -> bytes:
    """Return a model of one Conv with what onnxruntime fuses into it, and random weights.

    Args:
        shape: The Conv. Inputs are `x` and, where it adds a tensor, `other`, of fixed shapes; the output is `y`.
    """
    rng = np.random.default_rng(0)
    W = rng.standard_normal((shape.out_channels, shape.in_channels // shape.group, *shape.kernel), dtype=np.float32)
    b = rng.standard_normal(shape.out_channels, dtype=np.float32)
    inputs = [_make_value("x", (shape.batch, shape.in_channels, *shape.input_size))]
    nodes = [_make_conv(shape)]
    if shape.adds:
        inputs.append(_make_value("other", (shape.batch, shape.out_channels, *find_output_size(shape))))
        nodes.append(helper.make_node("MaxPool", ["other"], [FEED], name=FEED, kernel_shape=[1] * len(shape.kernel)))
        nodes.append(helper.make_node("Add", [nodes[0].output[0], FEED], ["sum"], name="sum"))
    last = nodes[-1].output[0]
    if shape.activation:
        limits = ["", "six"] if shape.activation == "Clip" else []
        nodes.append(helper.make_node(shape.activation, [last, *limits], ["act"], name="act"))
    nodes[-1].output[0] = "y"
    weights = [numpy_helper.from_array(W / np.sqrt(W[0].size, dtype=np.float32), "W"), numpy_helper.from_array(b, "b")]
    if shape.activation == "Clip":
        weights.append(numpy_helper.from_array(np.array(6, np.float32), "six"))
    output = _make_value("y", (shape.batch, shape.out_channels, *find_output_size(shape)))
    return _serialize(helper.make_graph(nodes, "layer", inputs, [output], weights))


def make_stack_model(shape: ConvShape, depth: int) -> bytes:
    """Return a model of `depth` Convs of the same shape, one after the other.

    Args:
        shape: A Conv with as many output as input channels and pixels.
        depth: How many.
    """
    W = np.full((shape.out_channels, shape.in_channels, *shape.kernel), 1e-3, dtype=np.float32)
    nodes = []
    for index in range(depth):
        node = _make_conv(shape)
        node.name, node.input[0], node.output[0] = f"conv{index}", f"y{index}" if index else "x", f"y{index + 1}"
        nodes.append(node)
    graph = helper.make_graph(
        nodes,
        "stack",
        [_make_value("x", (shape.batch, shape.in_channels, *shape.input_size))],
        [_make_value(f"y{depth}", (shape.batch, shape.out_channels, *shape.input_size))],
        [numpy_helper.from_array(W, "W"), numpy_helper.from_array(np.zeros(shape.out_channels, np.float32), "b")],
    )
    return _serialize(graph)


def _serialize(graph: GraphProto) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    content: bytes = model.SerializeToString()
    return content


def _make_conv(shape: ConvShape) -> NodeProto:
    pads = {"pads": shape.pads} if shape.auto_pad == "NOTSET" else {"auto_pad": shape.auto_pad}
    return helper.make_node(
        "Conv", ["x", "W", "b"], ["conv"], name="conv",
        strides=shape.strides, dilations=shape.dilations, group=shape.group, **pads,
    )  # fmt: skip


def _make_value(name: str, shape: Sequence[int]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
