"""`basisprune check`: its lines, its exit codes, its files, what it loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import junitparser
import pytest
from click.testing import CliRunner, Result

import onnx_basisprune as bp
from onnx_basisprune.cli.main import basisprune

MODEL = Path(__file__).resolve().parents[2] / "sample_models" / "digits.onnx"
HEAVY = ["PIL", "numpy", "onnx", "onnxruntime", "rich", "torch"]


def make_values(**changes: Any) -> dict[str, Any]:
    """A report's JSON as `compress` writes it: 0.5 pp lost, 1.5x, 60 MACs, 25 parameters, 600 bytes, 88.5 %."""

    def measure(scale: float, top1: float) -> dict[str, Any]:
        return {
            "macs": int(100 * scale),
            "parameters": int(40 * scale),
            "file_bytes": int(1000 * scale),
            "uncounted_ops": [],
            "latency": {"median_ms": 3.0, "p90_ms": 3.5, "batch_size": 1, "runs": 30},
            "accuracy": {
                "n": 1000,
                "top1": top1,
                "top5": None,
                "agreement": 0.95,
                "interval": {"estimate": top1, "low": top1 - 0.02, "high": top1 + 0.02},
            },
        }

    values = {
        "format_version": 1,
        "config": {"model": "a.onnx", "dry_run": False},
        "environment": {},
        "original": measure(1.0, 0.89),
        "compressed": measure(0.6, 0.885),
        "speedup": {"median": 1.5, "low": 1.4, "high": 1.6},
        "drop_pp": {"estimate": 0.5, "low": -0.2, "high": 1.2},
        "layers": [],
        "groups": [],
        "gates": [],
        "recovery": None,
        "timings": {},
    }
    return {**values, **changes}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes a report and returns its path."""

    def write_report(name: str = "report.json", **changes: Any) -> str:
        path = tmp_path / name
        path.write_text(json.dumps(make_values(**changes)), encoding="utf-8")
        return str(path)

    return write_report


def run(*arguments: str) -> Result:
    return CliRunner().invoke(basisprune, ["check", *arguments])


def run_installed(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as it is installed."""
    command = Path(sysconfig.get_path("scripts")) / ("basisprune.exe" if sys.platform == "win32" else "basisprune")
    if not command.exists():
        pytest.skip("the package isn't installed in this environment, so there is no command")
    environment = {key: value for key, value in os.environ.items() if key != "GITHUB_STEP_SUMMARY"}
    return subprocess.run(
        [command, "check", *arguments], capture_output=True, text=True, encoding="utf-8", check=False, env=environment
    )


def test_the_installed_command_passes_fails_and_refuses(write: Callable[..., str], tmp_path: Path) -> None:
    report = write()
    passed = run_installed(report, "--max-drop", "1", "--max-macs", "60")
    assert (passed.returncode, passed.stderr) == (0, "")
    assert passed.stdout.splitlines() == [
        "max_drop passed: 0.5 pp, at most 1 pp asked (95 % interval -0.20 to 1.20)",
        "max_macs passed: 60, at most 60 asked",
    ]
    failed = run_installed(report, "--max-drop", "1", "--max-macs", "59", "--strict")
    assert failed.returncode == 3
    assert [line.split(":")[0] for line in failed.stdout.splitlines()] == ["max_drop FAILED", "max_macs FAILED"]
    unreadable = run_installed(str(tmp_path / "missing.json"), "--max-drop", "1")
    assert (unreadable.returncode, unreadable.stdout) == (1, "")
    assert unreadable.stderr.startswith("Error: '")
    wrong = run_installed(report)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("Error: there is no gate")


def make_layer(index: int) -> dict[str, Any]:
    macs = {"macs_before": 9, "macs_after": 5, "parameters_before": 4, "parameters_after": 2, "removed_score": 0.5}
    return {
        "name": f"c{index}",
        "op_type": "Conv",
        "decomposed": True,
        "reason": "",
        "full_rank": 8,
        "rank": 3,
        **macs,
    }


def make_classes(count: int) -> list[dict[str, Any]]:
    row = {"name": None, "n": 5, "top1_before": 0.8, "top1_after": 0.8, "drop_pp": 0.0}
    return [{"index": index, **row} for index in range(count)]


def test_it_loads_nothing_heavy(write: Callable[..., str]) -> None:
    """So it takes a quarter of a second, also of a large report."""
    report = write(layers=[make_layer(index) for index in range(200)], per_class=make_classes(1000))
    code = (
        "import sys\n"
        "from onnx_basisprune.cli.main import basisprune\n"
        "try:\n"
        "    basisprune(sys.argv[1:])\n"
        "finally:\n"
        "    print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    arguments = ["check", report, "--max-drop", "1", "--baseline", write("old.json"), "--github"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    loaded = done.stdout.partition("LOADED")[2].split()
    assert "onnx_basisprune" in loaded
    assert set(loaded) & set(HEAVY) == set()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--max-drop", "0.5"], 0),
        (["--max-drop", "0.4"], 3),
        (["--max-drop", "1.2", "--strict"], 0),
        (["--max-drop", "1.1", "--strict"], 3),
        (["--min-speedup", "1.5"], 0),
        (["--min-speedup", "1.6"], 3),
        (["--min-speedup", "1.5", "--strict"], 3),
        (["--max-parameters", "24"], 0),
        (["--max-parameters", "23"], 3),
        (["--max-file-bytes", "0.6k"], 0),
        (["--max-file-bytes", "599"], 3),
        (["--min-accuracy", "0.885"], 0),
        (["--min-accuracy", "88.5%"], 0),
        (["--min-accuracy", "89%"], 3),
        (["--min-accuracy", "88%", "--strict"], 3),
        (["--min-accuracy", "75"], 2),
        (["--min-accuracy", "-1%"], 2),
        (["--min-accuracy", "half"], 2),
        (["--max-macs", "0.0001k"], 2),
        (["--max-macs", "-1"], 2),
        (["--max-macs", "1e99999999"], 2),
        (["--max-macs", "nan"], 2),
        (["--max-drop", "nan"], 2),
        (["--min-speedup", "0"], 2),
        (["--strict"], 2),
        (["--slack-size", "1"], 2),
    ],
)
def test_every_gate_decides_by_the_exit_code(options: list[str], code: int, write: Callable[..., str]) -> None:
    result = run(write(), *options)
    assert result.exit_code == code, result.output
    assert ("FAILED" in result.stdout) == (code == 3)
    assert (result.stderr == "") == (code != 2)


@pytest.mark.parametrize("content", ["", '{"format_version": 1, "gat', '{"format_version": 9}', "[]"])
def test_what_is_no_report_is_1_with_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    result = run(str(path), "--max-drop", "1")
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: '")


@pytest.mark.parametrize("key", ["speedup", "compressed", "drop_pp"])
def test_a_missing_key_is_1_even_where_no_gate_needs_it(key: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    values = make_values()
    del values[key]
    path.write_text(json.dumps(values))
    result = run(str(path), "--max-macs", "1000")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"'{key}' is missing" in result.stderr


def test_a_figure_that_is_absent_fails(write: Callable[..., str]) -> None:
    result = run(write(speedup=None, config={"dry_run": True}), "--min-speedup", "1", "--max-macs", "60")
    assert result.exit_code == 3
    assert result.stdout.splitlines() == [
        "min_speedup FAILED: -, at least 1x asked (can't be judged: the report has no speed-up: it is of a dry run)",
        "max_macs passed: 60, at most 60 asked",
    ]


def test_the_last_release_is_held_against(write: Callable[..., str]) -> None:
    old, new = write("old.json"), write("new.json", speedup={"median": 1.0, "low": 0.99, "high": 1.01})
    same = run("--baseline", old, old)
    assert same.exit_code == 0, same.output
    assert len(same.stdout.splitlines()) == 5
    worse = run("--baseline", old, new, "--max-drop", "1")
    assert worse.exit_code == 3
    assert [line.split(":")[0] for line in worse.stdout.splitlines() if "FAILED" in line] == ["lower_speedup FAILED"]
    assert worse.stdout.startswith("max_drop passed")
    assert run("--baseline", old, new, "--slack-speedup", "34").exit_code == 0
    assert run("--baseline", old, new, "--slack-speedup", "-1").exit_code == 2
    assert run("--baseline", "missing.json", new).exit_code == 1


def test_the_library_judges_alike(write: Callable[..., str], tmp_path: Path) -> None:
    path = write()
    (gate,) = bp.check_report(path, bp.GateLimits(max_drop=1.0, strict=True))
    assert (gate.name, gate.asked, gate.reached, gate.passed) == ("max_drop", 1.0, 1.2, False)
    assert all(gate.passed for gate in bp.check_report(path, bp.GateLimits(), baseline=path))
    assert not all(gate.passed for gate in bp.check_report(path, bp.GateLimits(strict=True), baseline=path))
    with pytest.raises(bp.ReportError, match="can't be read"):
        bp.check_report(tmp_path / "missing.json", bp.GateLimits(max_drop=1.0))


def test_quiet_leaves_what_failed(write: Callable[..., str]) -> None:
    result = run(write(), "--max-drop", "1", "--max-macs", "1", "-q")
    assert (result.exit_code, result.stdout) == (3, "max_macs FAILED: 60, at most 1 asked\n")


def test_the_verdict_is_written_and_annotated(
    write: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    junit, markdown = tmp_path / "gates.xml", tmp_path / "gates.md"
    arguments = [write(), "--max-macs", "1", "--github", "--junit", str(junit), "--markdown", str(markdown)]
    result = run(*arguments)
    assert result.exit_code == 3
    assert result.stdout.splitlines()[1] == (
        "::error title=basisprune%3A max_macs::max_macs FAILED: 60, at most 1 asked"
    )
    (suite,) = junitparser.JUnitXml.fromfile(str(junit))
    assert (suite.tests, suite.failures) == (1, 1)
    assert "1 of 1 gates failed" in summary.read_text(encoding="utf-8") == markdown.read_text(encoding="utf-8")
    again = run(*arguments)
    assert (again.exit_code, again.stdout) == (1, "")
    assert "exists already" in again.stderr
    assert run(*arguments, "--force").exit_code == 3
