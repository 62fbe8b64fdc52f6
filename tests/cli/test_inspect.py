"""`basisprune inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from onnx_basisprune.cli.main import basisprune

MODEL = Path(__file__).resolve().parents[2] / "sample_models" / "digits.onnx"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(basisprune, ["inspect", *arguments])


def test_the_table_shows_nodes_with_weights_and_the_totals() -> None:
    result = run(str(MODEL))
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines()]
    stem = next(line for line in lines if line and line[0] == "/stem/stem.0/Conv")
    # 16 filters of 3x3x3 on 16x16 positions; 16*27/(16+27) = 10.05.
    assert stem[1:] == ["Conv", "1x16x16x16", "448", "110,592", "16", "10", "yes"]
    gemm = next(line for line in lines if line and line[0] == "/classifier/Gemm")
    assert " ".join(gemm[5:]) == "- - no: Gemm isn't decomposed"
    assert ["total", "170,058", "5,485,184"] in lines
    assert not any(line and line[1:2] == ["Relu"] for line in lines)


def test_channels_that_can_go_and_those_that_must_stay() -> None:
    lines = run(str(MODEL)).stdout.splitlines()
    assert "Coupled channels: 320 of 330 can go, in 8 groups." in lines
    assert "Channels that must stay, it is an output of the model, logits: /classifier/Gemm (10)" in lines
    excluded = run(str(MODEL), "--exclude", "/classifier/Gemm").stdout
    assert "Coupled channels: 256 of 330 can go, in 7 groups." in excluded
    assert "excluded by --exclude: /stages/stages.3/conv2/Conv (64)" in excluded


def test_all_lists_every_node() -> None:
    graph = onnx.load(MODEL).graph
    shown = run(str(MODEL), "--all").stdout
    assert "Relu" in shown
    assert sum(node.op_type == "Relu" for node in graph.node) == shown.count(" Relu ")


def test_json_on_stdout_is_nothing_but_json() -> None:
    result = run(str(MODEL), "--json", "-")
    assert (result.exit_code, result.stderr) == (0, "")
    values = json.loads(result.stdout)
    assert values["format_version"] == 1
    assert values["macs"] == sum(node["macs"] for node in values["nodes"]) == 5_485_184
    assert values["parameters"] == 170_058
    assert {node["op_type"] for node in values["nodes"] if node["eligible"]} == {"Conv"}
    assert sum(group["channels"] for group in values["groups"] if not group["blocked_by"]) == 320
    assert values["groups"][-1].keys() == {"name", "channels", "kept", "blocked_by"}
    assert values["inputs"] == [{"name": "image", "dtype": "float32", "shape": [None, 3, 16, 16]}]


def test_json_into_a_file_comes_beside_the_table(tmp_path: Path) -> None:
    target = tmp_path / "i.json"
    result = run(str(MODEL), "--json", str(target))
    assert result.exit_code == 0
    assert "total" in result.stdout
    assert json.loads(target.read_text())["macs"] == 5_485_184


def test_an_existing_json_file_needs_force(tmp_path: Path) -> None:
    target = tmp_path / "i.json"
    target.write_text("mine")
    refused = run(str(MODEL), "--json", str(target))
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "--force" in refused.stderr
    assert target.read_text() == "mine"
    assert run(str(MODEL), "--json", str(target), "--force").exit_code == 0
    assert json.loads(target.read_text())["format_version"] == 1


def test_excluded_nodes_say_so() -> None:
    result = run(str(MODEL), "--exclude", "/stem/stem.0/Conv", "--exclude", "/stages/stages.0/conv1/Conv")
    assert result.stdout.count("no: excluded by --exclude") == 2
    assert "Eligible: 11 nodes" in result.stdout


def test_sizes_left_open_ask_for_the_input_shape(tmp_path: Path) -> None:
    model = onnx.load(MODEL)
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.Clear()
        dim.dim_param = "size"
    onnx.save(model, tmp_path / "open.onnx")
    asked = run(str(tmp_path / "open.onnx"))
    assert asked.exit_code == 0
    assert "give --input-shape" in asked.stdout
    given = run(str(tmp_path / "open.onnx"), "--input-shape", "1,3,16,16")
    assert "5,485,184" in given.stdout
    assert "give --input-shape" not in given.stdout


@pytest.mark.parametrize("name", ["\x1b[2J[red]:smile:[/red]", "line\nbreak"])
def test_names_cannot_move_the_cursor_or_change_colours(name: str, tmp_path: Path) -> None:
    model = onnx.load(MODEL)
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    node.name = name
    onnx.save(model, tmp_path / "odd.onnx")
    result = run(str(tmp_path / "odd.onnx"))
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    shown = name.replace("\x1b", "\\x1b").replace("\n", "\\n")
    assert any(line.startswith(f"{shown} ") for line in result.stdout.splitlines())


@pytest.mark.parametrize(("content", "message"), [(b"", "is empty"), (b"\x00no model", "expected an ONNX model")])
def test_what_is_no_model_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    result = run(str(path))
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "bad.onnx" in line
    assert message in line or "can't be read as an ONNX model" in line
