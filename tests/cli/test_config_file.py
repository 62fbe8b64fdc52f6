"""Options from `basisprune.toml` and `pyproject.toml`: found, checked, and overridden by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from onnx_basisprune import measurement, pipeline
from onnx_basisprune.benchmark_report import BenchmarkReport
from onnx_basisprune.cli.config_file import describe_kind, list_keys
from onnx_basisprune.cli.main import basisprune
from onnx_basisprune.cli.parameter_types import Alignment, Amount, TimeSpan
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.errors import DataError
from onnx_basisprune.measurement_config import BenchmarkConfig, EvaluationConfig

SAMPLES = Path(__file__).resolve().parents[2] / "sample_models"
CONFIGURED = {name: item for name, item in basisprune.commands.items() if getattr(item, "reads_config", False)}


class StopError(DataError):
    """Ends a run once its options are known."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The configs that reach the library, run in a folder of their own."""
    configs: list[Any] = []

    def stop(config: Any, _progress: object) -> BenchmarkReport:
        configs.append(config)
        raise StopError("enough.")

    monkeypatch.setattr(pipeline, "compress", stop)
    monkeypatch.setattr(measurement, "evaluate_model", stop)
    monkeypatch.setattr(measurement, "benchmark_models", stop)
    monkeypatch.chdir(tmp_path)
    return configs


def run(*arguments: str) -> Result:
    return CliRunner().invoke(basisprune, arguments)


def write(text: str, path: str = "basisprune.toml") -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


EXAMPLES: dict[type, Any] = {bool: True, int: 3, float: 0.25, str: "text"}


def make_example(param: click.Parameter) -> Any:
    """Return a value for a file that no default has."""
    if isinstance(param.type, click.Choice):
        return param.type.choices[-1]
    kind = describe_kind(param)
    value = {TimeSpan: "2m", Amount: "2M", Alignment: 8}.get(type(param.type), EXAMPLES[kind.types[-1]])
    return [value, value] if kind.is_list else value


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name, command in CONFIGURED.items() for key in list_keys(command)]
)
def test_every_option_of_every_command_can_be_set(name: str, key: str, tmp_path: Path) -> None:
    from onnx_basisprune.cli.config_file import choose_defaults, read_config

    param = list_keys(CONFIGURED[name])[key]
    value = make_example(param)
    table = "" if name == "compress" else f"[{name}]\n"
    file = tmp_path / "basisprune.toml"
    file.write_text(f"{table}{key} = {json.dumps(value)}\n", encoding="utf-8")
    found = choose_defaults(read_config(file), CONFIGURED, name)
    assert list(found) == [param.name]
    ready = param.type_cast_value(click.Context(CONFIGURED[name]), found[str(param.name)])
    if isinstance(param.type, click.Path):
        assert Path(str(ready)) == tmp_path / "text"
    elif describe_kind(param).is_list:
        assert [item for part in ready for item in (part if isinstance(part, tuple) else [part])] == value
    else:
        assert ready == {"2m": 120.0, "2M": 2_000_000}.get(value, value)


def test_values_reach_the_run_and_the_command_line_wins(seen: list[Any]) -> None:
    write(
        'model = "net.onnx"\ndata = "calib"\ntarget_macs = 0.3\nseed = 5\nmean = [0.5, 1]\nexclude = ["a", "b,c"]\n'
        "align = 8\nthreads = 2\nforce = true\nallow-slower = true\nquiet = true\n"
    )
    result = run("compress", "--seed", "6", "--exclude", "d", "--no-force", "--no-quiet")
    assert result.stderr.splitlines() == [
        "From 'basisprune.toml': model, data, target-macs, align, allow-slower, threads, mean.",
        "Error: enough.",
    ]
    (config,) = seen
    expected = CompressionConfig(model=Path("net.onnx"), data=Path("calib"), target_macs=0.3, seed=6, exclude=("d",))
    more: dict[str, Any] = {"mean": (0.5, 1.0), "align": 8, "threads": 2, "allow_slower": True}
    assert config == CompressionConfig(**{**vars(expected), **more})
    run("compress", "other.onnx")
    assert seen[-1].model == Path("other.onnx")
    assert (seen[-1].seed, seen[-1].exclude, seen[-1].force) == (5, ("a", "b,c"), True)


@pytest.mark.parametrize(
    ("file", "arguments", "expected"),
    [
        ("target-macs = 0.3", ["--target-params", "0.2"], {"target_params": 0.2}),
        ("target-macs = 0.3", ["--max-drop", "1"], {"max_drop": 1.0}),
        ("max-drop = 1", ["--target-latency", "0.5"], {"target_latency": 0.5}),
        ('time-limit = "2m"', ["--target-macs", "0.3"], {"target_macs": 0.3}),
        ('minimize = "params"', ["--target-macs", "0.3"], {"target_macs": 0.3}),
        ("target-macs = 0.3", ["--minimize", "params"], {"minimize": "params"}),
        ("target-macs = 0.3", ["--time-limit", "2m"], {"time_limit": 120.0}),
        ("target-latency = 0.3", ["--no-allow-slower"], {"target_latency": 0.3}),
        ("allow-slower = true", ["--target-latency", "0.5"], {"target_latency": 0.5}),
        ('plan = "p.json"', ["--target-macs", "0.3"], {"target_macs": 0.3}),
        ('target-macs = 0.3\nsave-plan = "p.json"', ["--plan", "q.json"], {"plan": Path("q.json")}),
    ],
)
def test_a_budget_on_the_command_line_puts_another_one_out_of_force(
    file: str, arguments: list[str], expected: dict[str, Any], seen: list[Any]
) -> None:
    write(file)
    result = run("compress", "m.onnx", "--data", "d", *arguments)
    assert result.stderr.endswith("Error: enough.\n")
    assert seen == [CompressionConfig(model=Path("m.onnx"), data=Path("d"), **expected)]


def test_a_contradiction_says_what_the_file_has_to_do_with_it(seen: list[Any]) -> None:
    write("rounds = 3\nseed = 4\n")
    result = run("compress", "m.onnx", "--data", "d", "--max-drop", "1")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].endswith("--target-macs 0.2. 'basisprune.toml' sets rounds.")
    write("target-macs = 0.5\ntarget-params = 0.5\n")
    result = run("compress", "m.onnx", "--data", "d")
    assert result.stderr.splitlines()[-1].endswith("'basisprune.toml' sets target-macs and target-params.")
    write("target-latency = 0.3\n")
    result = run("compress", "m.onnx", "--data", "d", "--allow-slower")
    assert result.stderr.endswith("contradict each other: choose one. 'basisprune.toml' sets target-latency.\n")
    assert run("compress", "m.onnx", "--data", "d", "--target-macs", "2").stderr.endswith("at most 1.\n")
    assert seen == []


def test_other_commands_have_tables_and_share_what_describes_the_model(seen: list[Any]) -> None:
    write(
        'data = "calib"\nseed = 7\nmean = [0.5]\npreprocess = "unit"\nlabels = "l.json"\nprovider = "cuda"\n'
        '[evaluate]\ndata = "test"\npreprocess = "raw"\n[benchmark]\nbatch-size = [1, 8]\ncold-start = false\n'
    )
    run("evaluate", "m.onnx")
    shared: dict[str, Any] = {"mean": (0.5,), "labels": Path("l.json"), "provider": "cuda"}
    assert seen == [EvaluationConfig(model=Path("m.onnx"), data=Path("test"), preprocess="raw", **shared)]
    run("benchmark", "m.onnx", "--threads", "2")
    expected = BenchmarkConfig(a=Path("m.onnx"), batch_size=(1, 8), threads=(2,), cold_start=False, provider="cuda")
    assert seen[1:] == [expected]


def test_the_nearest_file_counts_and_its_paths_are_relative_to_it(
    seen: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write('data = "far"\n')
    write('[tool.basisprune]\ndata = "near"\n', "a/pyproject.toml")
    write("[tool.ruff]\n", "a/b/pyproject.toml")
    Path("a/b/c").mkdir()
    monkeypatch.chdir("a/b/c")
    run("compress", "m.onnx")
    write('data = "first"\n', "../../basisprune.toml")
    run("compress", "m.onnx")
    run("compress", "m.onnx", "--config", "../../../basisprune.toml")
    run("compress", "m.onnx", "--data", "mine")
    folders = [tmp_path / "a" / "near", tmp_path / "a" / "first", Path("../../../far"), Path("mine")]
    assert [config.data for config in seen] == folders


@pytest.mark.parametrize("option", ["--isolated", "--no-config"])
def test_files_can_be_left_alone(option: str, seen: list[Any]) -> None:
    write("nonsense = [")
    assert run("compress", "m.onnx", "--data", "d", option).stderr == "Error: enough.\n"
    assert seen == [CompressionConfig(model=Path("m.onnx"), data=Path("d"))]
    for arguments in (["compress", "--help"], ["evaluate", "-h"], ["--version"], ["init", "--help"]):
        assert run(*arguments).exit_code == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("target-mcas = 0.5", "'target-mcas' isn't an option; did you mean 'target-macs'?"),
        ("target_mcas = 0.5", "'target_mcas' isn't an option; did you mean 'target-macs'?"),
        ("xyzzy = 1", "'xyzzy' isn't an option of compress; `basisprune compress --help` lists them."),
        ("reference = 'm.onnx'", "'reference' isn't an option of compress, but of evaluate: put it in the table"),
        ("[benchmark]\nprune = 'basis'", "'benchmark.prune' isn't an option of benchmark, but of compress: put it at"),
        ("[benchmrk]\nrounds = 3", "'benchmrk' isn't an option; did you mean 'benchmark'?"),
        ("[compress]\nseed = 3", "the options of compress stand at the top"),
        ("config = 'x.toml'", "'config' isn't an option"),
        ("target-macs = 0.5\ntarget_macs = 0.5", "'target_macs' is there twice"),
        ("target-macs = '0.5'", 'target-macs is "0.5"; expected a number.'),
        ("target-macs = true", "target-macs is true; expected a number."),
        ("limit = 2.5", "limit is 2.5; expected a whole number."),
        ("limit = 0", "limit: 0 isn't a whole number of at least 1."),
        ("limit = true", "limit is true; expected a whole number."),
        ("force = 1", "force is 1; expected true or false."),
        ("force = 'yes'", 'force is "yes"; expected true or false.'),
        ("data = 3", "data is 3; expected text."),
        ("basis = 'qr'", "basis: 'qr' is not one of 'fisher', 'svd'."),
        ("mean = ['a']", 'mean is ["a"]; expected a list of numbers.'),
        ("mean = []", "mean is []; expected a list of numbers."),
        ("exclude = [3]", "exclude is [3]; expected a list of texts."),
        ("time-limit = 'soon'", "time-limit: 'soon' isn't a time; expected such as 90s, 20m or 1.5h."),
        ("[benchmark]\nrounds = 1.5", "benchmark.rounds is 1.5; expected a whole number."),
        ("[benchmark]\nbatch-size = [1, 0]", "benchmark.batch-size: 0 has a number below 1."),
        ("benchmark = 3", "benchmark is 3; expected a table, [benchmark]."),
        ("data = {a = 1}", 'data is {"a": 1}; expected text.'),
        ("seed = 1979-05-27", 'seed is "1979-05-27"; expected a whole number.'),
        ("seed = ", "isn't TOML: "),
        ("seed = 1\nseed = 2", "isn't TOML: "),
        ("seed = " + "1" * 5000, "isn't TOML: "),
        ("seed = 9223372036854775808", "seed is 9223372036854775808; expected a whole number."),
        ("target-macs = 1" + "0" * 400, "expected a number."),
        ("seed = 0x" + "f" * 6000, "seed is too large to be shown; expected a whole number."),
        ("seed = { " + "a." * 3000 + "a = 1 }", "seed is too large to be shown; expected a whole number."),
        ("seed = " + "[" * 50_000, "isn't TOML: "),
        ('data = "a\\u0000b"', "expected text."),
        ("max-file-bytes = '" + "y" * 100_000 + "'", "max-file-bytes: 'yyy"),
    ],
)
def test_what_is_wrong_in_a_file_is_told(text: str, expected: str, seen: list[Any]) -> None:
    write(text)
    for command in ("compress", "evaluate", "inspect"):
        result = run(command, "m.onnx")
        assert (result.exit_code, result.stdout) == (2, "")
        (line,) = result.stderr.splitlines()
        assert line.startswith("Error: 'basisprune.toml'")
        assert expected in line
    assert seen == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"seed = 1 # \xff", "isn't TOML: "),
        ("seed = 1".encode("utf-16"), "isn't TOML: "),
        (b"seed = 1\x00", "isn't TOML: "),
        (b"#" + b" " * 2**20, "has 1,048,577 bytes; expected a file of options, at most 1,048,576 bytes."),
    ],
)
def test_files_that_are_no_text_of_options_are_refused(content: bytes, expected: str, seen: list[Any]) -> None:
    Path("basisprune.toml").write_bytes(content)
    result = run("compress", "m.onnx", "--data", "d")
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: 'basisprune.toml'")
    assert expected in line
    assert seen == []


def test_a_byte_order_mark_is_no_error(seen: list[Any]) -> None:
    Path("basisprune.toml").write_bytes(b"\xef\xbb\xbfseed = 3\n")
    assert run("compress", "m.onnx", "--data", "d", "-q").stderr == "Error: enough.\n"
    assert seen == [CompressionConfig(model=Path("m.onnx"), data=Path("d"), seed=3)]


@pytest.mark.parametrize("kind", ["folder", "loop", "dangling", "pipe"])
def test_what_has_the_name_but_is_no_file_is_told(kind: str, seen: list[Any]) -> None:
    """To pass it over would be to run without what the user believes to have set."""
    path = Path("basisprune.toml")
    if kind == "folder":
        path.mkdir()
    elif sys.platform == "win32":
        pytest.skip("Windows has no pipes of this kind, and links for administrators only")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("basisprune.toml" if kind == "loop" else "nowhere")
    result = run("compress", "m.onnx", "--data", "d")
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    expected = {"folder": "is a folder; expected", "pipe": "is no regular file; expected"}.get(kind, "can't be read: ")
    assert line.startswith(f"Error: 'basisprune.toml' {expected}")
    assert seen == []


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("pyproject.toml", "[tool.ruff]\n", "'pyproject.toml' has no table [tool.basisprune]"),
        ("pyproject.toml", "tool = 3\n", "'pyproject.toml' has no table [tool.basisprune]"),
        ("pyproject.toml", "[tool]\nbasisprune = 3\n", "'pyproject.toml' has no table [tool.basisprune]"),
        ("other.toml", None, "'other.toml' can't be read: No such file"),
    ],
)
def test_a_named_file_must_be_one(path: str, text: str | None, expected: str, seen: list[Any]) -> None:
    if text is not None:
        write(text, path)
    result = run("compress", "m.onnx", "--data", "d", "--config", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert expected in result.stderr
    assert seen == []


def test_nothing_is_read_for_completion(seen: list[Any]) -> None:
    write("nonsense = [")
    context = CONFIGURED["compress"].make_context(
        "compress", [], resilient_parsing=True, parent=click.Context(basisprune)
    )
    assert context.params["data"] is None


def test_the_installed_command_and_its_report(tmp_path: Path) -> None:
    command = Path(sysconfig.get_path("scripts")) / ("basisprune.exe" if sys.platform == "win32" else "basisprune")
    if not command.exists():
        pytest.skip("the package isn't installed in this environment, so there is no command")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", x=rng.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8))
    config = tmp_path / "pyproject.toml"
    model = (SAMPLES / "digits.onnx").as_posix()
    config.write_text(
        f'[tool.basisprune]\nmodel = "{model}"\ndata = "x.npz"\npreprocess = "imagenet"\ntarget-macs = 0.3\n'
        'allow-slower = true\ndry-run = true\nreport = "report.json"\n',
        encoding="utf-8",
    )
    below = tmp_path / "below"
    below.mkdir()
    arguments = [command, "compress", "--target-params", "0.4"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=below)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (report["config"]["target_macs"], report["config"]["target_params"]) == (None, 0.4)
    assert report["config"]["data"] == str(tmp_path / "x.npz")
    assert [gate["name"] for gate in report["gates"]] == ["target_params"]
    assert list(below.iterdir()) == []
