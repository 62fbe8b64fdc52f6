"""Which consumers take over what removed channels told them, and that they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from onnx_basisprune import compensating
from onnx_basisprune.assessment import Assessment, Calibration, assess_network
from onnx_basisprune.compensating import list_compensated, measure_padding
from onnx_basisprune.cutting import cut_network
from onnx_basisprune.data.batches import Batch
from onnx_basisprune.graph.head import find_head
from onnx_basisprune.graph.model_io import serialize_model
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.network import Network, read_network
from onnx_basisprune.planning.types import Operation, Plan
from onnx_basisprune.progress import Silence
from onnx_basisprune.runtime.session import Session

IMAGES = np.random.default_rng(1).standard_normal((24, 3, 6, 6)).astype(np.float32)


@pytest.mark.parametrize(
    ("size", "kernel", "attributes"),
    [
        ((7, 9), (3, 3), {"pads": [1, 1, 1, 1]}),
        ((7, 9), (3, 5), {"pads": [1, 2, 0, 3], "strides": [2, 1]}),
        ((8, 8), (3, 3), {"pads": [2, 2, 2, 2], "dilations": [2, 2]}),
        ((8, 9), (3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((8, 9), (4, 4), {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
        ((7, 9), (3, 3), {"auto_pad": "VALID"}),
        ((7, 9), (3, 3), {}),
        ((7, 9), (1, 1), {"strides": [2, 2]}),
        ((10,), (3,), {"pads": [1, 1]}),
        ((4, 5, 6), (3, 3, 3), {"pads": [1, 1, 1, 1, 1, 1]}),
    ],
)
def test_padding_against_onnxruntime(
    size: Sequence[int], kernel: Sequence[int], attributes: dict[str, list[int] | str]
) -> None:
    """A Conv of ones over ones counts the taps that read the image."""
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="c", **attributes)
    image = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, *size])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 1, *[None] * len(size)])
    weight = numpy_helper.from_array(np.ones((1, 1, *kernel), np.float32), "w")
    graph = onnx.helper.make_graph([node], "g", [image], [result], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (y,) = Session(serialize_model(model)).run({"x": np.ones((1, 1, *size), np.float32)})
    operation = Operation("c", "Conv", "", 17, ("x", "w"), ("y",), attributes)
    expected = 1.0 - y.mean() / np.prod(kernel)
    assert measure_padding(operation, size, y.shape[2:], kernel) == pytest.approx(expected, abs=1e-6)


def test_other_ops_have_no_padding() -> None:
    assert measure_padding(Operation("g", "Gemm", "", 17, ("x", "w"), ("y",), {}), (), (), ()) == 0.0


# -- copies ---------------------------------------------------------------------------------------------------------

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 6, 6] x) => (float[N, 3] z)
{{
    [stem] a = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
    r = Relu (a)
    {consumer}
}}
"""
CONSUMERS = {
    "padded Conv": "[use] b = Conv <pads = [1, 1, 1, 1]> (r, w1, b1) p = GlobalAveragePool (b) z = Flatten (p)",
    "Conv without bias": "[use] b = Conv (r, w1) p = GlobalAveragePool (b) z = Flatten (p)",
    "ConvTranspose": "[use] b = ConvTranspose (r, w2, b1) p = GlobalAveragePool (b) z = Flatten (p)",
    "Gemm": "p = GlobalAveragePool (r) f = Flatten (p) [use] z = Gemm <transB = 1> (f, w3, b1)",
    "scaled Gemm": "p = GlobalAveragePool (r) f = Flatten (p) [use] z = Gemm <alpha = 0.5, beta = 2.0> (f, w4, b1)",
    "wide Gemm": "p = AveragePool <kernel_shape = [3, 3], strides = [3, 3]> (r) f = Flatten (p) "
    "[use] z = Gemm <transB = 1> (f, w5, b1)",
    "MatMul": "p = GlobalAveragePool (r) f = Flatten (p) [use] z = MatMul (f, w4)",
    "single bias": "p = GlobalAveragePool (r) f = Flatten (p) [use] z = Gemm <transB = 1> (f, w3, b2)",
}
SHAPES = {
    "w0": (6, 3, 3, 3), "b0": (6,), "w1": (3, 6, 3, 3), "b1": (3,), "b2": (1,), "w2": (6, 3, 3, 3), "w3": (3, 6),
    "w4": (6, 3), "w5": (3, 24),
}  # fmt: skip


def make_model(consumer: str) -> ModelProto:
    """A stem whose channels 4 and 5 are 0.5 and 2 times channels 0 and 1, and a consumer."""
    model = onnx.parser.parse_model(TEXT.format(consumer=CONSUMERS[consumer]))
    rng = np.random.default_rng(0)
    read = {name for node in model.graph.node for name in node.input}
    for name, shape in SHAPES.items():
        values = rng.standard_normal(shape)
        if name in ("w0", "b0"):
            values[4:] = values[:2] * np.array([0.5, 2.0]).reshape(2, *[1] * (len(shape) - 1))
        if name in read:
            model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return model


def assess(model: ModelProto) -> tuple[Network, Assessment]:
    network = read_network(normalize_model(model), (1, 3, 6, 6), ())
    batches = [Batch(np.arange(12) + start, IMAGES[start : start + 12], None) for start in (0, 12)]
    calibration = Calibration(find_head(network.program), lambda: batches, 24, 0)
    return network, assess_network(network, calibration, "fisher", "double", Silence())


def cut(network: Network, assessment: Assessment, gone: Sequence[int], *, pairs: bool = False) -> NDArray[np.float32]:
    (group,) = (item for item in network.channels.groups if item.name == "stem")
    components = {name: np.arange(len(scores)) for name, scores in assessment.components.items()} if pairs else {}
    model, _ = cut_network(network, assessment, Plan(components, {"stem": np.delete(group.channels, gone)}))
    return Session(serialize_model(model)).run({"x": IMAGES})[0]


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("consumer", CONSUMERS)
def test_copies_are_not_missed(consumer: str, *, pairs: bool) -> None:
    model = make_model(consumer)
    network, assessment = assess(model)
    assert [item.edge[0] for item in assessment.compensated] == ["use"]
    expected = Session(serialize_model(model)).run({"x": IMAGES})[0]
    found = cut(network, assessment, [4, 5], pairs=pairs)
    # The ridge of 1e-4.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3 * np.abs(expected).max())
    bare = Assessment(assessment.bases, assessment.components, assessment.channels, assessment.reads, ())
    without = cut(network, bare, [4, 5], pairs=pairs)
    assert np.abs(without - expected).max() > 20 * np.abs(found - expected).max()


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("consumer", ["Gemm", "scaled Gemm", "wide Gemm"])
def test_means_stay_where_a_bias_can_take_them(consumer: str, *, pairs: bool) -> None:
    """Whatever is removed: outputs of a linear consumer keep their mean over the calibration images."""
    model = make_model(consumer)
    network, assessment = assess(model)
    expected = Session(serialize_model(model)).run({"x": IMAGES})[0]
    found = cut(network, assessment, [0, 1, 2, 4], pairs=pairs)
    assert np.abs(found - expected).max() > 1e-3
    np.testing.assert_allclose(found.mean(axis=0), expected.mean(axis=0), rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("consumer", "bias"), [("padded Conv", "b1"), ("Gemm", "b1"), ("MatMul", ""), ("single bias", "")]
)
def test_only_a_bias_of_its_own_takes_a_constant(consumer: str, bias: str) -> None:
    _, assessment = assess(make_model(consumer))
    (item,) = assessment.compensated
    assert item.bias == bias


def test_weights_that_are_shared_stay() -> None:
    shared = "q = Sigmoid (r) [use] b = MatMul (r1, w4) [too] c = MatMul (q1, w4) z = Add (b, c)"
    pools = "p = GlobalAveragePool (r) r1 = Flatten (p) "
    text = TEXT.format(consumer=pools + shared.replace("q = Sigmoid (r)", "q1 = Sigmoid (r1)"))
    model = make_model("MatMul")
    weights = list(model.graph.initializer)
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(weights)
    network, assessment = assess(model)
    # Two readers of one weight see different inputs: it can't make up for both.
    assert {read.node for read in network.channels.reads} == {"use", "too"}
    assert assessment.compensated == ()


def test_wide_inputs_and_channels_that_must_stay_are_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    network, assessment = assess(make_model("Gemm"))
    (item,) = assessment.compensated
    assert set(assessment.reads) == {item.tensor}
    groups = tuple(replace(group, blocked_by="for this test") for group in network.channels.groups)
    assert list_compensated(replace(network, channels=replace(network.channels, groups=groups))) == ()
    monkeypatch.setattr(compensating, "_WIDEST", len(item.read.labels))
    assert list_compensated(network) == (item,)
    monkeypatch.setattr(compensating, "_WIDEST", len(item.read.labels) - 1)
    assert list_compensated(network) == ()
