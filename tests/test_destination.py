"""No result goes over what a run reads, weights beside the model among it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.destination import check_data_files
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
