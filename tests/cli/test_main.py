"""What holds for every command: quick help, exit codes, one line per error, streams of any kind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from onnx_basisprune import inspection
from onnx_basisprune.cli import main
from onnx_basisprune.cli.main import basisprune
from onnx_basisprune.cli.options import PRESET_NAMES
from onnx_basisprune.data.preprocess import PRESETS
from onnx_basisprune.errors import BasispruneError, ConfigError, DataError, ModelError, OutputError

SAMPLES = Path(__file__).resolve().parents[2] / "sample_models"
MODEL = SAMPLES / "digits.onnx"
COMMANDS = ["compress", "check", "inspect", "evaluate", "benchmark", "report", "init", "schema"]
HEAVY = ["PIL", "numpy", "onnx", "onnx_graphsurgeon", "onnxruntime", "psutil", "rich", "scipy", "torch"]


def run_module(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "onnx_basisprune", *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    environment.update(options.pop("env", {}))
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", check=False, env=environment, **options
    )


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let `inspect` fail in a certain way."""

    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(inspection, "inspect_model", fail)


@pytest.mark.parametrize("arguments", [[], ["--version"], *([name] for name in COMMANDS)])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from onnx_basisprune.cli.main import basisprune\n"
        "try:\n"
        "    basisprune(sys.argv[1:])\n"
        "finally:\n"
        "    print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    final = arguments if arguments == ["--version"] else [*arguments, "--help"]
    done = subprocess.run([sys.executable, "-c", code, *final], capture_output=True, text=True, check=True)
    text, _, loaded = done.stdout.partition("LOADED")
    assert "onnx_basisprune" in loaded.split()
    assert set(loaded.split()) & set(HEAVY) == set()
    assert "basisprune" in text or "Usage" in text


def test_the_installed_command_is_the_module() -> None:
    scripts = Path(sysconfig.get_path("scripts"))
    command = scripts / ("basisprune.exe" if sys.platform == "win32" else "basisprune")
    if not command.exists():
        pytest.skip("the package isn't installed in this environment, so there is no command")
    installed = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    assert installed.stdout == run_module("--help").stdout


def test_help_lists_the_commands_in_the_order_of_use() -> None:
    result = CliRunner().invoke(basisprune, ["-h"])
    assert result.exit_code == 0
    listed = [line.split()[0] for line in result.stdout.partition("Commands:")[2].splitlines() if line.strip()]
    assert listed == COMMANDS
    # A summary cut off by click ends in dots.
    assert "..." not in result.stdout.partition("Commands:")[2]


def test_version_is_the_installed_one() -> None:
    result = CliRunner().invoke(basisprune, ["--version"])
    assert result.exit_code == 0
    name, version = result.stdout.split()
    assert name == "basisprune"
    assert version[0].isdigit()


def test_presets_are_those_of_the_library() -> None:
    assert set(PRESET_NAMES) == {"auto", *PRESETS}


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["compress", str(MODEL)],
        ["compress", "--data", "calib"],
        ["evaluate", str(MODEL)],
        ["benchmark"],
        ["inspect", str(MODEL), "--nonsense"],
        ["inspect", str(MODEL), "--input-shape", "1,x"],
        ["inspect", str(MODEL), "--input-shape", "1,0,3,3"],
        ["inspect", str(MODEL), "--exclude", "no such node"],
        ["benchmark", str(MODEL), "--batch-size", "0"],
        ["benchmark", str(MODEL), "--min-seconds", "3", "--max-seconds", "1"],
        ["evaluate", str(MODEL), "--data", "d", "--limit", "0"],
        ["evaluate", str(MODEL), "--data", "d", "--seed", "-1"],
        ["evaluate", str(MODEL), "--data", "d", "--mean", "0.5,,0.5"],
        ["compress", str(MODEL), "--data", "d", "--target-macs", "1.5"],
        ["compress", str(MODEL), "--data", "d", "--target-macs", "nan"],
        ["compress", str(MODEL), "--data", "d", "--target-macs", "0.5", "--target-params", "0.5"],
        ["compress", str(MODEL), "--data", "d", "--basis", "qr"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(basisprune, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("kind", [BasispruneError, DataError, ModelError, OutputError])
def test_an_expected_error_is_one_line_and_1(kind: type[BasispruneError], monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, kind("the file is odd."))
    result = CliRunner().invoke(basisprune, ["inspect", str(MODEL), "-v"])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "Error: the file is odd.\n")


def test_wrong_options_found_late_are_2_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ConfigError("--limit is 0."))
    result = CliRunner().invoke(basisprune, ["inspect", str(MODEL)])
    assert (result.exit_code, result.stderr) == (2, "Error: --limit is 0.\n")


def test_vv_shows_where_an_expected_error_was_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ModelError("the file is odd."))
    result = CliRunner().invoke(basisprune, ["inspect", str(MODEL), "-vv"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert result.stderr.endswith("\nError: the file is odd.\n")


def test_an_unexpected_error_is_one_line_unless_verbose(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ZeroDivisionError("division\nby zero"))
    result = CliRunner().invoke(basisprune, ["inspect", str(MODEL)])
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: internal error, please report it")
    assert line.endswith("ZeroDivisionError: division by zero")
    verbose = CliRunner().invoke(basisprune, ["inspect", str(MODEL), "-v"])
    assert verbose.exit_code == 1
    assert verbose.stderr.startswith("Traceback (most recent call last):\n")


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    result = CliRunner().invoke(basisprune, ["inspect", str(MODEL)])
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "Interrupted.\n")


def test_too_little_memory_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, MemoryError())
    result = CliRunner().invoke(basisprune, ["inspect", str(MODEL)])
    assert result.exit_code == 1
    assert result.stderr == "Error: Out of memory: try a smaller --batch-size.\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send to a process")
def test_ctrl_c_in_a_run_leaves_nothing_half_written(tmp_path: Path) -> None:
    output, report = tmp_path / "out.onnx", tmp_path / "report.json"
    command = [sys.executable, "-m", "onnx_basisprune", "compress", str(MODEL)]
    command += ["--data", str(SAMPLES / "digits" / "calib"), "-o", str(output), "--report", str(report)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        # The first line comes once the images are being opened; most of the run is still to come.
        first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        stdout, rest = process.communicate(timeout=60)
    assert first.startswith(("Warning: ", "preprocess: "))
    assert (process.returncode, stdout) == (130, "")
    assert rest.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_terminals_of_any_encoding_get_the_table(encoding: str, tmp_path: Path) -> None:
    model = tmp_path / "größe→.onnx"
    model.write_bytes(MODEL.read_bytes())
    command = [sys.executable, "-m", "onnx_basisprune", "inspect", str(model)]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    text = done.stdout.decode(encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "/classifier/Gemm" in text
    assert ("größe→.onnx" in text) == (encoding == "utf-8")


def test_errors_reach_terminals_of_any_encoding(tmp_path: Path) -> None:
    done = run_module("inspect", str(tmp_path / "größe→.onnx"), env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: '")
    assert "no such file" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows reports a closed pipe in other ways")
@pytest.mark.parametrize("option", [[], ["--json", "-"]])
def test_a_reader_that_has_seen_enough_is_no_crash(option: list[str]) -> None:
    command = [sys.executable, "-m", "onnx_basisprune", "inspect", str(MODEL), "--all", *option]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 1


def test_an_import_that_a_signal_breaks_is_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "_received", [signal.SIGTERM])
    fail_with(monkeypatch, ImportError("initialization failed"))
    result = CliRunner().invoke(basisprune, ["inspect", str(MODEL)])
    assert (result.exit_code, result.stdout, result.stderr) == (143, "", "Interrupted.\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["check", "--help"], ["schema", "compress"]])
def test_standard_output_on_a_full_disk_is_one_line(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "onnx_basisprune", *arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "Error: standard output: No space left on device.\n")


@pytest.mark.skipif(sys.platform == "win32", reason="no such redirection there")
def test_a_closed_standard_output_is_no_crash() -> None:
    command = ["sh", "-c", 'exec "$0" -m onnx_basisprune inspect "$1" >&-', sys.executable, str(MODEL)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


IN_C = """
import ctypes, os, signal, sys
from onnx_basisprune import inspection
from onnx_basisprune.cli import main

def run_python_in_c(*_):
    run = ctypes.pythonapi.PyRun_String
    run.restype, run.argtypes = ctypes.py_object, [ctypes.c_char_p, ctypes.c_int, ctypes.py_object, ctypes.py_object]
    code = b"import os, time\\nos.kill(os.getpid(), %d)\\ntime.sleep(9)"
    run(code, 257, globals(), {})

inspection.inspect_model = run_python_in_c
sys.argv = ["basisprune", "inspect", "model.onnx", "--isolated"]
main.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_c_code_runs_python_has_its_exit_code(number: int, code: int, tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(IN_C % number, encoding="utf-8")
    command = [sys.executable, "-m", "interrupted"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (code, "Interrupted.\n")
