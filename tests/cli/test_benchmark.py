"""`basisprune benchmark`; what it measures isn't judged here, only that it is told."""

from __future__ import annotations

import json
from pathlib import Path

import junitparser
import pytest
from click.testing import CliRunner, Result

from onnx_basisprune.cli.main import basisprune
from onnx_basisprune.cli.measurement_tables import show_verdict
from onnx_basisprune.results import Speedup

MODEL = Path(__file__).resolve().parents[2] / "sample_models" / "digits.onnx"
SHORT = ["--rounds", "2", "--min-seconds", "0", "--max-seconds", "0.02"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(basisprune, ["benchmark", *arguments, *SHORT])


def test_one_model_gets_no_ratio() -> None:
    result = run(str(MODEL), "--no-cold-start")
    assert result.exit_code == 0
    title, _, header, _, row = result.stdout.splitlines()
    assert title == "Batch 1, default threads, CPUExecutionProvider"
    assert header.split() == ["model", "median", "p90", "images/s"]
    assert row.split()[::2] == ["digits.onnx", "ms", "ms"]


def test_two_models_get_a_row_each_and_a_verdict_for_every_combination() -> None:
    result = run(str(MODEL), str(MODEL), "--batch-size", "1,2", "--threads", "1", "--threads", "2", "--no-cold-start")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line for line in lines if line.startswith("Batch")] == [
        f"Batch {size}, {threads}, CPUExecutionProvider" for size in (1, 2) for threads in ("1 thread", "2 threads")
    ]
    # Of the same file name, the paths are shown.
    assert sum(line.startswith(f"{MODEL} ") for line in lines) == 8
    assert sum(line.startswith(f"{MODEL}: ") and "95 %" in line for line in lines) == 4


@pytest.mark.parametrize(
    ("speedup", "words"),
    [
        (Speedup(2.314, 2.28, 2.351), "2.31x faster (95 % 2.28 to 2.35)"),
        (Speedup(0.8, 0.75, 0.9), "1.25x slower (95 % 1.11 to 1.33)"),
        (Speedup(1.1, 0.98, 1.2), "no difference that this machine can show (speed-up 1.10x, 95 % 0.98 to 1.20)"),
        (Speedup(1.0, 1.0, 1.0), "no difference that this machine can show (speed-up 1.00x, 95 % 1.00 to 1.00)"),
    ],
)
def test_the_verdict_is_in_words(speedup: Speedup, words: str) -> None:
    assert show_verdict(speedup) == words


def test_a_speedup_can_be_asked_for(tmp_path: Path) -> None:
    options = ["--no-cold-start", "--batch-size", "1,2", "--json", "-", "--junit", str(tmp_path / "j.xml"), "--github"]
    result = run(str(MODEL), str(MODEL), "--min-speedup", "1000", *options)
    assert result.exit_code == 3
    gates = json.loads(result.stdout)["gates"]
    assert [(gate["name"], gate["asked"], gate["passed"]) for gate in gates] == [
        ("min_speedup[batch 1, default threads]", 1000, False),
        ("min_speedup[batch 2, default threads]", 1000, False),
    ]
    # stdout is JSON's, so the annotations are on stderr.
    assert result.stderr.count("::error title=basisprune%3A min_speedup[batch ") == 2
    (suite,) = junitparser.JUnitXml.fromfile(str(tmp_path / "j.xml"))
    assert (suite.tests, suite.failures) == (2, 2)
    passed = run(str(MODEL), str(MODEL), "--min-speedup", "0.001", "--strict", "--no-cold-start")
    assert passed.exit_code == 0, passed.output
    assert "Gate min_speedup[batch 1, default threads] passed: " in passed.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-speedup", "1"], "--min-speedup compares two models"),
        ([str(MODEL), "--min-speedup", "-1"], "--min-speedup is -1; expected"),
    ],
)
def test_a_speedup_that_cant_be_is_wrong_usage(options: list[str], message: str) -> None:
    result = run(str(MODEL), *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


@pytest.mark.parametrize("width", ["80", "120"])
def test_the_tables_fit_the_terminal(width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    result = run(str(MODEL), str(MODEL), "--profile")
    assert result.exit_code == 0
    # Lines of prose are wrapped by the terminal.
    lines = [line for line in result.stdout.splitlines() if not line.startswith(("(A is", f"{MODEL}: "))]
    assert max(map(len, lines)) <= int(width)
    assert "digits.on" in result.stdout


def test_the_profile_shows_where_the_time_goes(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    result = run(str(MODEL), str(MODEL), "--profile", "--no-cold-start", "--threads", "1", "--json", str(target))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert "Where the time goes, by onnxruntime's profiler, scaled to the medians" in lines
    assert lines[-1].split()[0] == "all"
    (measured,) = json.loads(target.read_text())["runs"]
    for side in "ab":
        nodes = {node["name"]: node[f"{side}_ms"] for node in measured["nodes"]}
        assert sum(nodes.values()) == pytest.approx(measured[side]["latency"]["median_ms"], rel=1e-9)
        assert {"/stages/stages.0/conv1/Conv", "/stages/stages.4/conv2/Conv"} <= set(nodes)
    (longest, *_) = sorted(measured["nodes"], key=lambda node: max(node["a_ms"], node["b_ms"]), reverse=True)
    first = lines[next(i for i, line in enumerate(lines) if line.startswith("node")) + 2]
    assert first.startswith("(inserted: " if longest["inserted"] else f"{longest['name']} ")


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
    assert values["environment"]["denormals"] in ("flushed to zero", "kept")
    assert measured["nodes"] == []


def test_cold_starts_have_columns_of_their_own() -> None:
    result = run(str(MODEL), "--threads", "1")
    assert result.exit_code == 0
    assert all(title in result.stdout.splitlines()[2] for title in ("load", "first run", "memory"))
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
        ([str(MODEL), "--provider", "nowhere"], 2, "has no execution provider 'nowhere'; expected one of "),
    ],
)
def test_what_cannot_be_timed_is_one_line(arguments: list[str], code: int, message: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert message in line
