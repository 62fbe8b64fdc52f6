"""`import onnx_basisprune as bp`: thin functions over the commands' library functions."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

import onnx_basisprune as bp
from onnx_basisprune import pipeline

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "sample_models" / "digits.onnx"
FUNCTIONS: list[tuple[Callable[..., object], type, type, set[str]]] = [
    (bp.compress, bp.CompressionConfig, bp.CompressionOptions, {"model", "data"}),
    (bp.evaluate_model, bp.EvaluationConfig, bp.EvaluationOptions, {"model", "data"}),
    (bp.benchmark_models, bp.BenchmarkConfig, bp.BenchmarkOptions, {"a", "b"}),
]

# What users write; the comment holds what mypy must say of the line.
SNIPPET = """\
from pathlib import Path

import onnx_basisprune as bp

report = bp.compress("model.onnx", data=Path("calib"), max_drop=1.0, exclude=["stem"], output="small.onnx")
reveal_type(report)  # CompressionReport
bp.compress("model.onnx", data="calib", target_mac=0.5)  # Unexpected keyword argument "target_mac"
bp.compress("model.onnx", data="calib", target_macs="0.5")  # incompatible type "str"; expected "float | None"
bp.compress("model.onnx", data="calib", recover="all")  # expected "Literal['none', 'scale', 'full']"
bp.compress("model.onnx")  # Missing positional argument "data"
reveal_type(bp.evaluate_model("model.onnx", "test", reference="old.onnx", mean=(0.5,)))  # EvaluationReport
bp.evaluate_model("model.onnx", "test", target_macs=0.5)  # Unexpected keyword argument "target_macs"
reveal_type(bp.benchmark_models("a.onnx", "b.onnx", batch_size=[1, 8]))  # BenchmarkReport
bp.benchmark_models("a.onnx", batch_size=1)  # incompatible type "int"; expected "list[int] | tuple[int, ...]"
bp.compress("model.onnx", data="calib", exclude="stem")  # incompatible type "str"; expected "list[str]
options: bp.CompressionOptions = {"target_params": 0.1, "dry_run": True}
bp.compress("model.onnx", "calib", **options)
"""
# The snippet needs the signatures only: what the functions call is checked by the project's own run of mypy.
MYPY_SETTINGS = """\
[mypy]
strict = true
[mypy-numpy.*,onnx_basisprune.pipeline,onnx_basisprune.inspection,onnx_basisprune.measurement,onnx_basisprune.reporting.*]
follow_imports = skip
[mypy-onnx_basisprune.*]
ignore_errors = true
"""


def list_alternatives(hint: Any) -> set[object]:
    """Return what a type allows; a list where a config holds a tuple and text where it holds a path are the same."""
    if get_origin(hint) in (Union, UnionType):
        found = set().union(*(list_alternatives(part) for part in get_args(hint)))
        return found - {str, os.PathLike[str]} | {Path} if {str, os.PathLike[str]} <= found else found
    if get_origin(hint) in (list, tuple):
        return {(tuple, get_args(hint)[0])}
    return {hint}


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


@pytest.mark.parametrize(("function", "config", "options", "own"), FUNCTIONS)
def test_options_are_the_fields_of_the_config(
    function: Callable[..., object], config: type, options: type, own: set[str]
) -> None:
    fields = {field.name: field for field in dataclasses.fields(config)}
    hints = get_type_hints(config)
    listed = get_type_hints(options)
    assert set(listed) == set(fields) - own
    for name, hint in listed.items():
        assert list_alternatives(hint) == list_alternatives(hints[name]), f"{options.__name__}.{name}"
    parameters = inspect.signature(function).parameters
    assert set(parameters) == set(fields) | {"progress"}
    assert all(parameters[name].default == fields[name].default for name in set(fields) - own)


def run_mypy(folder: Path, *files: str) -> subprocess.CompletedProcess[str]:
    """Check files in a folder as a user's strict settings would."""
    (folder / "mypy.ini").write_text(MYPY_SETTINGS, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", os.devnull, *files]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env=environment, encoding="utf-8"
    )


def test_mypy_knows_every_option(tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(SNIPPET, encoding="utf-8")
    done = run_mypy(tmp_path, "snippet.py")
    said: dict[int, str] = {}
    for line, message in re.findall(r"^snippet\.py:(\d+): (?:error|note): (.*)$", done.stdout, re.MULTILINE):
        said[int(line)] = said.get(int(line), "") + message
    expected = {
        number: line.partition("  # ")[2] for number, line in enumerate(SNIPPET.splitlines(), start=1) if "  # " in line
    }
    assert set(said) == set(expected), done.stdout + done.stderr
    assert [said[number] for number, text in expected.items() if text not in said[number]] == []


def test_mypy_accepts_the_documented_python(tmp_path: Path) -> None:
    pages = [ROOT / "README.md", ROOT / "docs" / "python.md"]
    blocks = [re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL) for page in pages]
    assert all(blocks)
    names = [tmp_path / f"{page.stem.lower()}_example.py" for page in pages]
    for name, parts in zip(names, blocks, strict=True):
        name.write_text("\n".join(parts), encoding="utf-8")
    done = run_mypy(tmp_path, *(name.name for name in names))
    assert done.returncode == 0, done.stdout + done.stderr


def test_options_out_of_range_are_a_config_error() -> None:
    with pytest.raises(bp.ConfigError, match="--target-macs is 2"):
        bp.compress("m.onnx", "calib", target_macs=2.0)


def test_every_public_name_exists() -> None:
    assert [name for name in bp.__all__ if not hasattr(bp, name)] == []
    assert sorted(bp.__all__) == list(bp.__all__)
    assert isinstance(bp.__version__, str)
    assert not hasattr(bp, "nonsense")


def test_all_of_the_python_api_is_documented() -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    functions = [name for name in bp.__all__ if inspect.isfunction(getattr(bp, name))]
    assert [name for name in functions if f"autofunction:: onnx_basisprune.{name}\n" not in text] == []
    errors = [name for name in bp.__all__ if name.endswith("Error")]
    assert [name for name in errors if name not in text] == []


def test_reports_become_json() -> None:
    inspection = bp.inspect_model(str(MODEL), exclude=["/classifier/Gemm"])
    values = json.loads(bp.render_json(inspection))
    assert set(values) == {field.name for field in dataclasses.fields(bp.Inspection)}
    assert values["model"] == str(MODEL)
