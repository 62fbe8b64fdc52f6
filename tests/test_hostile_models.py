"""Models that contradict themselves, as the fuzzing found them: their channels stay, or they are refused."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from onnx_basisprune.errors import ConfigError, ModelError, quote
from onnx_basisprune.graph import external_data, model_io
from onnx_basisprune.inspection import inspect_model
from onnx_basisprune.inspection_report import Inspection
from onnx_basisprune.measurement import benchmark_models
from onnx_basisprune.measurement_config import BenchmarkConfig
from onnx_basisprune.opening import open_subject

NODES = "a = Conv <pads = [1, 1, 1, 1]> (x, w) {middle} c = Conv (b, v) p = GlobalAveragePool (c) y = Flatten (p)"


def inspect_graph(middle: str, folder: Path, **constants: object) -> Inspection:
    """Inspect two Convs with something between them that reads `a` and makes `b`."""
    text = '<ir_version: 8, opset_import: ["" : 13]> g (float[1, 3, 8, 8] x) => (float[1, 5] y)'
    model = onnx.parser.parse_model(f"{text} {{ {NODES.format(middle=middle)} }}")
    rng = np.random.default_rng(0)
    shapes = {"w": (6, 3, 3, 3), "v": (5, 6, 1, 1)}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    for name, value in (arrays | {name: np.asarray(value) for name, value in constants.items()}).items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return inspect_model(save(model, folder))


def save(model: ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def find_reason(inspection: Inspection) -> str:
    """Return why the first Conv's channels must stay."""
    return next(group.blocked_by for group in inspection.groups if group.channels == 6)


def test_the_graph_is_prunable_where_nothing_is_wrong(tmp_path: Path) -> None:
    assert find_reason(inspect_graph("b = Relu (a)", tmp_path)) == ""


@pytest.mark.parametrize(
    ("middle", "constants"),
    [
        ("b = Reshape (a, s)", {"s": [1, 6, 8, 4]}),
        ("b = Reshape (a, s)", {"s": [1, 6, 2**40, 8]}),
        ("b = Pad (a, s)", {"s": [0, 0, 1, 1]}),
        ("b = Pad (a, s)", {"s": [0, 0, 0, 0, 0, 2**40, 0, 0]}),
        ("b = Tile (a, s)", {"s": [1, 1, 2**36, 2**20]}),
        ("b = Tile (a, s)", {"s": [1, 2**40, 1, 1]}),
        ("b = Expand (a, s)", {"s": [2, 1, 6, 8, 8]}),
        ("b = Slice (a, s, e)", {"s": [0], "e": [1, 2]}),
        ("b = Slice (a, s, e, n)", {"s": [0], "e": [1], "n": [9]}),
        ("b = Slice (a, s, s)", {"s": [1j]}),
        ("b = Transpose <perm = [0, 1]> (a)", {}),
        ("b = Concat <axis = 9> (a, a)", {}),
        ("b = ReduceMean <axes = [7]> (a)", {}),
        ("b = Gather <axis = 6> (a, s)", {"s": [0]}),
        ("b = Gather <axis = 1> (a, s)", {"s": [99]}),
        ("b = DepthToSpace <blocksize = 5> (a)", {}),
        ("b = DepthToSpace <blocksize = 0> (a)", {}),
        ("b = SpaceToDepth <blocksize = 1000000> (a)", {}),
        ("b, r = Split <axis = 1> (a, s)", {"s": [2**40, 5]}),
        ("b = Squeeze (a, s)", {"s": [1]}),
        ("b = BatchNormalization (a, k, k, k, k)", {"k": np.ones(4, np.float32)}),
        ("b = Mul (a, k)", {"k": np.ones((4, 1, 1), np.float32)}),
        ("b = PRelu (a, k)", {"k": np.ones((2, 2, 2, 2, 2), np.float32)}),
        ("b = Conv <group = 4> (a, k)", {"k": np.ones((6, 1, 1, 1), np.float32)}),
        ("b = Conv <group = 0> (a, k)", {"k": np.ones((6, 6, 1, 1), np.float32)}),
        ("b = Conv (a, k)", {"k": np.ones((6,), np.float32)}),
        ("b = Conv (a, k)", {"k": np.ones((6, 9, 1, 1), np.float32)}),
        ("b = ConvTranspose (a, k)", {"k": np.ones((9, 6, 1, 1), np.float32)}),
        ("b = ConvTranspose <group = 0> (a, k)", {"k": np.ones((6, 6, 1, 1), np.float32)}),
        ("b = Gemm (a, k)", {"k": np.ones((6, 6), np.float32)}),
        ("b = MatMul (a, k)", {"k": np.ones((5, 6), np.float32)}),
        ('b = Einsum <equation = "nchw,cz->nzhw..."> (a, k)', {"k": np.ones((2, 6), np.float32)}),
        ('b = Einsum <equation = "i"> (a)', {}),
    ],
)
def test_contradictions_block_what_they_touch(middle: str, constants: dict[str, object], tmp_path: Path) -> None:
    try:
        inspection = inspect_graph(middle, tmp_path, **constants)
    except ModelError as error:
        assert "elements" in str(error)  # noqa: PT017  # where ONNX can tell how large it would be
        return
    assert inspection.nodes[0].op_type == "Conv"
    assert all(group.blocked_by for group in inspection.groups if group.channels == 6)


@pytest.mark.parametrize("size", [2**22, 2**40])
def test_long_vectors_are_not_written_down_value_by_value(size: int, tmp_path: Path) -> None:
    middle = "r = Reshape (k, s) q = Cast <to = 7> (r) b = Pad (a, q)"
    started = time.monotonic()
    try:
        inspect_graph(middle, tmp_path, k=np.zeros(8, np.int64), s=[size])
    except ModelError as error:
        assert "elements" in str(error)  # noqa: PT017
    assert time.monotonic() - started < 30  # it took gigabytes, and minutes


@pytest.mark.parametrize("shape", ["1, 3, 1048576, 1048576", "1099511627776", "9223372036854775807, 3, 8, 8"])
def test_absurd_inputs_are_refused(shape: str, tmp_path: Path) -> None:
    text = f'<ir_version: 8, opset_import: ["" : 13]> g (float[{shape}] x) => (float[{shape}] y) {{ y = Relu (x) }}'
    path = save(onnx.parser.parse_model(text), tmp_path)
    for read in (inspect_model, open_subject):
        with pytest.raises(ModelError, match="expected at most 1,073,741,824 elements"):
            read(path)


def make_plain() -> ModelProto:
    text = '<ir_version: 8, opset_import: ["" : 13]> g (float[1, 3] x) => (float[1, 2] y) { y = MatMul (x, w) }'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((3, 2), np.float32), "w"))
    return model


def move_weight(model: ModelProto, **entries: str) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


@pytest.mark.parametrize("location", ["a\0b", "x" * 5000, "loop", "loop/w.bin", ".", "w.bin/x"])
def test_external_data_at_places_that_no_file_has(location: str, tmp_path: Path) -> None:
    model = make_plain()
    (tmp_path / "w.bin").write_bytes(bytes(24))
    try:
        (tmp_path / "loop").symlink_to("loop")
    except OSError:
        pytest.skip("links aren't allowed here")
    move_weight(model, location=location)
    with pytest.raises(ModelError, match="'w'") as caught:
        inspect_model(save(model, tmp_path))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"offset": "1"}, "don't fit"),
        ({"offset": "25"}, "within the file's 24 bytes"),
        ({"length": str(2**62)}, "within the file's 24 bytes"),
        ({"offset": str(-(2**62)), "length": "24"}, "within the file's 24 bytes"),
        ({"length": "9" * 5000}, "can't be read"),
        ({"offset": ""}, "can't be read"),
    ],
)
def test_external_data_past_the_end_of_their_file(entries: dict[str, str], reason: str, tmp_path: Path) -> None:
    model = make_plain()
    (tmp_path / "w.bin").write_bytes(bytes(24))
    move_weight(model, location="w.bin", **entries)
    with pytest.raises(ModelError, match=reason):
        inspect_model(save(model, tmp_path))


@pytest.mark.parametrize(
    ("functions", "reason"),
    [
        ("F (a) => (b) { b = local.F (a) }", "'F' calls itself"),
        ("F (a) => (b) { b = local.G (a) } | G (a) => (b) { b = local.F (a) }", "'F' calls itself"),
        ("F (a) => (b) { b = Relu (a) } | F (a) => (b) { b = Neg (a) }", "two of its local functions"),
    ],
)
@pytest.mark.parametrize("ir_version", [7, 8])
def test_functions_that_cannot_be_put_in_their_place(
    functions: str, reason: str, ir_version: int, tmp_path: Path
) -> None:
    """Of the older IR version onnx.checker doesn't look at functions."""
    text = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[1, 3] x) => (float[1, 3] y)'
    header = '<domain: "local", opset_import: ["" : 17, "local" : 1]>'
    parts = "".join(f"{header} {function}" for function in functions.split("|"))
    model = onnx.parser.parse_model(f"{text} {{ y = local.F (x) }} {parts}")
    model.ir_version = ir_version
    with pytest.raises(ModelError, match=f"isn't a valid ONNX model: .*{reason if ir_version == 7 else ''}"):
        inspect_model(save(model, tmp_path))


def test_a_location_that_is_not_text_is_refused(tmp_path: Path) -> None:
    model = make_plain()
    move_weight(model, location="weights.bin")
    path = save(model, tmp_path)
    path.write_bytes(path.read_bytes().replace(b"weights.bin", b"w\x92\x96ghts.bin"))
    with pytest.raises(ModelError, match="isn't UTF-8"):
        inspect_model(path)


def test_keys_of_external_data_that_nobody_knows_are_left_alone(tmp_path: Path) -> None:
    model = make_plain()
    (tmp_path / "w.bin").write_bytes(np.ones(6, np.float32).tobytes())
    move_weight(model, location="w.bin", __class__="x", checksum="none")
    assert inspect_model(save(model, tmp_path)).parameters == 6


def test_one_small_file_read_a_thousand_times_fills_no_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = make_plain()
    (tmp_path / "w.bin").write_bytes(bytes(24))
    move_weight(model, location="w.bin")
    for index in range(3):
        model.graph.initializer.add().CopyFrom(model.graph.initializer[0])
        model.graph.initializer[-1].name = f"w{index}"
    path = save(model, tmp_path)
    assert inspect_model(path).parameters == 6
    monkeypatch.setattr(external_data, "LARGEST_WEIGHTS", 95)
    with pytest.raises(ModelError, match="which is the limit"):
        inspect_model(path)


def test_a_file_over_the_limit_is_not_even_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = save(make_plain(), tmp_path)
    monkeypatch.setattr(model_io, "LARGEST_MODEL_FILE", path.stat().st_size - 1)
    with pytest.raises(ModelError, match="at most 2 GiB"):
        inspect_model(path)


@pytest.mark.parametrize("text", ["a\u202egnp", "x\x00\x1b[31m", "\u2028", "\ue000", "\u0558", "\udcff"])
def test_quoted_names_are_printable(text: str) -> None:
    assert quote(text).isprintable()
    assert quote("名前 ü") == "'名前 ü'"


@pytest.mark.parametrize("shape", ["1, 3, 1048576, 1048576", "1099511627776, 3"])
def test_benchmarks_hand_onnxruntime_sound_files_only(shape: str, tmp_path: Path) -> None:
    text = f'<ir_version: 8, opset_import: ["" : 13]> g (float[{shape}] x) => (float[{shape}] y) {{ y = Relu (x) }}'
    path = save(onnx.parser.parse_model(text), tmp_path)
    with pytest.raises(ModelError, match="expected at most 1,073,741,824 elements"):
        benchmark_models(BenchmarkConfig(a=path))
    model = make_plain()
    move_weight(model, location="/dev/zero")
    with pytest.raises(ModelError, match="expected a file inside the model's folder"):
        benchmark_models(BenchmarkConfig(a=save(model, tmp_path)))


def test_benchmarks_draw_no_images_that_no_memory_holds(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 13]> g (float[N, 3, H, W] x) => (float[N, 3, H, W] y) { y = Relu (x) }'
    path = save(onnx.parser.parse_model(text), tmp_path)
    with pytest.raises(ConfigError, match="at most 1,073,741,824 elements for one image"):
        benchmark_models(BenchmarkConfig(a=path, input_shape=(1, 3, 2**20, 2**20)))
