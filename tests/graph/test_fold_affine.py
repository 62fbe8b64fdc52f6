"""Every shape that broadcasts over a Conv's output gives the same before and after."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnx_basisprune.graph.normalize import normalize_model


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@st.composite
def chains(draw: st.DrawFn) -> tuple[onnx.ModelProto, np.ndarray, bool]:
    """A Conv and up to three affine nodes with constants of any shape that broadcasts.

    The flag tells whether all constants are one number per channel at most.
    """
    rank, outputs = draw(st.integers(1, 2)), draw(st.integers(1, 4))
    full = [2, outputs, *[3] * rank]
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    arrays = {"w": rng.standard_normal((outputs, 2, *[1] * rank), dtype=np.float32)}
    reads = ["x", "w"]
    if draw(st.booleans()):
        arrays["b"] = rng.standard_normal(outputs, dtype=np.float32)
        reads.append("b")
    nodes, last, per_channel = [helper.make_node("Conv", reads, ["t0"])], "t0", True
    for index in range(1, draw(st.integers(1, 3)) + 1):
        op, ndim = draw(st.sampled_from(["Mul", "Add", "Sub", "Div"])), draw(st.integers(0, len(full)))
        shape = [draw(st.sampled_from([1, size])) for size in full[len(full) - ndim :]]
        # Away from 0, for it is divided by.
        arrays[f"k{index}"] = ((0.5 + rng.random(shape)) * rng.choice([-1, 1], shape)).astype(np.float32)
        pair = [last, f"k{index}"]
        flipped = op != "Div" and draw(st.booleans())
        nodes.append(helper.make_node(op, pair[::-1] if flipped else pair, [f"t{index}"]))
        last = f"t{index}"
        varies = [size for axis, size in enumerate([1] * (len(full) - ndim) + shape) if axis != 1]
        per_channel &= max(varies) == 1
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2, *[3] * rank])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, full)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model, rng.standard_normal((2, 2, *[3] * rank), dtype=np.float32), per_channel


@given(chains())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_broadcast(case: tuple[onnx.ModelProto, np.ndarray, bool]) -> None:
    model, x, per_channel = case
    normal = normalize_model(model)
    onnx.checker.check_model(normal, full_check=True)
    assert ([node.op_type for node in normal.graph.node] == ["Conv", "Identity"]) == per_channel
    expected = run(model, x)
    # float32 rounding of up to four operations, relative to the largest value
    np.testing.assert_allclose(run(normal, x), expected, rtol=0, atol=3e-6 * max(1.0, np.abs(expected).max()))


@given(st.integers(0, 1000), st.sampled_from([7, 9, 14, 15]), st.booleans(), st.sampled_from([None, 1e-3, 0.5]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_batch_normalization(seed: int, opset: int, has_bias: bool, epsilon: float | None) -> None:
    rng = np.random.default_rng(seed)
    arrays = {name: rng.standard_normal(3, dtype=np.float32) for name in "bgsm"}
    arrays["w"] = rng.standard_normal((3, 2, 2, 2), dtype=np.float32)
    arrays["v"] = (rng.random(3) * 10.0 ** rng.integers(-6, 3, 3)).astype(np.float32)
    attributes = {} if epsilon is None else {"epsilon": epsilon}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"] if has_bias else ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", *"gsmv"], ["y"], **attributes),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 4, 4])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    x = rng.standard_normal((1, 2, 5, 5), dtype=np.float32)
    normal = normalize_model(model)
    assert [node.op_type for node in normal.graph.node] == ["Conv"]
    expected = run(model, x)
    np.testing.assert_allclose(run(normal, x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_negative_variance_and_odd_shapes_stay() -> None:
    def build(size: int, variance: float) -> onnx.ModelProto:
        arrays = {name: np.full(size, variance, np.float32) for name in "gsmv"}
        arrays["w"] = np.ones((3, 2, 1, 1), np.float32)
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("BatchNormalization", ["c", *"gsmv"], ["y"]),
        ]
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            nodes,
            "g",
            [value("x", TensorProto.FLOAT, [1, 2, 5, 5])],
            [value("y", TensorProto.FLOAT, [1, 3, 5, 5])],
            [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        )
        return helper.make_model(graph)

    for size, variance in ((3, -1.0), (1, 1.0), (3, float("nan"))):
        assert len(normalize_model(build(size, variance)).graph.node) == 2
