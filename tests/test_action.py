"""The GitHub Action: its steps, run as the runner would."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "sample_models"
BASH = None if sys.platform == "win32" else shutil.which("bash")
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
EXPRESSION = re.compile(r"\$\{\{ inputs\.([\w-]+) \}\}")
# A `basisprune` that notes how it is called; `compress` writes a report. Exit codes come from the environment.
STAND_IN = """#!/bin/sh
printf '%s\\n' "$@" --end-- >> "$CALLS"
if [ "$1" = compress ]; then
  printf '{"config": {"output": "a\\\\nb.onnx"}, "speedup": {"median": 2.0}, "drop_pp": null}' > report.json
  exit "${COMPRESS_CODE:-0}"
fi
exit "${CHECK_CODE:-0}"
"""

needs_bash = pytest.mark.skipif(BASH is None, reason="the action's steps are bash scripts, and there is no bash")


def run_step(
    step: Mapping[str, Any], inputs: Mapping[str, str], folder: Path, *paths: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run one step in a folder; inputs reach it through its variables, as the runner would hand them over."""
    assert BASH is not None
    assert set(inputs) <= set(ACTION["inputs"])
    values = {name: str(spec.get("default", "")) for name, spec in ACTION["inputs"].items()} | inputs
    script = folder / "step.sh"
    script.write_text(step["run"], encoding="utf-8")
    for name in ("output", "summary", "path"):
        (folder / f"github_{name}").touch()
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([*map(str, paths), os.environ["PATH"]]),
        "GITHUB_OUTPUT": str(folder / "github_output"),
        "GITHUB_STEP_SUMMARY": str(folder / "github_summary"),
        "GITHUB_PATH": str(folder / "github_path"),
        "GITHUB_ACTION_PATH": str(ROOT),
        "RUNNER_TEMP": str(folder),
        **{name: EXPRESSION.sub(lambda found: values[found[1]], text) for name, text in step.get("env", {}).items()},
        **variables,
    }
    command = [BASH, "--noprofile", "--norc", "-eo", "pipefail", str(script)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def read_outputs(folder: Path) -> dict[str, str]:
    lines = (folder / "github_output").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines)


def run_stand_in(
    folder: Path, inputs: Mapping[str, str], **variables: str
) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """Run the second step with the stand-in; return what came of it and how it was called."""
    command = folder / "bin" / "basisprune"
    command.parent.mkdir()
    command.write_text(STAND_IN)
    command.chmod(0o755)
    calls = folder / "calls"
    given = {"model": "m.onnx", "data": "calib", "report": "report.json", **inputs}
    done = run_step(STEPS[1], given, folder, command.parent, CALLS=str(calls), **variables)
    parts = calls.read_text().split("--end--\n")[:-1] if calls.exists() else []
    return done, [part.splitlines() for part in parts]


def validate(path: Path, schema: str) -> None:
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_action_follows_githubs_schema() -> None:
    validate(ROOT / "action.yml", "vendor.github-actions")


@pytest.mark.parametrize(
    ("sign", "schema"), [("runs-on:", "vendor.github-workflows"), ("artifacts:", "vendor.gitlab-ci")]
)
def test_documented_pipelines_follow_their_schemas(sign: str, schema: str, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if sign in block]
    assert blocks
    for block in blocks:
        (tmp_path / "pipeline.yml").write_text(block, encoding="utf-8")
        validate(tmp_path / "pipeline.yml", schema)
        for job in yaml.safe_load(block).get("jobs", {}).values():
            uses = [step for step in job["steps"] if "basisprune@" in step.get("uses", "")]
            assert uses
            assert all(set(step["with"]) <= set(ACTION["inputs"]) for step in uses)


def test_no_input_stands_in_a_script() -> None:
    assert [step["name"] for step in STEPS if "${{" in step["run"]] == []


def test_every_input_and_output_is_wired() -> None:
    text = json.dumps(STEPS)
    assert [name for name in ACTION["inputs"] if f"inputs.{name} " not in text] == []
    assert {spec["value"] for spec in ACTION["outputs"].values()} == {
        f"${{{{ steps.compress.outputs.{name} }}}}" for name in ACTION["outputs"]
    }


@needs_bash
def test_words_in_quotes_stay_together_and_nothing_is_run(tmp_path: Path) -> None:
    evil = "$(touch evil); `touch evil`"
    inputs = {"model": f"{evil}.onnx", "args": f"--exclude 'a b' --labels=\"x y\"\n--seed 1 {evil}", "val": "-v"}
    done, calls = run_stand_in(tmp_path, inputs)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "evil").exists()
    assert calls == [
        [
            *("compress", "--data=calib", "--report=report.json", "--force", "--val=-v", "--exclude", "a b"),
            *("--labels=x y", "--seed", "1", "$(touch", "evil);", "`touch", "evil`", "--github", "--", f"{evil}.onnx"),
        ]
    ]
    assert read_outputs(tmp_path) == {
        "model": "a b.onnx",
        "report": "report.json",
        "speedup": "2",
        "drop": "",
        "passed": "true",
    }


@needs_bash
def test_gates_are_judged_once_and_the_bound_is_searched(tmp_path: Path) -> None:
    done, calls = run_stand_in(tmp_path, {"args": "--seed 1", "max-drop": "1", "strict": "true", "junit": "j.xml"})
    assert done.returncode == 0, done.stderr
    compress, check = calls
    assert compress[3:] == ["--force", "--max-drop=1", "--seed", "1", "--", "m.onnx"]
    assert check == ["check", "report.json", "--max-drop=1", "--github", "--junit=j.xml", "--strict", "--force"]


@needs_bash
@pytest.mark.parametrize(
    ("codes", "expected", "passed"),
    [
        ({"COMPRESS_CODE": "1"}, 1, None),
        ({"COMPRESS_CODE": "2"}, 2, None),
        ({"COMPRESS_CODE": "3"}, 3, "false"),
        ({"CHECK_CODE": "3"}, 3, "false"),
        ({"CHECK_CODE": "2"}, 2, None),
    ],
)
def test_exit_codes_reach_the_job(codes: dict[str, str], expected: int, passed: str | None, tmp_path: Path) -> None:
    done, calls = run_stand_in(tmp_path, {"min-speedup": "1.5"}, **codes)
    assert done.returncode == expected
    assert read_outputs(tmp_path).get("passed") == passed
    assert len(calls) == (1 if codes.get("COMPRESS_CODE") in {"1", "2"} else 2)


@needs_bash
def test_installing_puts_only_the_command_on_the_path(tmp_path: Path) -> None:
    # A `python3` that makes an environment of stand-ins, and notes what its pip is told.
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(
        '#!/bin/sh\nif [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; touch "$3/bin/basisprune"\n'
        f"else printf '%s\\n' \"$@\" > '{tmp_path}/pip'; fi\n"
    )
    python.chmod(0o755)
    done = run_step(STEPS[0], {}, tmp_path, python.parent)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pip").read_text().split() == [
        *("-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        f"{ROOT}[report]",
    ]
    folder = Path((tmp_path / "github_path").read_text().strip())
    assert [file.name for file in folder.iterdir()] == ["basisprune"]


@needs_bash
@pytest.mark.parametrize("bound", ["100M", "1"])
def test_the_sample_model_goes_through(bound: str, tmp_path: Path) -> None:
    scripts = Path(sysconfig.get_path("scripts"))
    if not (scripts / "basisprune").exists():
        pytest.skip("the package isn't installed in this environment, so there is no command")
    shutil.copy(SAMPLES / "digits.onnx", tmp_path / "model.onnx")
    inputs = {
        "model": "model.onnx",
        "data": str(SAMPLES / "digits" / "calib"),
        "args": "--target-macs 0.6 --allow-slower --recover none --limit 50 --preprocess imagenet",
        "max-drop": "50",
        "max-macs": bound,
        "junit": "gates.xml",
        "html": "report.html",
    }
    done = run_step(STEPS[1], inputs, tmp_path, scripts)
    passed = bound == "100M"
    assert done.returncode == (0 if passed else 3), done.stderr
    outputs = read_outputs(tmp_path)
    assert outputs["passed"] == str(passed).lower()
    assert (tmp_path / outputs["model"]).stat().st_size > 1000
    report = json.loads((tmp_path / outputs["report"]).read_text())
    assert float(outputs["speedup"]) == pytest.approx(report["speedup"]["median"], rel=1e-3)
    assert float(outputs["drop"]) == pytest.approx(report["drop_pp"]["estimate"], rel=1e-3, abs=1e-9)
    suite = ET.parse(tmp_path / "gates.xml").getroot()  # noqa: S314  # written by the step just now
    assert len(list(suite.iter("failure"))) == (0 if passed else 1)
    assert "</html>" in (tmp_path / "report.html").read_text(encoding="utf-8")
    summary = (tmp_path / "github_summary").read_text(encoding="utf-8")
    assert r"max\_macs" in summary
    assert ("::error" in done.stdout) == (not passed)
