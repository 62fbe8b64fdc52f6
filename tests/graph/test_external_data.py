"""Weights beside the model: written one after the other, read back to the same model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from onnx_basisprune.errors import ModelError, OutputError
from onnx_basisprune.graph import model_io
from onnx_basisprune.graph.model_io import load_model, passes_full_check, read_model, save_model, serialize_model

TEXT = """
<ir_version: 8, opset_import: ["" : 17], producer_name: "me", doc_string: "two layers">
g (float[N, 70] x) => (float[N, 3] y)
{
    h = MatMul (x, first)
    s = Add (h, shift)
    r = Relu (s)
    y = MatMul (r, second)
}
"""
SHAPES = {"first": (70, 90), "shift": (90,), "second": (90, 3), "third": (5000,), "listed": (5000,)}


def build() -> ModelProto:
    """Two tensors of more than 4096 elements in raw bytes, one as a list of floats, two small ones."""
    model = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        tensor = numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        if name == "listed":
            values = numpy_helper.to_array(tensor)
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, float_data=values.tolist())
        tensor.doc_string = f"doc of {name}"
        model.graph.initializer.append(tensor)
    return model


def list_external(path: Path) -> dict[str, dict[str, str]]:
    """Return where the file says that tensors lie."""
    model = onnx.load_model(path, load_external_data=False)
    return {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    }


def test_a_second_file_holds_the_large_weights(tmp_path: Path) -> None:
    model, path = build(), tmp_path / "m.onnx"
    before = serialize_model(model)
    assert save_model(model, path, external_data=True) == (path, tmp_path / "m.onnx.data")
    assert serialize_model(model) == before
    places = list_external(path)
    assert places.keys() == {"first", "third"}  # runtimes can't find lists of floats elsewhere
    content = (tmp_path / "m.onnx.data").read_bytes()
    for tensor in model.graph.initializer:
        if tensor.name in places:
            place = places[tensor.name]
            assert place["location"] == "m.onnx.data"
            start, length = int(place["offset"]), int(place["length"])
            assert start % 4096 == 0
            assert content[start : start + length] == tensor.raw_data
    assert read_model(path) == (model, (path, tmp_path / "m.onnx.data"))
    onnx.checker.check_model(path, full_check=True)
    x = np.random.default_rng(1).standard_normal((3, 70)).astype(np.float32)
    sessions = [onnxruntime.InferenceSession(item, providers=["CPUExecutionProvider"]) for item in (path, before)]
    np.testing.assert_array_equal(*(session.run(None, {"x": x})[0] for session in sessions))


def test_one_file_where_it_suffices(tmp_path: Path) -> None:
    model, path = build(), tmp_path / "m.onnx"
    assert save_model(model, path) == (path,)
    assert path.read_bytes() == serialize_model(model)
    small = onnx.parser.parse_model(TEXT)
    assert save_model(small, path, external_data=True) == (path,)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("limit", [0, 4 * (70 * 90 + 5000) - 1, 4 * (70 * 90 + 5000)])
def test_what_is_too_large_for_one_file_gets_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(model_io, "_LARGEST_FILE", limit)
    files = save_model(build(), tmp_path / "m.onnx")
    assert len(files) == 1 + (limit < 4 * (70 * 90 + 5000))
    assert load_model(files[0]) == build()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    for external_data in (False, True):
        with pytest.raises(OutputError, match="can't be written"):
            save_model(build(), tmp_path / "missing" / "m.onnx", external_data=external_data)


def test_models_that_protobuf_cannot_serialize_are_checked_and_refused_as_one_file() -> None:
    """2.2 GB of zeros."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 70] x) => (float[N, 70] y) { y = Add (x, shift) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(70, np.float32), "shift"))
    block = bytes(4 * 55_000_000)
    for number in range(10):
        tensor = model.graph.initializer.add(name=f"w{number}", data_type=TensorProto.FLOAT, dims=[55_000_000])
        tensor.raw_data = block
    assert passes_full_check(model)
    with pytest.raises(ModelError, match="over 2 GiB"):
        serialize_model(model)
    model.graph.node[0].input[1] = "none"
    assert not passes_full_check(model)
