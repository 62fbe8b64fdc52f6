"""Which layers are re-fitted, that each kind of layer can be, and what it brings a real model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

import onnx_basisprune.refitting as refitting
from onnx_basisprune.assessment import Assessment, Calibration, assess_network
from onnx_basisprune.budget import Budget, list_removed, plan_cut
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.cutting import cut_network
from onnx_basisprune.data.batches import Batch
from onnx_basisprune.graph.head import find_head
from onnx_basisprune.graph.model_io import serialize_model
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.graph.rewrite import replace_initializers
from onnx_basisprune.graph.surgery import remove_channels
from onnx_basisprune.network import Network, read_network
from onnx_basisprune.opening import open_data, open_subject
from onnx_basisprune.planning.refit import RefitLayer
from onnx_basisprune.planning.types import Plan
from onnx_basisprune.progress import Silence
from onnx_basisprune.refit_layers import list_changed, list_refit_layers
from onnx_basisprune.refitting import choose_image_counts, measure_live, refit_network
from onnx_basisprune.runtime.session import Session

Assess = Callable[..., tuple[Network, Assessment]]
ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# -- every kind of layer ----------------------------------------------------------------------------------------------

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 4, 6, 6] x) => (float[N, 5] z)
{{
    {layer}
    r = Relu (a)
    p = GlobalAveragePool (r)
    f = Flatten (p)
    [head] z = Gemm <transB = 1> (f, wz, bz)
}}
"""
# Where a layer's weights are `w` and `b`, its output channels on which axis of `w`, and whether it has a bias to set.
TOKENS = "t = Transpose <perm = [0, 2, 3, 1]> (x) [use] m = MatMul (t, w) {} a = Transpose <perm = [0, 3, 1, 2]> ({})"
LINEAR = (
    "g = Flatten (x) [use] q = Gemm <alpha = 0.5, beta = 2.0> (g, w, b) "
    "s = Constant <value_ints = [0, 6, 1, 1]> () a = Reshape (q, s)"
)
# A position's two coordinates, mapped to what is added to its channels, as in Swin V2.
TABLE = (
    "t = Constant <value_floats = [{}]> () s = Constant <value_ints = [36, 2]> () c = Reshape (t, s) "
    "[use] m = Gemm (c, w, b) u = Transpose (m) v = Constant <value_ints = [1, 4, 6, 6]> () q = Reshape (u, v) "
    "a = Add (x, q)"
).format(", ".join(f"{value / 5:.1f}" for place in np.ndindex(6, 6) for value in place))
LAYERS: dict[str, tuple[str, tuple[int, ...], int, tuple[int, ...]]] = {
    "Conv": ("[use] a = Conv <pads = [1, 1, 1, 1]> (x, w, b)", (6, 4, 3, 3), 0, (6,)),
    "Conv without bias": ("[use] a = Conv (x, w)", (6, 4, 3, 3), 0, ()),
    "depthwise": ("[use] a = Conv <group = 4> (x, w, b)", (4, 1, 3, 3), 0, (4,)),
    "grouped": ("[use] a = Conv <group = 2> (x, w, b)", (6, 2, 3, 3), 0, (6,)),
    "ConvTranspose": ("[use] a = ConvTranspose (x, w, b)", (4, 6, 3, 3), 1, (6,)),
    "sum": ("y = Sigmoid (x) [use] c = Conv (x, w, b) a = Add (y, c)", (4, 4, 1, 1), 0, (4,)),
    "tokens": (TOKENS.format("n = Add (b, m)", "n"), (4, 6), 1, (6,)),
    "tokens without bias": (TOKENS.format("", "m"), (4, 6), 1, ()),
    "Gemm": (LINEAR, (144, 6), 1, (6,)),
    "table": (TABLE, (2, 4), 1, (4,)),
}
IMAGES = np.random.default_rng(1).standard_normal((80, 4, 6, 6)).astype(np.float32)


def make_network(name: str) -> Network:
    text, shape, _, bias = LAYERS[name]
    model = onnx.parser.parse_model(TEXT.format(layer=text))
    rng = np.random.default_rng(0)
    outputs = shape[LAYERS[name][2]]
    shapes = {"w": shape, "wz": (5, outputs), "bz": (5,), **({"b": bias} if bias else {})}
    for key, size in shapes.items():
        values = rng.standard_normal(size) / np.sqrt(max(1, np.prod(size) / outputs))
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), key))
    return read_network(normalize_model(model), (1, 4, 6, 6), ())


def list_layers(network: Network, model: ModelProto, **options: Any) -> tuple[RefitLayer, ...]:
    images = choose_image_counts(network, len(IMAGES))
    return list_refit_layers(network, extract_program(model), {}, (), images, **options)


def refit(network: Network, model: ModelProto, exclude: tuple[str, ...] = ()) -> ModelProto:
    calibration = Calibration(find_head(network.program), list, len(IMAGES), 0)
    config = CompressionConfig(batch_size=16, exclude=exclude)
    return refit_network(network, model, {}, (), calibration, lambda i: IMAGES[i], config, Silence())


def run(model: ModelProto) -> NDArray[np.float32]:
    return Session(serialize_model(model)).run({"x": IMAGES})[0]


def spoil(network: Network, name: str) -> ModelProto:
    """Multiply a weight from its output side by what can be inverted, and move the bias."""
    text, _, axis, bias = LAYERS[name]
    weights = network.program.initializers
    W = np.moveaxis(weights["w"], axis, 0)
    rng = np.random.default_rng(3)
    if "group" in text:
        W = W * rng.uniform(0.3, 2.0, (len(W), *[1] * (W.ndim - 1)))
    else:
        W = np.tensordot(np.eye(len(W)) + 0.3 * rng.standard_normal((len(W), len(W))), W, 1)
    arrays = {"w": np.moveaxis(W, 0, axis)}
    if bias:
        arrays["b"] = weights["b"] + rng.standard_normal(bias)
    return replace_initializers(network.model, arrays)


@pytest.mark.parametrize("name", LAYERS)
def test_each_kind_of_layer_is_recovered(name: str) -> None:
    network = make_network(name)
    student = spoil(network, name)
    layers = list_layers(network, student)
    assert [(layer.name, layer.bias) for layer in layers] == [("use", "b" if LAYERS[name][3] else ""), ("head", "bz")]
    assert layers[0].skip == ("y" if name == "sum" else "")
    expected = run(network.model)
    before, after = (
        np.abs(run(model) - expected).max() / np.abs(expected).max() for model in (student, refit(network, student))
    )
    assert before > 0.1
    # The ridge of 1e-4; the Gemm has 144 inputs, and 72 images to tell them by.
    assert after < 5e-3


def test_excluded_nodes_stay() -> None:
    network = make_network("Conv")
    student = spoil(network, "Conv")
    weights = extract_program(refit(network, student, exclude=("use",))).initializers
    before = extract_program(student).initializers
    assert np.array_equal(weights["w"], before["w"])
    assert not np.array_equal(weights["wz"], before["wz"])


def test_locked_and_shared_weights_stay() -> None:
    network = make_network("Conv")
    for locked in ("w", "b"):
        assert [layer.name for layer in list_layers(network, spoil(network, "Conv"), locked={locked})] == ["head"]


def test_an_unchanged_model_stays(assess: Assess) -> None:
    network, _ = assess("branching", "double")
    assert list_changed(network.program, extract_program(network.model)) == set()
    assert refit(network, network.model) is network.model


def test_only_what_comes_behind_a_change_is_fitted() -> None:
    network = make_network("sum")
    last = replace_initializers(network.model, {"wz": np.ones((5, 4))})
    assert [item.name for item in list_layers(network, last)] == ["head"]


def test_layers_of_a_cut_network(assess: Assess) -> None:
    """A pair's basis filters and then its scaling conv; a branch that the loss never sees as well."""
    network, assessment = assess("branching", "double", count=32)
    group = next(item for item in network.channels.groups if not item.blocked_by)
    plan = Plan({"second": np.arange(3)}, {group.name: group.channels[1:]})
    model, pairs = cut_network(network, assessment, plan)
    student = extract_program(model)
    removed = list_removed(network, plan).tolist()

    def list_forms(count: int) -> set[tuple[str, str]]:
        images = choose_image_counts(network, count)
        return {(layer.name, layer.form) for layer in list_refit_layers(network, student, pairs, removed, images)}

    layers = list_refit_layers(network, student, pairs, removed, choose_image_counts(network, 320))
    assert {layer.form for layer in layers} == {"weight"}
    # The Gemm's weight is transposed: it has more inputs than outputs, and a row of them per image.
    width, classes = student.initializers["w3"].shape[::-1]
    assert list_forms(2 * width) - list_forms(2 * width - 1) == {("fc", "weight")}
    assert width > classes
    names = pairs["second"]
    assert [(layer.weight, layer.through) for layer in layers if layer.name == "second"] == [
        (names.basis, names.scaling),
        (names.scaling, ""),
    ]
    groups = {layer.name: layer.groups for layer in layers}
    deep = network.operations["deep"]
    assert groups["deep"] == student.initializers[deep.inputs[1]].shape[0] > 1
    assert {"idle", "fc"} <= set(groups)
    for layer in layers:
        assert student.initializers[layer.through or layer.weight].shape[layer.weight_axis] == len(layer.kept)
    assert {layer.name: layer.kept.tolist() for layer in layers}[group.name] == [1, 2, 3, 4, 5]


MIXER = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 4, 6, 6] x) => (float[N, 5] z)
{
    [stem] h = Conv <pads = [1, 1, 1, 1]> (x, w, b)
    r = Relu (h)
    t = Reshape (r, flat)
    [mix] m = MatMul (t, wm)
    g = Relu (m)
    [back] u = MatMul (g, wu)
    s = Add (t, u)
    p = ReduceMean <axes = [2], keepdims = 0> (s)
    [head] z = Gemm <transB = 1> (p, wz, bz)
}
"""


def test_a_matmul_along_space_is_fitted_on_the_channels_that_stay() -> None:
    """Token mixing: channels lie on another axis than the MatMul's own."""
    model = onnx.parser.parse_model(MIXER)
    rng = np.random.default_rng(0)
    shapes = {"w": (16, 4, 3, 3), "b": (16,), "wm": (36, 8), "wu": (8, 36), "wz": (5, 16), "bz": (5,)}
    for key, size in shapes.items():
        values = rng.standard_normal(size) / np.sqrt(size[0] if len(size) == 2 else np.prod(size[1:]))
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), key))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 16, 36]), "flat"))
    network = read_network(normalize_model(model), (1, 4, 6, 6), ())
    (group,) = (item for item in network.channels.groups if not item.blocked_by and len(item.channels) == 16)
    removed = group.channels[5:8].tolist()
    student = remove_channels(network.model, network.channels, removed, network.input_shapes)
    images = choose_image_counts(network, len(IMAGES))
    layers = {layer.name: layer for layer in list_refit_layers(network, extract_program(student), {}, removed, images)}
    assert [layers[name].rows is not None for name in ("stem", "mix", "back", "head")] == [False, True, True, False]
    calibration = Calibration(find_head(network.program), list, len(IMAGES), 0)
    config = CompressionConfig(batch_size=16)
    fitted = refit_network(network, student, {}, removed, calibration, lambda i: IMAGES[i], config, Silence())
    expected = run(network.model)
    before, after = (np.square(run(item) - expected).mean() for item in (student, fitted))
    assert after < 0.5 * before


def test_live_elements_by_hand() -> None:
    """The images of 144 aren't counted: y and c of 144 wait for a, then a is followed by r, and three small ones."""
    network = make_network("sum")
    assert [item.op_type for item in network.program.operations][:4] == ["Sigmoid", "Conv", "Add", "Relu"]
    shapes = dict.fromkeys(("x", "y", "c", "a", "r", "w"), (144,)) | {"p": (4,), "f": (4,), "z": (5,)}
    assert measure_live(network.program, shapes) == [432, 432, 432, 288, 148, 9, 9]


def test_more_images_where_maps_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network("sum")

    def choose(available: int) -> tuple[int, int]:
        counts = choose_image_counts(network, available)
        (conv,) = [item.name for item in network.program.operations if item.op_type == "Conv"]
        return counts[conv], counts["head"]

    assert choose(5000) == (1024, 1024)
    assert choose(700) == (700, 700)
    monkeypatch.setattr(refitting, "_MOST_BYTES", 8 * 100 * 432)
    assert choose(5000) == (100, 1024)
    monkeypatch.setattr(refitting, "_MOST_BYTES", 0)
    assert choose(5000) == (64, 64)


@pytest.mark.parametrize(
    ("name", "images", "form", "groups"),
    [
        ("Conv", 80, "weight", 1),
        ("Conv", 2, "weight", 1),
        # 36 inputs: 36 rows of a single image are too few.
        ("Conv", 1, "output", 1),
        ("depthwise", 1, "output", 4),
        ("depthwise", 2, "weight", 4),
        # 18 inputs each, and 16 positions.
        ("grouped", 2, "output", 6),
        ("grouped", 3, "weight", 2),
        ("tokens", 80, "weight", 1),
        ("ConvTranspose", 80, "output", 1),
        # alpha is 0.5
        ("Gemm", 80, "output", 1),
    ],
)
def test_weights_are_fitted_where_rows_tell_all_inputs(name: str, images: int, form: str, groups: int) -> None:
    network = make_network(name)
    counts = dict.fromkeys(choose_image_counts(network, 1), images)
    layers = list_refit_layers(network, extract_program(spoil(network, name)), {}, (), counts)
    assert (layers[0].form, layers[0].groups) == (form, groups)


def test_few_rows_tell_inputs_where_there_are_no_more_than_outputs() -> None:
    """A Gemm with a transposed weight, five outputs, and a row per image."""
    for name, inputs, images, form in (("Conv", 6, 11, "output"), ("Conv", 6, 12, "weight"), ("sum", 4, 1, "weight")):
        network = make_network(name)
        counts = dict.fromkeys(choose_image_counts(network, 1), images)
        head = list_refit_layers(network, extract_program(spoil(network, name)), {}, (), counts)[-1]
        assert (head.name, head.form) == ("head", form)
        assert network.program.initializers["wz"].shape == (5, inputs)


# -- real models ------------------------------------------------------------------------------------------------------


def measure_agreement(config: CompressionConfig, target: float) -> tuple[float, float]:
    """Return how often a cut model agrees with the original, before and after its layers were re-fitted."""
    subject, images, test = open_data(open_subject(config.model), config, Silence())
    x = images.load(np.arange(len(images)))
    network = read_network(normalize_model(subject.model), (1, *x.shape[1:]), ())
    parts = np.array_split(np.arange(len(x)), 4)
    calibration = Calibration(subject.head, lambda: [Batch(part, x[part], None) for part in parts], len(x), 0)
    assessment = assess_network(network, calibration, "fisher", "double", Silence())
    plan = plan_cut(network, assessment, "double", Budget("macs", target * network.cost.macs)).plan
    model, pairs = cut_network(network, assessment, plan)
    gone = list_removed(network, plan).tolist()
    fitted = refit_network(network, model, pairs, gone, calibration, lambda i: x[i], config, Silence())
    shown = test.load(np.random.default_rng(0).permutation(len(test))[:500])
    original, before, after = (
        Session(serialize_model(item)).predict(shown).argmax(axis=1) for item in (network.model, model, fitted)
    )
    return float((before == original).mean()), float((after == original).mean())


@pytest.mark.parametrize("name", ["branching", "digits", "ppocr_cls"])
def test_only_weights_change(assess: Assess, calibrate: Callable[..., Calibration], name: str) -> None:
    """Whatever was cut, at random: nodes and shapes stay, and excluded or shared weights, and the model runs."""
    network, assessment = assess(name, "double")
    calibration = calibrate(network, 24)
    x = np.concatenate([batch.x for batch in calibration.batches()])
    rng = np.random.default_rng(0)
    channels = {
        item.name: np.sort(rng.permutation(item.channels)[: rng.integers(1, len(item.channels) + 1)])
        for item in network.channels.groups
        if not item.blocked_by
    }
    components = {conv: np.arange(-(-len(item) // 2)) for conv, item in assessment.components.items()}
    plan = Plan(components, channels)
    model, pairs = cut_network(network, assessment, plan)
    gone = list_removed(network, plan).tolist()
    fitted = refit_network(network, model, pairs, gone, calibration, lambda i: x[i], CompressionConfig(), Silence())
    assert list(fitted.graph.node) == list(model.graph.node)
    before, after = (extract_program(item).initializers for item in (model, fitted))
    assert {key: before[key].shape for key in before} == {key: after[key].shape for key in after}
    layers = list_refit_layers(network, extract_program(model), pairs, gone, choose_image_counts(network, len(x)))
    assert len(layers) >= len(pairs) > 0
    fitted_names = {key for layer in layers for key in (layer.weight, layer.bias)}
    for key in set(before) - fitted_names:
        np.testing.assert_array_equal(before[key], after[key])
    session = Session(serialize_model(fitted))
    assert all(np.isfinite(item).all() for item in session.run({session.inputs[0].name: x[:3]}))


def test_digits_at_a_deep_cut() -> None:
    sample = ROOT / "sample_models"
    config = CompressionConfig(
        model=sample / "digits.onnx",
        data=sample / "digits" / "calib",
        val=sample / "digits" / "val",
        limit=300,
        preprocess="imagenet",
    )
    before, after = measure_agreement(config, 0.2)
    assert after > before + 0.1
    assert after > 0.85


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared models aren't beside the repository")
def test_resnet20_at_a_deep_cut() -> None:
    """With 2,000 calibration images it is right 50 % of the time before and 75 % after, the original 88 %."""
    data = SHARED / "data" / "cifar10"
    config = CompressionConfig(
        model=SHARED / "models" / "resnet20_cifar10.onnx",
        data=data / "calib",
        val=data / "test",
        limit=300,
        preprocess="imagenet",
    )
    before, after = measure_agreement(config, 0.35)
    # A standard error at 70 % is 2 points.
    assert after > before + 0.1
    assert after > 0.62
