"""`basisprune benchmark`; what it measures isn't judged here, only that it is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from onnx_basisprune.cli.main import basisprune

MODEL = Path(__file__).resolve().parents[2] / "sample_models" / "digits.onnx"
SHORT = ["--rounds", "2", "--min-seconds", "0", "--max-seconds", "0.02"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(basisprune, ["benchmark", *arguments, *SHORT])


def test_one_model_gets_no_ratio() -> None:
    result = run(str(MODEL), "--no-cold-start")
    assert result.exit_code == 0
    header, _, row = result.stdout.splitlines()[:3]
    assert "speed-up" not in header
    assert "load" not in header
    assert row.split()[:3] == ["1", "default", "digits.onnx"]
    assert row.split()[4] == "ms"


def test_two_models_get_a_row_each_and_a_ratio_for_every_combination() -> None:
    result = run(str(MODEL), str(MODEL), "--batch-size", "1,2", "--threads", "1", "--threads", "2", "--no-cold-start")
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()[2:] if line.strip()]
    assert [row[:2] for row in rows[::2]] == [["1", "1"], ["1", "2"], ["2", "1"], ["2", "2"]]
    # Of the same file name, the paths are shown.
    assert all(row[2] == str(MODEL) for row in rows)
    assert all(any(cell.endswith("x") for cell in row) for row in rows[1::2])


def test_json_on_stdout_is_nothing_but_json() -> None:
    result = run(str(MODEL), str(MODEL), "--json", "-")
    assert result.exit_code == 0
    values = json.loads(result.stdout)
    (measured,) = values["runs"]
    assert measured["batch_size"] == 1
    assert measured["threads"] is None
    assert measured["a"]["latency"]["median_ms"] > 0
    assert measured["a"]["load_ms"] > 0
    assert measured["b"]["peak_memory_bytes"] > 0
    assert measured["speedup"]["low"] <= measured["speedup"]["median"] <= measured["speedup"]["high"]
    assert values["config"]["rounds"] == 2
    assert values["environment"]["execution_provider"] == "CPUExecutionProvider"


def test_cold_starts_have_columns_of_their_own() -> None:
    result = run(str(MODEL), "--threads", "1")
    assert result.exit_code == 0
    assert all(title in result.stdout.splitlines()[0] for title in ("load", "first run", "memory"))
    assert " MB" in result.stdout


def test_warnings_go_to_stderr_even_when_quiet() -> None:
    result = CliRunner().invoke(
        basisprune, ["benchmark", str(MODEL), "--no-cold-start", "-q", "--min-seconds", "0", "--max-seconds", "0"]
    )
    assert result.exit_code == 0
    assert "Warning: benchmark: Only 5 of 30 rounds" in result.stderr
    assert "Warning" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.onnx"], 1, "missing.onnx"),
        ([str(MODEL), "--input-shape", "1,3,20,20"], 2, "takes images of shape"),
        ([str(MODEL), "missing.onnx"], 1, "missing.onnx"),
    ],
)
def test_what_cannot_be_timed_is_one_line(arguments: list[str], code: int, message: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert message in line
