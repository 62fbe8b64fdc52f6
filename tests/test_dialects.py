"""A tiny classifier in every exporter's dialect goes all the way through `compress`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.graph.cost import measure_cost
from onnx_basisprune.graph.model_io import load_model, passes_full_check
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.pipeline import compress

SIDE, CLASSES, COUNT, TARGET = 8, 4, 60, 0.6
Build = Callable[[], ModelProto]


@pytest.fixture(autouse=True)
def _same_clock_everywhere(fake_clock: Any) -> None:
    """Every dialect's layers are priced, but on no machine: what can be cut mustn't depend on it."""


def draw_images() -> np.ndarray:
    """Return uint8 images `[COUNT, SIDE, SIDE, 3]` that differ in colour and in the direction of a gradient."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, SIDE)[:, None] * np.ones(SIDE)
    planes = np.stack([ramp, ramp.T, 1 - ramp, 1 - ramp.T])
    images = rng.random((COUNT, 3, 4)) @ planes.reshape(4, -1) / 2
    noisy = images.reshape(COUNT, 3, SIDE, SIDE) * 255 + rng.normal(0, 10, (COUNT, 3, SIDE, SIDE))
    return np.ascontiguousarray(noisy.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1))


def draw_weights() -> dict[str, np.ndarray]:
    """Weights of three 3×3 convs (3 → 16 → 24 → 24 channels) with batch normalisations, and a classifier."""
    rng = np.random.default_rng(1)
    arrays = {}
    sizes = [3, 16, 24, 24]
    for index, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        arrays[f"w{index}"] = rng.normal(0, (2 / (9 * inputs)) ** 0.5, (outputs, inputs, 3, 3))
        arrays[f"g{index}"], arrays[f"b{index}"] = rng.uniform(0.5, 1.5, outputs), rng.normal(0, 0.3, outputs)
        arrays[f"m{index}"], arrays[f"v{index}"] = rng.normal(0, 0.3, outputs), rng.uniform(0.5, 1.5, outputs)
    arrays["fc"], arrays["fcb"] = rng.normal(0, 1, (24, CLASSES)), rng.normal(0, 0.1, CLASSES)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def finish(
    nodes: Sequence[NodeProto],
    arrays: dict[str, np.ndarray],
    *,
    opset: int = 17,
    ir: int = 8,
    x: Sequence[object] = ("N", 3, SIDE, SIDE),
    y: Sequence[object] = ("N", CLASSES),
    constants: bool = False,
    listed: bool = False,
) -> ModelProto:
    """Put a graph together; weights as initializers, as Constant nodes, or listed as inputs too."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)]
    if listed:
        inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, a.shape) for name, a in arrays.items()]
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    heads = [helper.make_node("Constant", [], [item.name], value=item) for item in tensors] if constants else []
    graph = helper.make_graph(
        [*heads, *nodes],
        "tiny",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [] if constants else tensors,
        doc_string="a tiny net",
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir, producer_name="tests"
    )
    model.metadata_props.add(key="author", value="someone")
    return model


def make_body(x: str) -> list[NodeProto]:
    """Three convs with batch normalisation and a residual connection, from tensor `x` to `r3`."""
    nodes = []
    for index in (1, 2, 3):
        source = x if index == 1 else f"r{index - 1}"
        strides = [2, 2] if index == 2 else [1, 1]
        nodes += [
            helper.make_node("Conv", [source, f"w{index}"], [f"c{index}"], pads=[1, 1, 1, 1], strides=strides),
            helper.make_node("BatchNormalization", [f"c{index}", *(f"{n}{index}" for n in "gbmv")], [f"n{index}"]),
        ]
        if index == 3:
            nodes.append(helper.make_node("Add", ["n3", "r2"], ["s3"]))
        nodes.append(helper.make_node("Relu", ["s3" if index == 3 else f"n{index}"], [f"r{index}"]))
    return nodes


def build_plain(**options: object) -> ModelProto:
    nodes = [
        *make_body("x"),
        helper.make_node("GlobalAveragePool", ["r3"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "fc", "fcb"], ["y"]),
    ]
    return finish(nodes, draw_weights(), **options)  # type: ignore[arg-type]


def build_convolutional() -> ModelProto:
    """The classifier is a 1×1 conv, and scores have shape `[n, classes, 1, 1]`."""
    arrays = draw_weights()
    arrays["fc"] = np.ascontiguousarray(arrays["fc"].T[:, :, None, None])
    nodes = [
        *make_body("x"),
        helper.make_node("GlobalAveragePool", ["r3"], ["p"]),
        helper.make_node("Conv", ["p", "fc", "fcb"], ["y"]),
    ]
    return finish(nodes, arrays, y=("N", CLASSES, 1, 1))


def build_paddle() -> ModelProto:
    arrays = draw_weights() | {"flat": np.array([-1, 24])}
    nodes = [
        *make_body("x"),
        helper.make_node("GlobalAveragePool", ["r3"], ["p"]),
        helper.make_node("Reshape", ["p", "flat"], ["f"]),
        helper.make_node("MatMul", ["f", "fc"], ["z"]),
        helper.make_node("Add", ["z", "fcb"], ["a"]),
        helper.make_node("Softmax", ["a"], ["s"]),
        helper.make_node("Identity", ["s"], ["y"]),
    ]
    return finish(nodes, arrays, opset=11, ir=7, x=("N", 3, "H", "W"), constants=True)


def build_tensorflow(units: int) -> ModelProto:
    """NHWC input, per-channel scales, a Reshape whose shape is computed, Softmax or one Sigmoid."""
    arrays = draw_weights()
    body = []
    for index in (1, 2, 3):
        scale = arrays[f"g{index}"] / np.sqrt(arrays[f"v{index}"])
        shift = arrays[f"b{index}"] - arrays[f"m{index}"] * scale
        for name in "gbmv":
            del arrays[f"{name}{index}"]
        arrays |= {f"k{index}": scale.reshape(1, -1, 1, 1), f"s{index}": shift.reshape(1, -1, 1, 1)}
        body += [
            helper.make_node(
                "Conv", ["nchw" if index == 1 else f"r{index - 1}", f"w{index}"], [f"c{index}"],
                auto_pad="SAME_UPPER", strides=[2, 2],
            ),
            helper.make_node("Mul", [f"c{index}", f"k{index}"], [f"t{index}"]),
            helper.make_node("Add", [f"t{index}", f"s{index}"], [f"a{index}"]),
            helper.make_node("Relu", [f"a{index}"], [f"r{index}"]),
        ]  # fmt: skip
    arrays["fc"] = np.random.default_rng(2).normal(0, 0.5, (24, units)).astype(np.float32)
    arrays["fcb"] = np.zeros(units, np.float32)
    arrays |= {"zero": np.array([0]), "one": np.array([1]), "rest": np.array([24])}
    nodes = [
        helper.make_node("Transpose", ["x"], ["nchw"], perm=[0, 3, 1, 2]),
        *body,
        helper.make_node("Transpose", ["r3"], ["nhwc"], perm=[0, 2, 3, 1]),
        helper.make_node("Shape", ["nhwc"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "one", "zero"], ["first"]),
        helper.make_node("Concat", ["first", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["nhwc", "target"], ["f"]),
        helper.make_node("MatMul", ["f", "fc"], ["z"]),
        helper.make_node("Add", ["z", "fcb"], ["logits"]),
        helper.make_node("Softmax" if units > 1 else "Sigmoid", ["logits"], ["y"]),
    ]
    return finish(nodes, arrays, opset=12, ir=7, x=("unk", SIDE, SIDE, 3), y=("unk", units))


def build_torch(dynamo: bool, tmp_path: Path) -> ModelProto:
    import torch
    from torch import nn

    arrays = draw_weights()

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = [3, 16, 24, 24]
            self.convs = nn.ModuleList(nn.Conv2d(sizes[i], sizes[i + 1], 3, padding=1, bias=False) for i in range(3))
            self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in sizes[1:])
            self.drop, self.fc = nn.Dropout(0.5), nn.Linear(24, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norms[0](self.convs[0](x)).relu()
            x = self.norms[1](self.convs[1](x)).relu()[:, :, ::2, ::2]
            x = (self.norms[2](self.convs[2](x)) + x).relu()
            return self.fc(self.drop(x.mean((2, 3)).view(x.size(0), -1)))

    net = Tiny().eval()
    state = {"fc.weight": arrays["fc"].T, "fc.bias": arrays["fcb"]}
    for index in range(3):
        state[f"convs.{index}.weight"] = arrays[f"w{index + 1}"]
        for ours, theirs in zip("gbmv", ("weight", "bias", "running_mean", "running_var"), strict=True):
            state[f"norms.{index}.{theirs}"] = arrays[f"{ours}{index + 1}"]
    net.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in state.items()}, strict=False)
    path, example = tmp_path / "exported.onnx", torch.zeros(2, 3, SIDE, SIDE)
    with warnings.catch_warnings():
        if dynamo:
            pytest.importorskip("onnxscript")
            warnings.filterwarnings("ignore", module=r"(torch|onnxscript|copyreg)")
            warnings.filterwarnings(
                "ignore", category=DeprecationWarning, message=r".*(LeafSpec|isinstance\(treespec).*"
            )
            shapes = {"x": {0: torch.export.Dim("batch")}}
            torch.onnx.export(
                net, (example,), path, dynamo=True, dynamic_shapes=shapes, input_names=["x"], output_names=["y"],
                external_data=False, verbose=False,
            )  # fmt: skip
        else:
            legacy = r".*legacy TorchScript-based.*|The feature will be removed"
            warnings.filterwarnings("ignore", category=DeprecationWarning, message=legacy)
            torch.onnx.export(
                net, (example,), path, dynamo=False, dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
                input_names=["x"], output_names=["y"], opset_version=17,
            )  # fmt: skip
    return onnx.load(path)


def run(model: ModelProto, x: np.ndarray, output: str | None = None) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    batch = session.get_inputs()[0].shape[0]
    pieces = np.split(x, len(x) // batch) if isinstance(batch, int) else [x]
    fetch = None if output is None else [output]
    return np.concatenate([session.run(fetch, {session.get_inputs()[0].name: piece})[0] for piece in pieces])


def balance_classes(model: ModelProto, x: np.ndarray) -> None:
    """Shift the classifier's bias, in place, so that every class is predicted."""
    probe = ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    last = next(
        node
        for node in reversed(model.graph.node)
        if node.op_type in ("Gemm", "Add", "Conv")  # what adds the bias
    )
    probe.graph.output.append(helper.make_tensor_value_info(last.output[0], TensorProto.FLOAT, None))
    scores = run(probe, x)
    names = {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
    names |= {tensor.name: tensor for tensor in model.graph.initializer}
    bias = names[last.input[-1]]
    shifted = numpy_helper.to_array(bias) - np.median(scores.reshape(len(x), -1), axis=0)
    bias.CopyFrom(numpy_helper.from_array(shifted.astype(np.float32), bias.name))


def compress_and_check(model: ModelProto, tmp_path: Path, recover_steps: int = 5) -> ModelProto:
    """Compress a classifier on images that are labelled with its own predictions, and check what is promised."""
    images = draw_images()
    dims = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = (images / 255).astype(np.float32)
    x = x if dims[3] == 3 else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    balance_classes(model, x)
    scores = run(model, x).reshape(COUNT, -1)
    labels = scores.argmax(axis=1) if scores.shape[1] > 1 else (scores[:, 0] > 0.5).astype(np.int64)
    assert len(np.unique(labels)) > 1
    source, target = tmp_path / "tiny.onnx", tmp_path / "small.onnx"
    source.write_bytes(model.SerializeToString())
    np.savez(tmp_path / "data.npz", x=images, y=labels)
    report = compress(
        CompressionConfig(
            model=source, data=tmp_path / "data.npz", output=target, preprocess="unit", limit=24, target_macs=TARGET,
            recover_steps=recover_steps, batch_size=8, threads=1, align=1,
        )
    )  # fmt: skip
    before, after = load_model(source), load_model(target)
    expected = run(before, x)
    # float32 rounding of folded weights, relative to the largest score
    np.testing.assert_allclose(run(normalize_model(before), x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert passes_full_check(after)
    assert report.original.accuracy is not None
    assert report.original.accuracy.top1 == 1.0
    assert [(gate.name, gate.passed) for gate in report.gates] == [("target_macs", True), ("not_slower", True)]
    shape = {"x": (1, *x.shape[1:])}
    old, new = measure_cost(before, shape), measure_cost(after, shape)
    assert (old.macs, new.macs) == (report.original.macs, report.compressed.macs)
    assert new.macs <= TARGET * old.macs
    assert new.uncounted_ops == ()
    inputs = {tensor.name for tensor in before.graph.initializer}
    assert list(after.graph.input) == [value for value in before.graph.input if value.name not in inputs]
    assert after.graph.output == before.graph.output
    assert after.opset_import == before.opset_import
    assert (after.producer_name, after.graph.doc_string) == (before.producer_name, before.graph.doc_string)
    kept = {entry.key: entry.value for entry in after.metadata_props}
    assert kept.items() > {entry.key: entry.value for entry in before.metadata_props}.items()
    for count in (1, 3):
        found = run(after, x[:count])
        assert found.shape == (count, *run(before, x[:1]).shape[1:])
        assert np.isfinite(found).all()
    return after


def find_newest_opset() -> int:
    """Return the newest opset that both onnx and onnxruntime know."""
    for opset in range(onnx.defs.onnx_opset_version(), 20, -1):
        try:
            run(build_plain(opset=opset), np.zeros((1, 3, SIDE, SIDE), np.float32))
        except Exception:  # noqa: BLE001, S112 - onnxruntime's errors have no common base
            continue
        return opset
    pytest.fail("onnxruntime runs no opset over 20")


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 17, 18, 21, "newest"])
def test_every_opset(opset: int | str, tmp_path: Path) -> None:
    if opset == 7:
        small = compress_and_check(build_plain(opset=7, ir=3, listed=True), tmp_path)
        assert small.ir_version == 4
        return
    number = find_newest_opset() if isinstance(opset, str) else opset
    small = compress_and_check(build_plain(opset=number, ir=10), tmp_path, recover_steps=0)
    assert small.ir_version == 10


DIALECTS: dict[str, Build] = {
    "fixed batch": lambda: build_plain(x=(1, 3, SIDE, SIDE), y=(1, CLASSES)),
    "convolutional classifier": build_convolutional,
    "paddle2onnx": build_paddle,
    "tf2onnx, Softmax": lambda: build_tensorflow(CLASSES),
    "tf2onnx, Sigmoid": lambda: build_tensorflow(1),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect(name: str, tmp_path: Path) -> None:
    compress_and_check(DIALECTS[name](), tmp_path)


@pytest.mark.parametrize("dynamo", [False, True])
def test_pytorch_exports(dynamo: bool, tmp_path: Path) -> None:
    compress_and_check(build_torch(dynamo, tmp_path), tmp_path)
