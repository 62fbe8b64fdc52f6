"""`import onnx_basisprune as bp`: thin functions over the commands' library functions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import onnx_basisprune as bp
from onnx_basisprune import pipeline

MODEL = Path(__file__).resolve().parents[1] / "sample_models" / "digits.onnx"


def test_compress_makes_a_config_of_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(pipeline, "compress", lambda *arguments: calls.append(arguments))
    bp.compress("m.onnx", "calib", target_macs=0.4, output="o.onnx", val=None, exclude=["a"], mean=(0.5,))
    expected = bp.CompressionConfig(
        model=Path("m.onnx"),
        data=Path("calib"),
        target_macs=0.4,
        output=Path("o.onnx"),
        exclude=("a",),
        mean=(0.5,),
    )
    assert calls == [(expected, None)]


def test_unknown_options_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="target_mac"):
        bp.compress("m.onnx", "calib", target_mac=0.5)


def test_options_out_of_range_are_a_config_error() -> None:
    with pytest.raises(bp.ConfigError, match="--target-macs is 2"):
        bp.compress("m.onnx", "calib", target_macs=2.0)


def test_every_public_name_exists() -> None:
    assert [name for name in bp.__all__ if not hasattr(bp, name)] == []
    assert sorted(bp.__all__) == list(bp.__all__)
    assert isinstance(bp.__version__, str)
    assert not hasattr(bp, "nonsense")


def test_reports_become_json() -> None:
    inspection = bp.inspect_model(str(MODEL), exclude=["/classifier/Gemm"])
    values = json.loads(bp.render_json(inspection))
    assert set(values) == {field.name for field in dataclasses.fields(bp.Inspection)}
    assert values["model"] == str(MODEL)
