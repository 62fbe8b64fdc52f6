"""Files from strangers: what can't be used is one clear line, and nothing outside the folder is read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_basisprune.errors import ModelError
from onnx_basisprune.graph.model_io import (
    load_model,
    passes_full_check,
    read_opset,
    serialize_model,
)
from onnx_basisprune.graph.tensors import iterate_tensors

WEIGHT = np.arange(6, dtype=np.float32).reshape(3, 2)
TEXT = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3] x) => (float[N, 2] y) { y = MatMul (x, w) }'


def build() -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT)
    model.graph.initializer.append(numpy_helper.from_array(WEIGHT, "w"))
    return model


def refuse(path: Path, *parts: str) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    for part in parts:
        assert part in message
    return message


def test_loads_what_was_serialized(tmp_path: Path) -> None:
    model = build()
    path = tmp_path / "model.bin"  # the extension doesn't matter
    path.write_bytes(serialize_model(model))
    assert load_model(path) == model
    assert read_opset(model) == 17
    assert serialize_model(model) == serialize_model(load_model(path))


@pytest.mark.parametrize("name", ["model.onnx", "model.json", "model.onnxtxt", "model.textproto"])
@pytest.mark.parametrize(
    "content",
    [b"", b"hello, world\n", b"\x00" * 64, b"\xff" * 100, TEXT.encode(), b"\x08\x08", b"<html></html>", b"PK\x03\x04"],
)
def test_other_files_are_refused(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    refuse(path, name)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    content, path = serialize_model(build()), tmp_path / "cut.onnx"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        try:
            load_model(path)
        except ModelError as error:
            assert "\n" not in str(error)  # noqa: PT017 - a cut between two fields may leave a valid model


def test_damaged_bytes_give_a_model_or_one_line(tmp_path: Path) -> None:
    content, path = bytearray(serialize_model(build())), tmp_path / "damaged.onnx"
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        for position in rng.integers(len(content), size=3):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            load_model(path)
        except ModelError as error:
            assert "\n" not in str(error)  # noqa: PT017 - some damage is harmless


def test_missing_files_and_folders(tmp_path: Path) -> None:
    refuse(tmp_path / "none.onnx", "no such file")
    refuse(tmp_path, "is a folder")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        refuse(tmp_path / "pipe", "isn't a regular file")


def test_a_message_from_the_file_is_one_printable_line(tmp_path: Path) -> None:
    model = build()
    model.graph.node[0].op_type = "No\x1b[31m\nSuch" * 200
    path = tmp_path / "odd.onnx"
    path.write_bytes(model.SerializeToString())
    message = refuse(path, "isn't a valid ONNX model")
    assert message.isprintable()


@pytest.mark.parametrize("opset", [0, 1, 6, 999])
def test_opsets_out_of_range(opset: int, tmp_path: Path) -> None:
    model = build()
    del model.opset_import[:]
    if opset:
        model.opset_import.append(helper.make_opsetid("", opset))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    refuse(path, f"opset {opset}", "expected 7 to")


def test_text_that_is_not_utf8_and_unknown_types_are_refused(tmp_path: Path) -> None:
    path, content = tmp_path / "m.onnx", build()
    content.graph.node[0].name = "a name"
    content.graph.node[0].doc_string = content.metadata_props.add(key="k").value = "some text"
    content.graph.initializer[0].doc_string = "of a tensor"
    for text in (b"a name", b"some text", b"of a tensor", b"MatMul"):
        path.write_bytes(content.SerializeToString().replace(text, b"\xff" * len(text)))
        refuse(path, "isn't UTF-8")
    model = build()
    model.graph.output[0].type.tensor_type.elem_type = 99
    path.write_bytes(model.SerializeToString())
    refuse(path, "'y' has element type 99")


def test_tensors_whose_data_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for dims, kind in (([3, 3], TensorProto.FLOAT), ([3, 2], TensorProto.DOUBLE), ([3, 2], 77)):
        model = build()
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(dims)
        model.graph.initializer[0].data_type = kind
        path.write_bytes(model.SerializeToString())
        refuse(path, "'w'")
    model.graph.initializer[0].dims[0] = -3
    path.write_bytes(model.SerializeToString())
    refuse(path, "tensor")
    inner = build()
    inner.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=model.graph.initializer[0]))
    path.write_bytes(inner.SerializeToString())
    refuse(path, "'w'")


def test_newer_files_and_cycles_are_refused(tmp_path: Path) -> None:
    path, model = tmp_path / "m.onnx", build()
    model.ir_version = 99
    path.write_bytes(model.SerializeToString())
    refuse(path, "isn't a valid ONNX model")
    model = build()
    model.graph.node[0].input[0] = "y"
    path.write_bytes(model.SerializeToString())
    refuse(path, "isn't a valid ONNX model")


def make_external(tensor: TensorProto, location: str, **entries: str) -> TensorProto:
    """Move a tensor's data out; the file isn't written."""
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def write_external(folder: Path, location: str, **entries: str) -> Path:
    """Write a model whose one weight lies elsewhere."""
    model, path = build(), folder / "model.onnx"
    make_external(model.graph.initializer[0], location, **entries)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("location", ["w.bin", "data/w.bin", "./w.bin"])
def test_external_data_in_the_folder(location: str, tmp_path: Path) -> None:
    target = tmp_path / location
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(b"skip" + WEIGHT.tobytes() + b"rest")
    path = write_external(tmp_path, location, offset="4", length=str(WEIGHT.nbytes))
    model = load_model(path)
    assert model == build()
    onnx.checker.check_model(model, full_check=True)


def test_external_data_beside_a_link_to_the_model(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    stored = write_external(tmp_path / "store", "w.bin")
    link = tmp_path / "link.onnx"
    try:
        link.symlink_to(stored)
    except OSError:
        pytest.skip("links aren't allowed here")
    assert load_model(link) == build()


def test_external_data_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    outside = tmp_path / "w.bin"
    outside.write_bytes(WEIGHT.tobytes())
    for location in (str(outside), "../w.bin", "..\\w.bin", "a/../../w.bin", "", "C:\\w.bin", "C:w.bin", "\\\\host\\w"):
        refuse(write_external(folder, location), "expected a file inside the model's folder", "'w'")
    try:
        (folder / "link.bin").symlink_to(outside)
    except OSError:
        return
    refuse(write_external(folder, "link.bin"), "expected a file inside the model's folder")


@pytest.mark.parametrize(
    "entries",
    [{"offset": "-1"}, {"offset": "9999"}, {"length": "9999"}, {"offset": "many"}, {"length": "4"}],
)
def test_broken_external_data(entries: dict[str, str], tmp_path: Path) -> None:
    refuse(write_external(tmp_path, "none.bin"), "'none.bin'", "is missing")
    (tmp_path / "folder").mkdir()
    refuse(write_external(tmp_path, "folder"), "is missing")
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    refuse(write_external(tmp_path, "w.bin", **entries))


def build_hidden(location: str) -> dict[str, onnx.ModelProto]:
    """Models whose external tensor is in a Constant node, an inner graph, a function or a sparse initializer."""
    tensor = make_external(numpy_helper.from_array(WEIGHT, "w"), location)
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    in_node = onnx.parser.parse_model(TEXT)
    in_node.graph.node.insert(0, constant)
    inner = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3] x, bool c) => (float[N, 2] y) {
        y = If (c) <then_branch = t () => (float[N, 2] p) { p = MatMul (x, w) },
                    else_branch = e () => (float[N, 2] q) { v = Neg (x) q = MatMul (v, w) }> }"""
    )
    for attribute in inner.graph.node[0].attribute:
        attribute.g.initializer.append(tensor)
    function = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "f" : 1]> g (float[N, 3] x) => (float[N, 2] y) { y = f.F (x) }'
    )
    body = [constant, helper.make_node("MatMul", ["a", "w"], ["b"])]
    function.functions.append(helper.make_function("f", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    return {"node": in_node, "inner graph": inner, "function": function}


@pytest.mark.parametrize("place", ["node", "inner graph", "function"])
def test_external_data_in_hidden_places(place: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(build_hidden("../w.bin")[place].SerializeToString())
    refuse(path, "'../w.bin'")
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    path.write_bytes(build_hidden("w.bin")[place].SerializeToString())
    tensors = [tensor for tensor in iterate_tensors(load_model(path)) if tensor.name == "w"]
    assert tensors
    for tensor in tensors:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), WEIGHT)


def test_full_check() -> None:
    model = build()
    assert passes_full_check(model)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    assert not passes_full_check(model)


def test_functions_that_double_over_and_over_are_refused(tmp_path: Path) -> None:
    opsets = 'opset_import: ["" : 17, "local" : 1]>'
    header = f'<domain: "local", {opsets}'
    doubling = "".join(
        f"{header} F{i} (a) => (r) {{ b = local.F{i + 1} (a) r = local.F{i + 1} (b) }}" for i in range(40)
    )
    model = onnx.parser.parse_model(
        f"<ir_version: 8, {opsets} g (float[N, 3] x) => (float[N, 3] y) {{ y = local.F0 (x) }}"
        f"{doubling} {header} F40 (a) => (r) {{ r = Relu (a) }}"
    )
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"has 1.1e\+12 nodes with its local functions"):
        load_model(tmp_path / "m.onnx")
