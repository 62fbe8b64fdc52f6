"""No result goes over what a run reads, weights beside the model among it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.destination import check_data_files, choose_output
from onnx_basisprune.errors import OutputError

OUTPUT = "out.onnx"


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, ...]:
    """A model's file and the one that its weights are in."""
    paths = (tmp_path / "m.onnx", tmp_path / "m.onnx.data")
    for path in paths:
        path.write_bytes(b"mine")
    return paths


@pytest.mark.parametrize("how", ["same", "link"])
@pytest.mark.parametrize("role", ["output", "data", "report"])
def test_never_over_the_weights_of_the_input(inputs: tuple[Path, ...], tmp_path: Path, role: str, how: str) -> None:
    weights = inputs[1]
    place = weights if how == "same" else tmp_path / "other.onnx.data"
    if how == "link":
        os.link(weights, place)
    output = {"output": place, "data": place.with_suffix(""), "report": tmp_path / OUTPUT}[role]
    report = place if role == "report" else None
    config = CompressionConfig(model=inputs[0], report=report, force=True)
    with pytest.raises(OutputError, match="holds weights of the input model"):
        check_data_files(output, inputs, config)
    if role == "report":
        with pytest.raises(OutputError, match="choose another --report"):
            check_data_files(None, inputs, config)


@pytest.mark.parametrize("force", [False, True])
def test_what_lies_where_weights_would_go_needs_force(inputs: tuple[Path, ...], tmp_path: Path, *, force: bool) -> None:
    config = CompressionConfig(model=inputs[0], force=force)
    check_data_files(tmp_path / OUTPUT, inputs, config)
    (tmp_path / f"{OUTPUT}.data").write_bytes(b"old")
    check_data_files(tmp_path / OUTPUT, inputs[:1], config)  # a model of one file stays one
    if force:
        check_data_files(tmp_path / OUTPUT, inputs, config)
    else:
        with pytest.raises(OutputError, match=r"out\.onnx\.data' exists already"):
            check_data_files(tmp_path / OUTPUT, inputs, config)


def test_the_report_is_no_place_for_weights(inputs: tuple[Path, ...], tmp_path: Path) -> None:
    config = CompressionConfig(model=inputs[0], report=tmp_path / "." / f"{OUTPUT}.data", force=True)
    with pytest.raises(OutputError, match="can't be both"):
        check_data_files(tmp_path / OUTPUT, inputs, config)
    check_data_files(tmp_path / OUTPUT, inputs[:1], config)


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("option", ["output", "report"])
def test_never_over_the_table_of_times(tmp_path: Path, option: str, *, exists: bool) -> None:
    table, other = tmp_path / "t.json", tmp_path / "." / "t.json"
    if exists:
        table.write_bytes(b"mine")
        other = tmp_path / "other.json"
        os.link(table, other)
    config = CompressionConfig(model=tmp_path / "m.onnx", latency_table=table, force=True, **{option: other})
    with pytest.raises(OutputError, match="never written over" if exists else "can't be the --latency-table, too"):
        choose_output(config)


def test_a_table_without_a_folder_is_told_before_any_work(tmp_path: Path) -> None:
    config = CompressionConfig(model=tmp_path / "m.onnx", latency_table=tmp_path / "nowhere" / "t.json")
    with pytest.raises(OutputError, match="doesn't exist: create it first"):
        choose_output(config)
