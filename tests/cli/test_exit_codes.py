"""Each exit code, reached through the command as it is installed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import junitparser
import pytest

SAMPLES = Path(__file__).resolve().parents[2] / "sample_models"
MODEL, CALIB, VAL = (str(SAMPLES / name) for name in ("digits.onnx", "digits/calib", "digits/val"))
QUICK = [
    "--target-macs",
    "0.5",
    "--data",
    CALIB,
    "--val",
    VAL,
    "--limit",
    "20",
    "--recover",
    "none",
    "--preprocess",
    "imagenet",
]
QUICK += ["--threads", "1", "--allow-slower", "-q"]


@pytest.fixture
def command() -> str:
    path = Path(sysconfig.get_path("scripts")) / ("basisprune.exe" if sys.platform == "win32" else "basisprune")
    if not path.exists():
        pytest.skip("the package isn't installed in this environment, so there is no command")
    return str(path)


@pytest.fixture
def run(command: str, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the command in a folder of its own."""

    def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [command, *arguments], capture_output=True, text=True, encoding="utf-8", check=False, cwd=tmp_path
        )

    return run_command


def test_a_pipeline_compresses_checks_and_is_stopped_by_a_gate(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    gates = ["--min-accuracy", "90%", "--max-macs", "3M"]
    done = run("compress", MODEL, *QUICK, "-o", "small.onnx", "--report", "r.json", "--junit", "gates.xml", *gates)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    (suite,) = junitparser.JUnitXml.fromfile(str(tmp_path / "gates.xml"))
    assert (suite.tests, suite.failures, suite.errors) == (3, 0, 0)
    passed = run("check", "r.json", "--min-accuracy", "90%", "--max-file-bytes", "600k", "--junit", "check.xml")
    assert passed.returncode == 0, passed.stdout
    assert junitparser.JUnitXml.fromfile(str(tmp_path / "check.xml")).tests == 2
    stopped = run("check", "r.json", "--min-accuracy", "90%", "--max-parameters", "1")
    assert stopped.returncode == 3
    assert stopped.stdout.splitlines()[0].startswith("max_parameters FAILED: ")
    again = run("compress", MODEL, *QUICK, "-o", "again.onnx", "--report", "again.json", "--max-parameters", "1")
    assert again.returncode == 3
    assert again.stderr.splitlines()[-1].startswith("Warning: gate max_parameters FAILED: ")
    assert (tmp_path / "again.onnx").exists()
    assert [gate["passed"] for gate in json.loads((tmp_path / "again.json").read_text())["gates"]] == [True, False]
    compared = run("check", "again.json", "--baseline", "r.json", "--slack-speedup", "99")
    assert compared.returncode == 0, compared.stdout
    assert run("schema").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], 0),
        (["compress", "missing.onnx", "--data", CALIB], 1),
        (["check", "missing.json", "--max-drop", "1"], 1),
        (["check", MODEL, "--max-drop", "1"], 1),
        (["check", "missing.json"], 2),
        (["check"], 2),
        (["compress", MODEL, "--data", CALIB, "--min-accuracy", "75"], 2),
        (["benchmark", MODEL, "--min-speedup", "2"], 2),
        (["nonsense"], 2),
        (["benchmark", MODEL, MODEL, "--min-speedup", "1e6", "--max-seconds", "0", "--min-seconds", "0"], 3),
    ],
)
def test_every_code_is_reached(
    arguments: list[str], code: int, run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert (done.stderr != "") == (code != 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send to a process")
def test_an_interrupt_is_130_and_writes_no_verdict(command: str, tmp_path: Path) -> None:
    arguments = ["compress", MODEL, "--data", CALIB, "-o", "small.onnx", "--report", "r.json", "--junit", "gates.xml"]
    with subprocess.Popen([command, *arguments], stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        # The first line comes once the images are being opened; most of the run is still to come.
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "Interrupted."
    assert list(tmp_path.iterdir()) == []
