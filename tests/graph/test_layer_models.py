"""One-layer models: what stands for a Conv of a graph, its output's size, and that all of them run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnx_basisprune.graph.layer_models import (
    FEED,
    find_conv_shapes,
    find_output_size,
    make_layer_model,
    make_stack_model,
    split_pair,
)
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.graph.shapes import infer_shapes
from onnx_basisprune.planning.prices import ConvShape

SHAPE = ConvShape(4, 6, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), "NOTSET", 1, (8, 8))
ACTIVATIONS = ["", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid"]
Build = Callable[..., onnx.ModelProto]


@st.composite
def draw_shapes(draw: st.DrawFn) -> ConvShape:
    axes = draw(st.sampled_from([1, 2, 2, 2, 3]))

    def sizes(least: int, most: int, count: int = axes) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(least, most), min_size=count, max_size=count)))

    group = draw(st.sampled_from([1, 1, 2]))
    auto_pad = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    shape = ConvShape(
        in_channels=group * draw(st.integers(1, 3)),
        out_channels=group * draw(st.integers(1, 3)),
        kernel=sizes(1, 4),
        strides=sizes(1, 3),
        dilations=sizes(1, 2),
        pads=sizes(0, 3, 2 * axes) if auto_pad == "NOTSET" else (),
        auto_pad=auto_pad,
        group=group,
        input_size=sizes(1, 9),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        adds=draw(st.booleans()),
        batch=draw(st.integers(1, 2)),
    )
    assume(min(find_output_size(shape)) >= 1)
    return shape


@settings(max_examples=150, deadline=None)
@given(shape=draw_shapes())
def test_output_size_is_what_onnx_infers(shape: ConvShape) -> None:
    model = onnx.load_from_string(make_layer_model(shape))
    onnx.checker.check_model(model, full_check=True)
    inferred = infer_shapes(model)
    assert inferred["y"] == (shape.batch, shape.out_channels, *find_output_size(shape))


@settings(max_examples=40, deadline=None)
@given(shape=draw_shapes())
def test_every_layer_model_runs(shape: ConvShape) -> None:
    # onnxruntime has no kernel for dilations with SAME padding.
    assume(not shape.auto_pad.startswith("SAME") or set(shape.dilations) == {1})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(make_layer_model(shape), options, providers=["CPUExecutionProvider"])
    feeds = {value.name: np.ones(value.shape, np.float32) for value in session.get_inputs()}
    assert list(feeds) == (["x", "other"] if shape.adds else ["x"])
    (y,) = session.run(None, feeds)
    assert y.shape == (shape.batch, shape.out_channels, *find_output_size(shape))
    assert np.isfinite(y).all()


@pytest.mark.parametrize(
    ("changes", "nodes"),
    [
        ({}, ["Conv"]),
        ({"activation": "Relu"}, ["Conv", "Relu"]),
        ({"adds": True}, ["Conv", "MaxPool", "Add"]),
        ({"adds": True, "activation": "Clip"}, ["Conv", "MaxPool", "Add", "Clip"]),
    ],
)
def test_a_layer_is_its_conv_with_what_is_fused(changes: dict[str, object], nodes: list[str]) -> None:
    model = onnx.load_from_string(make_layer_model(replace(SHAPE, **changes)))
    assert [node.op_type for node in model.graph.node] == nodes
    assert model.graph.node[-1].output[0] == "y"
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    assert weights.pop("six", ()) == ()
    assert weights == {"W": (6, 4, 3, 3), "b": (6,)}
    if "MaxPool" in nodes:
        (pool,) = (node for node in model.graph.node if node.op_type == "MaxPool")
        assert (pool.name, list(pool.input), list(pool.output)) == (FEED, ["other"], [FEED])
    # The same shape gives the same model.
    assert make_layer_model(replace(SHAPE, **changes)) == model.SerializeToString()


def test_a_stack_is_a_chain() -> None:
    model = onnx.load_from_string(make_stack_model(replace(SHAPE, out_channels=4), 3))
    onnx.checker.check_model(model, full_check=True)
    assert [(node.op_type, node.input[0], node.output[0]) for node in model.graph.node] == [
        ("Conv", "x", "y1"), ("Conv", "y1", "y2"), ("Conv", "y2", "y3"),
    ]  # fmt: skip
    assert infer_shapes(model)["y3"] == (1, 4, 8, 8)


def test_a_pair_reads_as_its_conv_and_writes_as_its_conv() -> None:
    shape = replace(SHAPE, strides=(2, 1), pads=(0, 1, 0, 1), activation="Relu", adds=True, batch=3)
    basis, scaling = split_pair(shape)
    assert basis == replace(shape, activation="", adds=False)
    assert scaling == ConvShape(
        6, 6, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0), "NOTSET", 1, find_output_size(shape), "Relu", adds=True, batch=3
    )
    assert find_output_size(scaling) == find_output_size(shape) == find_output_size(basis)


# -- the Convs of a graph -------------------------------------------------------------------------------------------


def find(model: onnx.ModelProto, *names: str, batch: int = 1) -> dict[str, ConvShape]:
    program = extract_program(model)
    return find_conv_shapes(program, infer_shapes(model, {"x": (batch, 4, 8, 8)}), names)


CONV = "[c] c = Conv <pads = [1, 1, 1, 1]> (x, w)"
OTHER = "[d] d = Conv <pads = [1, 1, 1, 1]> (x, w) [p] e = MaxPool <kernel_shape = [1, 1]> (d)"


@pytest.mark.parametrize(
    ("nodes", "activation", "adds"),
    [
        (f"{CONV} y = Relu (c)", "Relu", False),
        (f"{CONV} y = Clip (c, zero, six)", "Clip", False),
        (f"{CONV} a = Relu (c) y = Sigmoid (a)", "Relu", False),
        (f"{CONV} {OTHER} a = Add (c, e) y = Relu (a)", "Relu", True),
        (f"{CONV} {OTHER} a = Add (e, c) y = Relu (a)", "Relu", True),
        (f"{CONV} {OTHER} y = Add (c, e)", "", True),
        (f"{CONV} {OTHER} a = Add (c, e) y = Erf (a)", "", True),
        (f"{CONV} {OTHER} r = Relu (c) y = Add (r, e)", "Relu", False),
        # Adding what lies in the file is no second tensor.
        (f"{CONV} a = Add (c, const) y = Relu (a)", "", False),
        # What is read twice is needed as it is.
        (f"{CONV} a = Relu (c) y = Mul (a, c)", "", False),
        (f"{CONV} m = Mul (c, const) a = Relu (c) y = Add (m, a)", "", False),
        (f"{CONV} {OTHER} a = Add (c, e) b = Relu (a) y = Mul (a, b)", "", True),
        # Nothing that onnxruntime fuses.
        (f"{CONV} y = MaxPool <kernel_shape = [1, 1]> (c)", "", False),
        (f"{CONV} a = Identity (c) y = Relu (a)", "", False),
    ],
)
def test_what_follows_a_conv(build: Build, nodes: str, activation: str, *, adds: bool) -> None:
    model = build(
        nodes, x="N, 4, 8, 8", y="N, 6, 8, 8", w=(6, 4, 3, 3), const=(1, 6, 1, 1),
        zero=np.float32(0).reshape(()), six=np.float32(6).reshape(()),
    )  # fmt: skip
    assert find(model, "c") == {"c": replace(SHAPE, activation=activation, adds=adds)}


def test_a_conv_that_is_an_output_is_not_fused(build: Build) -> None:
    model = build(f"{CONV} y = Relu (c)", x="N, 4, 8, 8", y="N, 6, 8, 8", w=(6, 4, 3, 3))
    model.graph.output.append(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, None))
    assert find(model, "c")["c"].activation == ""
    last = build("[c] y = Conv <pads = [1, 1, 1, 1]> (x, w)", x="N, 4, 8, 8", y="N, 6, 8, 8", w=(6, 4, 3, 3))
    assert find(last, "c") == {"c": SHAPE}


def test_attributes_and_batch_are_read(build: Build) -> None:
    model = build(
        """[a] a = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w)
           [b] b = Conv <dilations = [2, 1], pads = [0, 1, 2, 3], group = 2> (a, v)
           [c] y = Conv <auto_pad = "VALID"> (b, u)""",
        x="N, 4, 8, 8", y="N, K, H, W", w=(6, 4, 3, 3), v=(4, 3, 2, 3), u=(5, 4, 1, 1),
    )  # fmt: skip
    found = find(model, "c", "a", "b", batch=3)
    assert found == {
        "a": ConvShape(4, 6, (3, 3), (2, 2), (1, 1), (), "SAME_UPPER", 1, (8, 8), batch=3),
        "b": ConvShape(6, 4, (2, 3), (1, 1), (2, 1), (0, 1, 2, 3), "NOTSET", 2, (4, 4), batch=3),
        "c": ConvShape(4, 5, (1, 1), (1, 1), (1, 1), (), "VALID", 1, (4, 6), batch=3),
    }
    # In graph order, whatever order is asked for; nothing else.
    assert list(found) == ["a", "b", "c"]
    assert list(find(model, "b")) == ["b"]
