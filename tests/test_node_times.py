"""Nodes that onnxruntime times are traced back to the model's own."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.node_times import NodeNames, assign_times
from onnx_basisprune.planning.types import Program
from onnx_basisprune.runtime.profiling import NodeTime, profile_nodes

# Sixteen channels fill the blocks of onnxruntime's kernels on any CPU that has blocked ones.
BODY = """
    zero = Constant <value = float[1] {0}> ()
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
    n1 = BatchNormalization (c1, s, s, s, s)
    r1 = Relu (n1)
    p1 = MaxPool <kernel_shape = [2, 2]> (r1)
    n2 = BatchNormalization (p1, s, s, s, s)
    c2 = Conv <pads = [1, 1, 1, 1]> (n2, w2)
    a2 = Add (c2, p1)
    y = Relu (a2)
"""
NAMES = ["zero", "conv1", "norm1", "relu1", "pool1", "norm2", "conv2", "add2", "relu2"]


def build_model(names: list[str] | None = None) -> onnx.ModelProto:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 16, 8, 8] x) => (float[N, 16, 4, 4] y) {{ {BODY} }}"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in (("w1", (16, 16, 3, 3)), ("w2", (16, 16, 3, 3)), ("s", (16,))):
        values = np.abs(rng.standard_normal(shape)).astype(np.float32) + np.float32(0.5)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    for node, name in zip(model.graph.node, names or [""] * len(NAMES), strict=True):
        node.name = name
    return model


def read_names(model: onnx.ModelProto) -> NodeNames:
    return NodeNames.of(extract_program(model), [node.name for node in model.graph.node])


@pytest.mark.parametrize(
    ("name", "op_type", "found"),
    [
        ("conv1", "Conv", "conv1"),
        # In the blocked layout, after what was fused into it.
        ("r1_nchwc", "Conv", "conv1"),
        ("c2_nchwc", "Conv", "conv2"),
        ("y_nchwc", "Conv", "conv2"),
        ("p1_nchwc", "MaxPool", "pool1"),
        # A BatchNormalization becomes a Conv of its own where there is none before it.
        ("n2_bn_nchwc", "Conv", "norm2"),
        ("fused conv1", "FusedConv", "conv1"),
        ("conv2/MatMulAddFusion", "Gemm", "conv2"),
        ("conv2_token_17", "Conv", "conv2"),
        ("ReorderOutput_token_51", "ReorderOutput", None),
        ("ReorderInput", "ReorderInput", None),
        ("elsewhere_nchwc", "Conv", None),
    ],
)
def test_finds_the_node_behind_a_name(name: str, op_type: str, found: str | None) -> None:
    operation = read_names(build_model(NAMES)).trace([NodeTime(name, op_type, 1.0)])[0]
    assert (None if operation is None else operation.name) == found


def test_nodes_without_a_name_are_counted_as_onnxruntime_does() -> None:
    names = read_names(build_model())
    # The Constant isn't a node to onnxruntime any more.
    for name, op_type, found in (
        ("Conv_0", "Conv", "Conv_1"),
        ("MaxPool_3", "MaxPool", "MaxPool_4"),
        ("Conv_5", "Conv", "Conv_6"),
    ):
        operation = names.trace([NodeTime(name, op_type, 1.0)])[0]
        assert operation is not None
        assert operation.name == found


@pytest.mark.parametrize("given", [NAMES, None])
def test_what_onnxruntime_runs_is_traced_whole(given: list[str] | None) -> None:
    model = build_model(given)
    x = np.random.default_rng(0).standard_normal((1, 16, 8, 8), dtype=np.float32)
    times = profile_nodes(model.SerializeToString(), {"x": x}, threads=1, runs=3, warmup=1)
    names = read_names(model)
    found = names.trace(times)
    kinds = [operation.op_type for operation in found if operation is not None]
    # Each once and in order, whatever this machine's onnxruntime fuses; what it fuses is told as the Conv.
    assert kinds == [kind for kind in ("Conv", "MaxPool", "BatchNormalization", "Conv", "Add", "Relu") if kind in kinds]
    assert kinds.count("Conv") == 2 or kinds.count("BatchNormalization") == 0
    assert "MaxPool" in kinds
    assert all(operation is not None or "Reorder" in time.op_type for operation, time in zip(found, times, strict=True))


def test_times_add_up_by_node() -> None:
    program: Program = extract_program(build_model(NAMES))
    times = [
        NodeTime("ReorderInput", "ReorderInput", 2.0),
        NodeTime("r1_nchwc", "Conv", 10.0),
        NodeTime("relu1", "Relu", 3.0),
        NodeTime("fused conv2", "FusedConv", 5.0),
        NodeTime("ReorderOutput", "ReorderOutput", 4.0),
    ]
    assert assign_times(program, times) == {"": 6.0, "conv1": 10.0, "relu1": 3.0, "conv2": 5.0}
    assert assign_times(program, []) == {"": 0.0}


SUM = """
<ir_version: 8, opset_import: ["" : 17]>
sum (float[1, 16, 8, 8] x) => (float[1, 16, 8, 8] y)
<float[16, 16, 1, 1] w, float[16] b>
{
    [first] one = Conv(x, w)
    [second] two = Conv(x, w)
    [add] total = Add(one, two)
    [biased] shifted = Add(total, b)
    [act] y = Erf(shifted)
}
"""


@pytest.mark.parametrize(("own", "fused"), [("one", "second"), ("two", "first")])
def test_of_two_summed_convs_the_fused_one_is_the_other(own: str, fused: str) -> None:
    program = extract_program(onnx.parser.parse_model(SUM))
    times = [NodeTime(f"{own}_nchwc", "Conv", 3.0), NodeTime("total_nchwc", "Conv", 7.0)]
    by_itself = "first" if fused == "second" else "second"
    assert assign_times(program, times) == {"": 0.0, by_itself: 3.0, fused: 7.0}


def test_a_fusion_of_unknown_name_is_what_reads_the_node_before() -> None:
    program = extract_program(onnx.parser.parse_model(SUM))
    times = [NodeTime("add", "Add", 3.0), NodeTime("BiasGelu_token_1", "BiasGelu", 7.0)]
    assert assign_times(program, times) == {"": 0.0, "add": 3.0, "biased": 7.0}
