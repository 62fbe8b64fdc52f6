"""Strange but valid models: each goes through the real `compress`, and what comes out runs in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.errors import ConfigError, ModelError
from onnx_basisprune.graph.model_io import load_model, passes_full_check
from onnx_basisprune.inspection import inspect_model
from onnx_basisprune.pipeline import compress
from onnx_basisprune.results import CompressionReport

CLASSES, COUNT, TARGET = 4, 60, 0.6
Array = NDArray[Any]
Change = Callable[[ModelProto], None]


@pytest.fixture(autouse=True)
def _same_clock_everywhere(fake_clock: Any) -> None:
    """Times are made up: what can be cut mustn't depend on the machine."""


BODY = """
    a = Conv <pads = [1, 1, 1, 1]> (x, w0)
    b = Relu (a)
    c = Conv <pads = [1, 1, 1, 1]> (b, w1, b1)
    d = Relu (c)
    e = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (d, w2)
    f = Relu (e)
"""
TAIL = """
    g = GlobalAveragePool (f)
    h = Flatten (g)
    y = Gemm <transB = 1> (h, fc, fcb)
"""
SHAPES: dict[str, tuple[int, ...]] = {
    "w0": (12, 3, 3, 3),
    "w1": (16, 12, 3, 3),
    "b1": (16,),
    "w2": (16, 16, 3, 3),
    "fc": (CLASSES, 16),
    "fcb": (CLASSES,),
}
NET = BODY + TAIL


def leave_as_it_is(model: ModelProto) -> None:
    """Change nothing."""


@dataclass(frozen=True)
class Strange:
    """A model as ONNX text, its weights, and what is special about it.

    Attributes:
        nodes: The graph's nodes; `y` holds the class scores.
        inputs: The graph's inputs.
        outputs: The graph's outputs.
        opsets: Operator sets.
        functions: Local functions.
        shapes: Of the weights by name, drawn at random.
        constants: Further initializers.
        image: Shape of one image.
        change: Done to the model in the end.
        options: Of the run.
        fed: What inputs beside the images are fed; of one image, where their first dimension is open.
        blocked: What the reason of a blocked group begins with.
        uncounted: Nodes whose multiply-adds aren't known.
    """

    nodes: str = NET
    inputs: str = "float[N, 3, 8, 8] x"
    outputs: str = f"float[N, {CLASSES}] y"
    opsets: str = '"" : 17'
    functions: str = ""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=lambda: SHAPES)
    constants: dict[str, Array] = field(default_factory=dict)
    image: tuple[int, ...] = (3, 8, 8)
    change: Change = leave_as_it_is
    options: dict[str, Any] = field(default_factory=dict)
    fed: dict[str, Array] = field(default_factory=dict)
    blocked: str = ""
    uncounted: tuple[str, ...] = ()

    def make_model(self) -> ModelProto:
        """Return the model; every class is predicted for some images."""
        text = (
            f"<ir_version: 8, opset_import: [{self.opsets}]> net ({self.inputs}) => ({self.outputs}) {{{self.nodes}}}"
        )
        model = onnx.parser.parse_model(text + self.functions)
        rng = np.random.default_rng(0)
        for name, shape in self.shapes.items():
            values = rng.standard_normal(shape) / np.sqrt(max(1, prod(shape[1:]) / 2))
            model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in self.constants.items())
        self.change(model)
        bias = next(tensor for tensor in model.graph.initializer if tensor.name == "fcb")
        values = numpy_helper.to_array(bias)
        values = values - np.median(self.run(model, self.draw_images())["y"], axis=0).astype(values.dtype)
        bias.CopyFrom(numpy_helper.from_array(values, bias.name))
        return model

    def run(self, model: ModelProto, x: Array) -> dict[str, Array]:
        """Return the outputs of this model, or one made of it, for images, by name."""
        return run_model(model, x, self.fed)

    @property
    def feed(self) -> tuple[str, ...]:
        """The values of inputs beside the images as options."""
        return tuple(f"{name}={','.join(map(str, array.flat))}" for name, array in self.fed.items())

    def draw_images(self) -> Array:
        """Return float32 images `[COUNT, *image]` of a few directions and some noise."""
        rng = np.random.default_rng(1)
        directions, noise = rng.standard_normal((6, prod(self.image))), rng.standard_normal((COUNT, prod(self.image)))
        x = rng.standard_normal((COUNT, 6)) @ directions / 2 + 0.1 * noise
        return np.ascontiguousarray(x.reshape(COUNT, *self.image).astype(np.float32))


def run_model(model: ModelProto, x: Array, fed: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """Return a model's outputs for images, by name."""
    fed = fed or {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    spec = next(spec for spec in session.get_inputs() if spec.name not in fed)
    rest = {
        item.name: np.repeat(fed[item.name][None], len(x), 0)
        if isinstance([*item.shape, 0][0], str)
        else fed[item.name]
        for item in session.get_inputs()
        if item.name in fed
    }
    names = [output.name for output in session.get_outputs()]
    x = x.astype(np.float16) if spec.type == "tensor(float16)" else x
    if len(spec.shape) < x.ndim:  # no batch axis
        rows = [[array.reshape(-1) for array in session.run(names, {spec.name: image, **rest})] for image in x]
        return {name: np.stack(found) for name, found in zip(names, zip(*rows, strict=True), strict=True)}
    fixed = spec.shape[0] if isinstance(spec.shape[0], int) else len(x)
    pieces = [session.run(names, {spec.name: piece, **rest}) for piece in np.split(x, len(x) // fixed)]
    return {name: np.concatenate(found) for name, found in zip(names, zip(*pieces, strict=True), strict=True)}


def make_half(model: ModelProto) -> None:
    """Turn all floats into float16."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16


def make_inner_half(model: ModelProto) -> None:
    """Turn all floats into float16, but for inputs and outputs."""
    make_half(model)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT


def store_as_half(model: ModelProto) -> None:
    """Store all weights of Convs as float16, behind a Cast to float32."""
    for position, name in enumerate(("w0", "w1", "w2")):
        tensor = next(item for item in model.graph.initializer if item.name == name)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{name}.stored"))
        model.graph.node.insert(position, helper.make_node("Cast", [f"{name}.stored"], [name], to=TensorProto.FLOAT))


def make_subnormal(model: ModelProto) -> None:
    """Make half of the weights too small for the normal range."""
    for tensor in model.graph.initializer:
        if tensor.name in ("w1", "w2"):
            values = numpy_helper.to_array(tensor).copy()
            values.flat[::4], values.flat[1::4] = 1e-41, -3e-39
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def rewrite_dimensions(count: int) -> dict[str, Any]:
    """Return the nodes and weights of the same network with 1 or 3 dimensions."""
    nodes = NET.replace("[1, 1, 1, 1]", str([1] * 2 * count)).replace("[2, 2]", str([2] * count))
    return {
        "nodes": nodes,
        "shapes": {name: shape[:2] + (3,) * count if len(shape) == 4 else shape for name, shape in SHAPES.items()},
    }


MICROSOFT = '"" : 17, "com.microsoft" : 1'
STRANGE: dict[str, Strange] = {
    "float16": Strange(inputs="float[N, 3, 8, 8] x", change=make_half),
    "float16 within": Strange(
        nodes="x16 = Cast <to = 10> (x)"
        + NET.replace("(x,", "(x16,").replace("y =", "y16 =")
        + "y = Cast <to = 1> (y16)",
        change=make_inner_half,
    ),
    "float16 weights": Strange(change=store_as_half),
    "1-D": Strange(**rewrite_dimensions(1), inputs="float[N, 3, 32] x", image=(3, 32)),
    "3-D": Strange(**rewrite_dimensions(3), inputs="float[N, 3, 4, 6, 6] x", image=(3, 4, 6, 6)),
    "everything dynamic": Strange(inputs="float[N, C, H, W] x", outputs="float[N, K] y"),
    "batch of 1": Strange(inputs="float[1, 3, 8, 8] x", outputs=f"float[1, {CLASSES}] y"),
    "no batch axis": Strange(
        nodes="u = Unsqueeze (x, first)" + NET.replace("(x,", "(u,").replace("y =", "z =") + "y = Squeeze (z, first)",
        inputs="float[3, 8, 8] x",
        outputs=f"float[{CLASSES}] y",
        constants={"first": np.array([0])},
    ),
    "no batch axis at the input, opset 11": Strange(
        nodes="u = Unsqueeze <axes = [0]> (x)" + NET.replace("(x,", "(u,").replace("y =", "z =") + "y = Identity (z)",
        inputs="float[3, 8, 8] x",
        outputs=f"float[1, {CLASSES}] y",
        opsets='"" : 11',
    ),
    "subnormal weights": Strange(change=make_subnormal),
    "shared weights": Strange(
        nodes=NET.replace("f = Relu (e)", "r = Relu (e) s = Conv <pads = [1, 1, 1, 1]> (r, w2) f = Relu (s)")
    ),
    "several outputs": Strange(
        nodes=NET + "p = GlobalMaxPool (e) k = Conv (d, w3) side = Conv (k, w4)",
        outputs=f"float[N, 16, 1, 1] p, float[N, {CLASSES}] y, float[N, 8, 8, 8] side",
        shapes=SHAPES | {"w3": (16, 16, 1, 1), "w4": (8, 16, 1, 1)},
        options={"scores": "y"},
        blocked="it is an output of the model, p",
    ),
    "labels before scores": Strange(
        nodes=NET + "label = ArgMax <axis = 1, keepdims = 0> (y)", outputs=f"int64[N] label, float[N, {CLASSES}] y"
    ),
    "If": Strange(
        nodes=NET.replace(
            "f = Relu (e)",
            """m = ReduceMean <keepdims = 0> (x) is_positive = Greater (m, zero)
            f = If (is_positive) <
                then_branch = yes () => (float[N, 16, 4, 4] t) { t = Relu (e) },
                else_branch = no () => (float[N, 16, 4, 4] u) { u = LeakyRelu (e) }>""",
        ),
        constants={"zero": np.array(0, np.float32)},
        blocked="If If_7: it has no channel rule",
        uncounted=("If",),
    ),
    "Loop": Strange(
        nodes=NET.replace(
            "f = Relu (e)",
            """f = Loop (three, yes, e) <body = turn (int64 i, bool go, float[N, 16, 4, 4] v)
            => (bool again, float[N, 16, 4, 4] w) { again = Identity (go) r = Relu (v) w = Add (r, shift) }>""",
        ),
        constants={"three": np.array(3), "yes": np.array(True), "shift": np.full((16, 1, 1), 0.1, np.float32)},
        blocked="Loop Loop_5: it has no channel rule",
        uncounted=("Loop",),
    ),
    "Scan": Strange(
        nodes=NET.replace(
            "f = Relu (e)",
            """start = ReduceMean <axes = [2], keepdims = 0> (e)
            last, rows = Scan <num_scan_inputs = 1, scan_input_axes = [2], scan_output_axes = [2],
            body = row (float[N, 16, 4] total, float[N, 16, 4] v) => (float[N, 16, 4] next, float[N, 16, 4] w)
            { next = Add (total, v) r = Relu (next) w = Mul (r, half) }> (start, e) f = Identity (rows)""",
        ),
        constants={"half": np.array(0.5, np.float32)},
        blocked="Scan Scan_6: it has no channel rule",
        uncounted=("Scan",),
    ),
    "local function": Strange(
        nodes=NET.replace("f = Relu (e)", "f = local.Activate <slope = 0.2> (e)"),
        opsets='"" : 17, "local" : 1',
        functions="""<domain: "local", opset_import: ["" : 17]>
            Activate <slope> (v) => (w) { p = LeakyRelu <alpha: float = @slope> (v) w = Add (p, p) }""",
        blocked="Activate Activate_5: it has no channel rule",
        uncounted=("Activate",),
    ),
    "custom domain": Strange(
        nodes=NET.replace("b = Relu (a)", "b = com.microsoft.QuickGelu <alpha = 1.7> (a)"),
        opsets=MICROSOFT,
        blocked="QuickGelu QuickGelu_1: it has no channel rule",
        uncounted=("QuickGelu",),
    ),
    "custom domain beside the scores": Strange(
        nodes=NET + "side = com.microsoft.QuickGelu <alpha = 1.7> (d)",
        opsets=MICROSOFT,
        outputs=f"float[N, {CLASSES}] y, float[N, 16, 8, 8] side",
        blocked="QuickGelu QuickGelu_9: it has no channel rule",
        uncounted=("QuickGelu",),
    ),
    "no Conv": Strange(
        nodes="""h = Gemm <transB = 1> (x, w0, b0) r = Relu (h) k = Gemm <transB = 1> (r, w1) s = Relu (k)
        y = Gemm <transB = 1> (s, fc, fcb)""",
        inputs="float[N, 20] x",
        image=(20,),
        shapes={"w0": (32, 20), "b0": (32,), "w1": (24, 32), "fc": (CLASSES, 24), "fcb": (CLASSES,)},
    ),
    "a fed switch, number and vector": Strange(
        nodes=NET.replace("b = Relu (a)", "r = Relu (a) q, _ = Dropout (r, half, train) b = Mul (q, gain)").replace(
            "y = Gemm <transB = 1> (h, fc, fcb)", "z = Div (h, temperature) y = Gemm <transB = 1> (z, fc, fcb)"
        ),
        inputs="float[1, 12, 1, 1] gain, bool train, float[N, 3, 8, 8] x, float temperature",
        constants={"half": np.array(0.5, np.float32)},
        fed={
            "gain": np.linspace(0.5, 1, 12, dtype=np.float32).reshape(1, 12, 1, 1),
            "train": np.array(False),
            "temperature": np.array(0.5, np.float32),
        },
    ),
    "a fed mask and size for each image": Strange(
        nodes=NET.replace("b = Relu (a)", "r = Relu (a) m = Mul (r, mask) b = Concat <axis = 1> (m, mask)").replace(
            "y = Gemm <transB = 1> (h, fc, fcb)",
            """s = Cast <to = 1> (size) z = ReduceMean <axes = [1]> (s) k = Mul (h, z)
            y = Gemm <transB = 1> (k, fc, fcb)""",
        ),
        inputs="float[N, 3, 8, 8] x, float[M, 1, 8, 8] mask, int64[N, 2] size",
        shapes=SHAPES | {"w1": (16, 13, 3, 3)},
        fed={"mask": np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8), "size": np.array([1, 3])},
    ),
    "a fed input in float16": Strange(
        nodes=NET.replace("b = Relu (a)", "r = Relu (a) b = Mul (r, mask)"),
        inputs="float[N, 1, 8, 8] mask, float[N, 3, 8, 8] x",
        change=make_half,
        fed={"mask": np.linspace(0, 1, 64, dtype=np.float16).reshape(1, 8, 8)},
    ),
    "a fed size without a batch axis": Strange(
        nodes="u = Unsqueeze (x, first)"
        + BODY.replace("(x,", "(u,")
        + """s = Cast <to = 1> (size) q = ReduceProd <keepdims = 0> (s) g = GlobalAveragePool (f) h = Flatten (g)
        k = Div (h, q) z = Gemm <transB = 1> (k, fc, fcb) y = Squeeze (z, first)""",
        inputs="int32[2] size, float[3, 8, 8] x",
        outputs=f"float[{CLASSES}] y",
        constants={"first": np.array([0])},
        fed={"size": np.array([2, 3], np.int32)},
    ),
    "an input with a default": Strange(
        nodes=NET.replace("b = Relu (a)", "r = Relu (a) b = Mul (r, gain)"),
        inputs="float[N, 3, 8, 8] x, float[1] gain",
        constants={"gain": np.array([0.9], np.float32)},
    ),
}


def write_case(strange: Strange, folder: Path) -> CompressionConfig:
    """Write a model and images that are labelled with its own predictions."""
    model, x = strange.make_model(), strange.draw_images()
    labels = strange.run(model, x)["y"].reshape(COUNT, -1).argmax(axis=1)
    assert len(np.unique(labels)) == CLASSES
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    np.savez(folder / "data.npz", x=x, y=labels)
    return CompressionConfig(
        model=folder / "model.onnx",
        data=folder / "data.npz",
        output=folder / "small.onnx",
        target_macs=TARGET,
        recover_steps=5,
        batch_size=8,
        threads=1,
        align=1,
        limit=32,
        feed=strange.feed,
        **strange.options,
    )


def compress_and_check(strange: Strange, folder: Path) -> tuple[CompressionReport, ModelProto, ModelProto]:
    """Compress a strange model, and check what holds of them all."""
    config = write_case(strange, folder)
    report = compress(config)
    before, after = load_model(config.model), load_model(folder / "small.onnx")
    assert report.original.accuracy is not None
    assert report.original.accuracy.top1 == 1.0
    assert (after.graph.input, after.graph.output) == (before.graph.input, before.graph.output)
    assert after.opset_import == before.opset_import
    assert list(after.functions) == list(before.functions)
    assert not passes_full_check(before) or passes_full_check(after)
    assert report.compressed.uncounted_ops == strange.uncounted
    assert [group.blocked_by for group in report.groups if strange.blocked in group.blocked_by]
    x = strange.draw_images()
    old, new = strange.run(before, x), strange.run(after, x)
    assert {name: array.shape for name, array in old.items()} == {name: array.shape for name, array in new.items()}
    # Far from chance, a quarter; cut by 40 % and tuned for five steps.
    assert (old["y"].reshape(COUNT, -1).argmax(1) == new["y"].reshape(COUNT, -1).argmax(1)).mean() >= 0.6
    assert report.compressed.accuracy is not None
    assert report.compressed.accuracy.n == COUNT // 5
    inspection = inspect_model(config.model, input_shape=(1, *strange.image), feed=strange.feed)
    assert (inspection.macs, inspection.parameters) == (report.original.macs, report.original.parameters)
    assert inspection.uncounted_ops == strange.uncounted
    return report, before, after


@pytest.mark.parametrize("name", STRANGE)
def test_strange_models_are_compressed(name: str, tmp_path: Path) -> None:
    report, before, after = compress_and_check(STRANGE[name], tmp_path)
    assert "target_macs" in [gate.name for gate in report.gates if gate.passed]
    assert report.compressed.macs <= TARGET * report.original.macs
    kept = {node.output[0]: node for node in after.graph.node}
    for node in before.graph.node:
        if node.op_type in STRANGE[name].uncounted:
            assert list(kept[node.output[0]].attribute) == list(node.attribute)
    types = {tensor.data_type for tensor in before.graph.initializer}
    assert {tensor.data_type for tensor in after.graph.initializer} <= types | {TensorProto.INT64}
    if TensorProto.FLOAT16 in types:
        weights = [tensor for tensor in after.graph.initializer if len(tensor.dims) == 4]
        assert {tensor.data_type for tensor in weights} == {TensorProto.FLOAT16}


def test_float16_comes_back_as_it_was_where_nothing_is_cut(tmp_path: Path) -> None:
    strange = replace(STRANGE["float16"], options={"exclude": (), "recover": "none"})
    config = replace(write_case(strange, tmp_path), target_macs=1.0)
    compress(config)
    before, after = load_model(config.model), load_model(tmp_path / "small.onnx")
    assert list(after.graph.initializer) == list(before.graph.initializer)


def test_outputs_beside_the_scores_keep_their_values_where_nothing_they_share_is_cut(tmp_path: Path) -> None:
    strange = replace(
        STRANGE["several outputs"], nodes=NET + "p = GlobalMaxPool (e) k = Conv (x, w3) side = Conv (k, w4)"
    )
    strange = replace(strange, shapes=SHAPES | {"w3": (16, 3, 1, 1), "w4": (8, 16, 1, 1)})
    _, before, after = compress_and_check(strange, tmp_path)
    x = strange.draw_images()
    # The loss doesn't see this branch: it isn't worthless, but left alone.
    np.testing.assert_array_equal(run_model(after, x)["side"], run_model(before, x)["side"])


def test_defaults_of_inputs_are_never_trained(tmp_path: Path) -> None:
    strange = STRANGE["an input with a default"]
    nodes = strange.nodes.replace("y = Gemm", "z = Gemm") + "y = Add (z, shift)"
    strange = replace(
        strange,
        nodes=nodes,
        inputs=f"{strange.inputs}, float[{CLASSES}] shift, float[{CLASSES}] fcb",
        constants=strange.constants | {"shift": np.linspace(0, 0.1, CLASSES, dtype=np.float32)},
        options={"recover": "full"},
    )
    _, before, after = compress_and_check(strange, tmp_path)
    kept = {tensor.name: tensor for tensor in after.graph.initializer}
    for name in ("gain", "shift", "fcb"):
        assert kept[name] == next(tensor for tensor in before.graph.initializer if tensor.name == name)


def test_scores_of_another_name_are_refused(tmp_path: Path) -> None:
    config = write_case(STRANGE["several outputs"], tmp_path)
    with pytest.raises(ConfigError, match=r"--scores 'q': .* expected one of 'p', 'y', 'side'"):
        compress(replace(config, scores="q"))


def test_a_linear_model_has_nothing_to_prune(tmp_path: Path) -> None:
    strange = Strange(
        nodes="h = Flatten (x) y = Gemm <transB = 1> (h, fc, fcb)", shapes={"fc": (CLASSES, 192), "fcb": (CLASSES,)}
    )
    report = compress(write_case(strange, tmp_path))
    assert [gate.name for gate in report.gates if not gate.passed] == ["target_macs"]
    assert any("nothing to prune" in warning for warning in report.warnings)


def test_why_there_is_nothing_to_prune(tmp_path: Path) -> None:
    strange = Strange(
        nodes="[only] a = Conv (x, w) p = GlobalAveragePool (a) h = Flatten (p) y = Gemm <transB = 1> (h, fc, fcb)",
        shapes={"w": (6, 3, 3, 3), "fc": (CLASSES, 6), "fcb": (CLASSES,)},
    )
    report = compress(replace(write_case(strange, tmp_path), exclude=("only",)))
    assert any("can be decomposed (mostly: excluded by --exclude) and no channel" in line for line in report.warnings)


def test_quantised_models_are_refused(tmp_path: Path) -> None:
    nodes = NET.replace("d = Relu (c)", "r = Relu (c) q = QuantizeLinear (r, s, z) d = DequantizeLinear (q, s, z)")
    constants = {"s": np.array(0.05, np.float32), "z": np.array(0, np.uint8)}
    with pytest.raises(ModelError, match=r"'q' \(QuantizeLinear\) is quantized; .* compress the model that was"):
        compress(write_case(Strange(nodes=nodes, constants=constants), tmp_path))
    assert not (tmp_path / "small.onnx").exists()


def test_several_images_are_refused(tmp_path: Path) -> None:
    config = write_case(STRANGE["an input with a default"], tmp_path)
    model = load_model(config.model)
    kept = [tensor for tensor in model.graph.initializer if tensor.name != "gain"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    config.model.write_bytes(model.SerializeToString())
    with pytest.raises(
        ModelError, match=r"has 2 inputs \('x' float32\[\?, 3, 8, 8\], 'gain' float32\[1\]\); .* --feed"
    ):
        compress(config)


def test_external_data_stays_external(tmp_path: Path) -> None:
    wide = SHAPES | {"w1": (64, 12, 3, 3), "b1": (64,), "w2": (64, 64, 3, 3), "fc": (CLASSES, 64)}
    config = write_case(Strange(shapes=wide), tmp_path)
    onnx.save(load_model(config.model), config.model, save_as_external_data=True, location="w.bin", size_threshold=0)
    report = compress(config)
    data = tmp_path / "small.onnx.data"
    # float32; biases and small weights stay in the model's own file, and places are rounded up to whole pages.
    assert 2 * report.compressed.parameters < data.stat().st_size < 4 * report.compressed.parameters + 10 * 4096
    x = Strange().draw_images()[:3]
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    whole = run_model(load_model(tmp_path / "small.onnx"), x)["y"]
    np.testing.assert_allclose(session.run(["y"], {"x": x})[0], whole, rtol=0, atol=1e-5)
