"""`basisprune compress`: options reach the run, results reach the user, nothing is ever overwritten."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import junitparser
import onnx
import pytest
from click.testing import CliRunner, Result

from onnx_basisprune import pipeline
from onnx_basisprune.cli.compress import compress
from onnx_basisprune.cli.main import basisprune
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.progress import Progress
from onnx_basisprune.results import (
    Accuracy,
    CompressionReport,
    Gate,
    GroupReport,
    Interval,
    Latency,
    LayerReport,
    ModelMeasurement,
    RecoveryReport,
    Speedup,
)

SAMPLES = Path(__file__).resolve().parents[2] / "sample_models"
MODEL = SAMPLES / "digits.onnx"
DATA = ["--data", str(SAMPLES / "digits" / "calib"), "--val", str(SAMPLES / "digits" / "val")]
# Values that no default has, for every option.
OPTIONS: dict[str, tuple[list[str], Any]] = {
    "output": (["-o", "out.onnx"], Path("out.onnx")),
    "val": (["--val", "v.npz"], Path("v.npz")),
    "labels": (["--labels", "l.json"], Path("l.json")),
    "scores": (["--scores", "probabilities"], "probabilities"),
    "feed": (["--feed", "gain=1.5", "--feed", "size=2,3"], ("gain=1.5", "size=2,3")),
    "limit": (["--limit", "7"], 7),
    "batch_size": (["--batch-size", "3"], 3),
    "threads": (["--threads", "2"], 2),
    "seed": (["--seed", "9"], 9),
    "target_macs": (["--target-macs", "0.7"], 0.7),
    "target_params": (["--target-params", "0.6"], 0.6),
    "target_latency": (["--target-latency", "0.8"], 0.8),
    "max_drop": (["--max-drop", "0.7"], 0.7),
    "minimize": (["--minimize", "macs"], "macs"),
    "time_limit": (["--time-limit", "1.5m"], 90.0),
    "align": (["--align", "8"], 8),
    "allow_slower": (["--allow-slower"], True),
    "frontier": (["--frontier"], True),
    "cache": (["--no-cache"], False),
    "latency_table": (["--latency-table", "t.json"], Path("t.json")),
    "provider": (["--provider", "CUDA"], "CUDA"),
    "benchmark_batch_size": (["--benchmark-batch-size", "8"], 8),
    "basis": (["--basis", "svd"], "svd"),
    "prune": (["--prune", "channels"], "channels"),
    "rounds": (["--rounds", "4"], 4),
    "recover": (["--recover", "none"], "none"),
    "recover_steps": (["--recover-steps", "0"], 0),
    "augment": (["--augment", "shift+flip"], "shift+flip"),
    "min_speedup": (["--min-speedup", "1.5"], 1.5),
    "max_macs": (["--max-macs", "1.5M"], 1_500_000),
    "max_parameters": (["--max-parameters", "12"], 12),
    "max_file_bytes": (["--max-file-bytes", "0"], 0),
    "min_accuracy": (["--min-accuracy", "75%"], 0.75),
    "strict": (["--strict"], True),
    "exclude": (["--exclude", "a", "--exclude", "b,c"], ("a", "b,c")),
    "plan": (["--plan", "p.json"], Path("p.json")),
    "save_plan": (["--save-plan", "p.json"], Path("p.json")),
    "report": (["--report", "r.json"], Path("r.json")),
    "html": (["--html", "r.html"], Path("r.html")),
    "dry_run": (["--dry-run"], True),
    "force": (["--force"], True),
    "preprocess": (["--preprocess", "caffe"], "caffe"),
    "mean": (["--mean", "-1,0.5,2"], (-1.0, 0.5, 2.0)),
    "std": (["--std", "1"], (1.0,)),
    "scale": (["--scale", "0.5"], 0.5),
    "resize": (["--resize", "0"], 0),
    "crop": (["--crop", "12"], 12),
    "color": (["--color", "gray"], "gray"),
    "layout": (["--layout", "nhwc"], "nhwc"),
}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(basisprune, ["compress", *arguments])


def make_report(**changes: Any) -> CompressionReport:
    before = Accuracy(1000, 0.9, 0.99, None, Interval(0.9, 0.88, 0.92))
    after = dataclasses.replace(before, top1=0.885, agreement=0.95)
    layers = (
        LayerReport("conv1", "Conv", True, "", 16, 6, 1_000_000, 400_000, 2000, 900, 1e-3),
        LayerReport("conv2", "Conv", False, "depthwise", 0, 0, 50_000, 50_000, 90, 90, 0.0),
    )
    report = CompressionReport(
        config={"output": "out.onnx", "dry_run": False},
        environment={"threads": 2},
        original=ModelMeasurement(2_000_000, 100_000, 400_000, (), Latency(4.0, 5.0, 1, 30), before),
        compressed=ModelMeasurement(1_000_000, 40_000, 160_000, (), Latency(2.0, 2.5, 1, 30), after),
        speedup=Speedup(2.0, 1.9, 2.1),
        drop_pp=Interval(1.5, 0.5, 2.5),
        layers=layers,
        groups=(
            GroupReport("conv1", 16, 10, ""),
            GroupReport("conv2", 8, 8, ""),
            GroupReport("fc", 10, 10, "it is an output"),
            GroupReport("side", 4, 4, "it is an output"),
        ),
        gates=(Gate("target_macs", 0.5, 0.5, True),),
        recovery=RecoveryReport("scale", 20, True, 0.04, 0.02),
        timings={},
    )
    return dataclasses.replace(report, **changes)


class FakeRun:
    """Stands in for the pipeline, keeps the options and returns a prepared report."""

    def __init__(self, report: CompressionReport) -> None:
        self.report = report
        self.config: CompressionConfig | None = None

    def __call__(self, config: CompressionConfig, progress: Progress) -> CompressionReport:
        self.config = config
        progress.start("gradient pass", 10)
        progress.advance(10)
        progress.note("a note")
        return self.report


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    stand_in = FakeRun(make_report())
    monkeypatch.setattr(pipeline, "compress", stand_in)
    return stand_in


def test_every_option_has_the_name_of_its_field() -> None:
    fields = {field.name for field in dataclasses.fields(CompressionConfig)}
    shown = {param.name for param in compress.params if param.expose_value}
    assert shown == fields | {"junit", "markdown", "github"}
    assert set(OPTIONS) == fields - {"model", "data"}


@pytest.mark.parametrize("field", sorted(OPTIONS))
def test_options_reach_the_run(field: str, fake: FakeRun) -> None:
    arguments, value = OPTIONS[field]
    # What a search can't use.
    target = 0.25 if field in ("allow_slower", "dry_run", "rounds") else None
    if target is not None:
        arguments = [*arguments, "--target-macs", str(target)]
    result = run("m.onnx", "--data", "d", *arguments)
    assert result.exit_code == 0, result.output
    expected = CompressionConfig(model=Path("m.onnx"), data=Path("d"), target_macs=target)
    assert fake.config == dataclasses.replace(expected, **{field: value})


@pytest.mark.parametrize(("given", "align"), [("auto", "auto"), ("1", 1), ("16", 16)])
def test_alignments(given: str, align: int | str, fake: FakeRun) -> None:
    assert run("m.onnx", "--data", "d", "--align", given).exit_code == 0
    assert fake.config is not None
    assert fake.config.align == align


@pytest.mark.parametrize("given", ["0", "-8", "AUTO", "8.0", "x", "", "1e3", "\u00b2", "9" * 5000])
def test_other_alignments_are_wrong_usage(given: str, fake: FakeRun) -> None:
    result = run("m.onnx", "--data", "d", "--align", given)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is neither `auto` nor a whole number of at least 1" in result.stderr
    assert fake.config is None


def test_help_shows_each_default() -> None:
    text = " ".join(CliRunner().invoke(basisprune, ["compress", "-h"], terminal_width=100).stdout.split())
    for default in ("2000", "64", "fisher", "scale", "300", "shift", "auto", "1 where neither is given"):
        assert f"[default: {default}]" in text
    assert "x>=" not in text


def test_the_table_and_what_follows(fake: FakeRun) -> None:
    result = run("m.onnx", "--data", "d")
    rows = {line.split("  ")[0]: line.split()[-2:] for line in result.stdout.splitlines() if "  " in line}
    assert result.exit_code == 0
    assert rows["MACs"] == ["-50.0", "%"]
    assert rows["Parameters"] == ["-60.0", "%"]
    assert rows["File size"] == ["-60.0", "%"]
    assert rows["Median latency"] == ["-50.0", "%"]
    assert rows["Top-1 accuracy"] == ["-1.50", "pp"]
    assert "Speed-up: 2.00x (95 % interval 1.90 to 2.10; batch 1, 2 threads)" in result.stdout
    drop = "Accuracy drop against the original: 1.50 pp (95 % interval 0.50 to 2.50; 1,000 images)"
    assert drop in result.stdout
    assert "Recovery: 20 steps, held-out loss 0.04 -> 0.02" in result.stdout
    assert "Gate target_macs passed: 50 %, at most 50 % asked" in result.stdout
    assert result.stdout.endswith("Written: out.onnx\n")
    assert result.stderr == "a note\n"
    assert "conv1" not in result.stdout


def test_without_labels_agreement_is_shown(fake: FakeRun) -> None:
    report = fake.report
    assert report.compressed.accuracy is not None
    blind = dataclasses.replace(report.compressed.accuracy, top1=None, top5=None)
    fake.report = dataclasses.replace(
        report,
        original=dataclasses.replace(report.original, accuracy=dataclasses.replace(blind, agreement=None)),
        compressed=dataclasses.replace(report.compressed, accuracy=blind),
        drop_pp=Interval(5.0, 4.0, 6.0),
    )
    result = run("m.onnx", "--data", "d")
    assert "95.00 %" in result.stdout
    assert "Disagreement with the original: 5.00 % (95 % interval 4.00 to 6.00" in result.stdout
    assert "Top-1" not in result.stdout


def test_a_failed_gate_is_3_and_told_on_stderr_too(fake: FakeRun) -> None:
    fake.report = make_report(gates=(Gate("target_macs", 0.1, 0.25, False),))
    result = run("m.onnx", "--data", "d")
    assert result.exit_code == 3
    assert "Gate target_macs FAILED: 25 %, at most 10 % asked" in result.stdout
    assert "Written: out.onnx" in result.stdout
    quiet = run("m.onnx", "--data", "d", "-q")
    assert (quiet.exit_code, quiet.stdout) == (3, "")
    assert quiet.stderr == "Warning: gate target_macs FAILED: 25 %, at most 10 % asked.\n"


def test_the_verdict_is_written_beside_the_report(fake: FakeRun, tmp_path: Path) -> None:
    fake.report = make_report(gates=(Gate("min_speedup", 3.0, 2.0, False), Gate("max_macs", 2, 1, True)))
    junit, markdown = tmp_path / "gates.xml", tmp_path / "gates.md"
    options = ["--data", "d", "--junit", str(junit), "--markdown", str(markdown), "--github"]
    result = run("m.onnx", *options)
    assert result.exit_code == 3
    (suite,) = junitparser.JUnitXml.fromfile(str(junit))
    assert (suite.name, suite.tests, suite.failures) == ("m.onnx", 2, 1)
    assert "| multiply-adds | 2.00 M | 1.00 M | -50.0 % |" in markdown.read_text(encoding="utf-8")
    assert "::error title=basisprune%3A min_speedup::min_speedup FAILED: 2x, at least 3x asked\n" in result.stdout
    fake.config = None
    labels = tmp_path / "labels.json"
    labels.write_text("{}")
    over = run("m.onnx", "--data", "d", "--labels", str(labels), "--markdown", str(labels))
    assert (over.exit_code, labels.read_text()) == (1, "{}")
    assert "labels.json' can't be the verdict" in over.stderr
    again = run("m.onnx", *options)
    assert (again.exit_code, again.stdout, fake.config) == (1, "", None)
    assert "gates.xml' exists already" in again.stderr


def test_quiet_says_nothing_on_success(fake: FakeRun) -> None:
    result = run("m.onnx", "--data", "d", "-q")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_verbose_adds_layers_and_times(fake: FakeRun) -> None:
    result = run("m.onnx", "--data", "d", "-v")
    conv1 = next(line for line in result.stdout.splitlines() if line.startswith("conv1"))
    assert "6 of 16" in conv1
    assert "1.00 M -> 400 k" in conv1
    assert "Not decomposed, depthwise: conv2" in result.stdout
    assert ["conv1", "16", "10"] in [line.split() for line in result.stdout.splitlines()]
    assert "All channels kept: conv2\n" in result.stdout
    assert "Channels that must stay, it is an output: fc (10), side (4)\n" in result.stdout
    assert "gradient pass: 0.0 s" in result.stderr.splitlines()


@pytest.mark.parametrize(("width", "shown"), [("80", False), ("120", True)])
def test_layers_show_their_predicted_times_where_these_fit(
    fake: FakeRun, monkeypatch: pytest.MonkeyPatch, width: str, *, shown: bool
) -> None:
    conv1, conv2 = fake.report.layers
    fake.report = make_report(layers=(dataclasses.replace(conv1, ms_before=0.5, ms_after=0.25), conv2))
    monkeypatch.setenv("COLUMNS", width)
    text = run("m.onnx", "--data", "d", "-v").stdout
    assert ("predicted time" in text) == ("0.500 ms -> 0.250 ms" in text) == shown
    assert "1.00 M -> 400 k" in text
    monkeypatch.setenv("COLUMNS", "120")
    fake.report = make_report()
    assert "predicted time" not in run("m.onnx", "--data", "d", "-v").stdout


def test_a_dry_run_shows_predictions_and_layers(fake: FakeRun) -> None:
    fake.report = make_report(
        config={"output": None, "dry_run": True},
        compressed=ModelMeasurement(1_000_000, 40_000, None),
        speedup=None,
        drop_pp=None,
        recovery=None,
    )
    result = run("m.onnx", "--data", "d", "--target-macs", "0.5", "--dry-run")
    assert result.exit_code == 0
    assert "predicted" in result.stdout
    assert "Median latency" not in result.stdout
    assert "6 of 16" in result.stdout
    assert result.stdout.endswith("Dry run: no model was written.\n")


def test_a_whole_run_by_the_command_writes_model_and_report(tmp_path: Path) -> None:
    output, report = tmp_path / "small.onnx", tmp_path / "report.json"
    before = MODEL.read_bytes()
    command = [sys.executable, "-m", "onnx_basisprune", "compress", str(MODEL), *DATA]
    command += ["-o", str(output), "--report", str(report), "--limit", "40", "--recover-steps", "1"]
    command += ["--target-macs", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert f"Written: {output}" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "small.onnx"]
    assert MODEL.read_bytes() == before
    onnx.checker.check_model(output, full_check=True)
    values = json.loads(report.read_text(encoding="utf-8"))
    assert values["format_version"] == 1
    assert values["compressed"]["macs"] <= 0.5 * values["original"]["macs"]
    assert values["compressed"]["file_bytes"] == output.stat().st_size < values["original"]["file_bytes"]
    assert values["original"]["accuracy"]["top1"] > 0.97
    assert values["original"]["accuracy"]["n"] == 600
    assert values["gates"][0]["passed"] is True
    assert values["config"]["output"] == str(output)
    assert set(values) >= {"speedup", "drop_pp", "environment", "layers", "groups", "timings"}


def test_a_target_out_of_reach_is_3_and_the_best_model_is_written(tmp_path: Path) -> None:
    output = tmp_path / "small.onnx"
    options = ["-o", str(output), "--limit", "20", "--recover", "none", "--target-macs", "0.001"]
    result = run(str(MODEL), *DATA, *options)
    assert result.exit_code == 3, result.output
    assert "at most 0.1 % asked" in result.stdout
    onnx.checker.check_model(output, full_check=True)


def test_gates_that_a_real_run_passes_and_fails(tmp_path: Path) -> None:
    gates = [
        "--max-macs",
        "3M",
        "--max-parameters",
        "1",
        "--max-file-bytes",
        "600k",
        "--min-accuracy",
        "50%",
        "--strict",
        "--max-drop",
        "50",
    ]
    result, report = run_quickly(
        tmp_path, "small", "--target-macs", "0.5", "--allow-slower", "--min-speedup", "0.01", *gates
    )
    assert result.exit_code == 3, result.output
    assert {gate["name"]: gate["passed"] for gate in report["gates"]} == {
        "target_macs": True,
        "max_drop": True,
        "min_speedup": True,
        "max_macs": True,
        "max_parameters": False,
        "max_file_bytes": True,
        "min_accuracy": True,
    }
    assert "Warning: gate max_parameters FAILED: " in result.stderr
    onnx.checker.check_model(tmp_path / "small.onnx", full_check=True)
    judged = CliRunner().invoke(basisprune, ["check", str(tmp_path / "small.json"), "--max-parameters", "1"])
    assert judged.exit_code == 3


def test_a_dry_run_judges_what_it_foretells(tmp_path: Path) -> None:
    options = [
        "--target-macs",
        "0.5",
        "--allow-slower",
        "--dry-run",
        "--max-macs",
        "1",
        "--min-speedup",
        "2",
        "--min-accuracy",
        "1",
    ]
    result, report = run_quickly(tmp_path, "dry", *options)
    assert result.exit_code == 3, result.output
    assert [(gate["name"], gate["passed"]) for gate in report["gates"]] == [("target_macs", True), ("max_macs", False)]
    assert "Warning: a dry run measures nothing: min_speedup, min_accuracy can't be judged." in result.stderr


@pytest.mark.parametrize("existing", ["out.onnx", "report.json"])
def test_existing_files_are_refused_before_any_work(existing: str, tmp_path: Path) -> None:
    (tmp_path / existing).write_text("mine")
    targets = ["-o", str(tmp_path / "out.onnx"), "--report", str(tmp_path / "report.json")]
    result = run(str(MODEL), "--data", "missing", *targets)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{existing}' exists already" in result.stderr
    assert "--force" in result.stderr
    assert (tmp_path / existing).read_text() == "mine"


def test_the_input_is_never_written_over_even_with_force() -> None:
    before = MODEL.read_bytes()
    result = run(str(MODEL), *DATA, "-o", str(MODEL), "--force")
    assert result.exit_code == 1
    assert "never written over" in result.stderr
    assert MODEL.read_bytes() == before


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [("missing.onnx", str(SAMPLES), "missing.onnx"), (str(MODEL), "missing", "missing")],
)
def test_missing_files_are_one_line(model: str, data: str, message: str, tmp_path: Path) -> None:
    result = run(model, "--data", data, "-o", str(tmp_path / "out.onnx"), "-q")
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


# -- budgets of time ------------------------------------------------------------------------------------------------

QUICK = ["--limit", "20", "--recover", "none", "--preprocess", "imagenet", "--threads", "1"]


def run_quickly(folder: Path, name: str, *options: str) -> tuple[Result, dict[str, Any]]:
    """Compress the sample model to `<name>.onnx`; return what it says and its report."""
    report = folder / f"{name}.json"
    result = run(str(MODEL), *DATA, *QUICK, "-o", str(folder / f"{name}.onnx"), "--report", str(report), *options)
    return result, json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}


def check_times(report: dict[str, Any]) -> None:
    """Hold the layers' predicted times against what became of the layers."""
    for row in report["layers"]:
        assert 0 < row["ms_after"] <= row["ms_before"]
        assert row["ms_after"] < row["ms_before"] or not row["decomposed"]
    assert sum(row["ms_after"] for row in report["layers"]) < sum(row["ms_before"] for row in report["layers"])


def test_times_are_told_where_they_were_looked_at(fake_clock: Any, tmp_path: Path) -> None:
    _, once = run_quickly(tmp_path, "once", "--target-macs", "0.5")
    check_times(once)
    _, rounds = run_quickly(tmp_path, "rounds", "--target-macs", "0.5", "--rounds", "2")
    check_times(rounds)
    # Before is the original's, however many rounds there were.
    assert [row["ms_before"] for row in rounds["layers"]] == [row["ms_before"] for row in once["layers"]]
    _, free = run_quickly(tmp_path, "free", "--target-macs", "0.5", "--allow-slower")
    assert {(row["ms_before"], row["ms_after"]) for row in free["layers"]} == {(None, None)}


def test_a_budget_of_time_writes_a_model_and_tells_how_it_was_met(fake_clock: Any, tmp_path: Path) -> None:
    result, report = run_quickly(tmp_path, "small", "--target-latency", "0.6")
    assert result.exit_code == 0, result.output
    onnx.checker.check_model(tmp_path / "small.onnx", full_check=True)
    timing = report["timing"]
    assert (timing["block"], timing["align"]) == (4, 4)
    assert timing["plans"] == fake_clock.pairs - 1 >= 1
    assert 0.5 < timing["measured"] <= 0.6 * 1.02
    assert 0 < timing["predicted"] < 1
    assert len(timing["table_sha256"]) == 64
    gates = {gate["name"]: gate for gate in report["gates"]}
    assert set(gates) == {"target_latency", "not_slower"}
    assert all(gate["passed"] for gate in gates.values())
    assert gates["target_latency"]["reached"] == pytest.approx(timing["measured"], rel=0.02)
    assert "by the clock" in result.stdout
    check_times(report)
    assert all(row["rank"] % 4 == 0 for row in report["layers"] if row["decomposed"])
    # One table for this machine.
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".json"]
    again, second = run_quickly(tmp_path, "again", "--target-latency", "0.6")
    assert again.exit_code == 0
    assert len(fake_clock.layers) == len(set(fake_clock.layers))
    assert fake_clock.models == 1
    assert second["timing"]["plans"] == 1
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "small.onnx").read_bytes()


def test_a_named_table_is_made_and_then_reused_as_it_is(fake_clock: Any, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    options = ["--target-latency", "0.6", "--latency-table", str(table)]
    first, report = run_quickly(tmp_path, "first", *options)
    assert first.exit_code == 0, first.output
    content = table.read_bytes()
    assert report["timing"]["table_sha256"] == hashlib.sha256(content).hexdigest()
    assert not (tmp_path / "cache").exists()
    measured = len(fake_clock.layers), fake_clock.models
    for name in ("second", "third"):
        result, again = run_quickly(tmp_path, name, *options)
        assert result.exit_code == 0, result.output
        assert table.read_bytes() == content
        assert again["timing"]["table_sha256"] == report["timing"]["table_sha256"]
        assert again["timing"]["plans"] == 1
    assert (len(fake_clock.layers), fake_clock.models) == measured
    outputs = [(tmp_path / f"{name}.onnx").read_bytes() for name in ("first", "second", "third")]
    assert outputs[0] == outputs[1] == outputs[2]


def test_a_dry_run_predicts_by_the_table_only(fake_clock: Any, tmp_path: Path) -> None:
    result, report = run_quickly(tmp_path, "dry", "--target-latency", "0.6", "--dry-run")
    assert result.exit_code == 0, result.output
    assert fake_clock.pairs == 0
    assert 0.5 < report["timing"]["predicted"] <= 0.6
    assert report["timing"]["measured"] is None
    assert not (tmp_path / "dry.onnx").exists()


def test_a_dry_run_plans_what_a_run_with_this_table_does(fake_clock: Any, tmp_path: Path) -> None:
    """The clock goes down faster than the table: more may be left than the table alone says."""
    real = fake_clock._time_model
    fake_clock._time_model = lambda *given: real(*given) ** 2
    options = ["--target-latency", "0.6", "--latency-table", str(tmp_path / "table.json")]
    result, report = run_quickly(tmp_path, "small", *options)
    assert result.exit_code == 0, result.output
    assert report["timing"]["predicted"] > 0.65
    dry, predicted = run_quickly(tmp_path, "dry", *options, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert predicted["layers"] == report["layers"]
    assert 0.5 < predicted["timing"]["predicted"] <= 0.6 * (1 + 1e-9)


def test_slower_models_may_be_allowed(fake_clock: Any, tmp_path: Path) -> None:
    result, report = run_quickly(tmp_path, "small", "--target-macs", "0.5", "--allow-slower")
    assert result.exit_code == 0, result.output
    assert (fake_clock.layers, fake_clock.models) == ([], 0)
    assert report["timing"] is None
    assert [gate["name"] for gate in report["gates"]] == ["target_macs"]
    assert any(row["rank"] % 4 for row in report["layers"] if row["decomposed"])
    assert not (tmp_path / "cache").exists()


def test_a_budget_of_multiply_adds_looks_at_time_too(fake_clock: Any, tmp_path: Path) -> None:
    result, report = run_quickly(tmp_path, "small", "--target-macs", "0.5", "--align", "8")
    assert result.exit_code == 0, result.output
    timing = report["timing"]
    assert (timing["block"], timing["align"], timing["plans"], timing["predicted"]) == (4, 8, 0, None)
    assert [gate["name"] for gate in report["gates"]] == ["target_macs", "not_slower"]
    assert all(row["rank"] % 8 == 0 for row in report["layers"] if row["decomposed"])
    assert fake_clock.pairs == 1


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--target-latency", "0.5", "--target-macs", "0.5"], 2, "can't both be given"),
        (["--target-latency", "0.5", "--target-params", "0.5"], 2, "can't both be given"),
        (["--target-latency", "0.5", "--allow-slower"], 2, "contradict each other"),
        (["--target-macs", "0.5", "--minimize", "params"], 2, "--minimize params is for a search"),
        (["--target-latency", "0"], 2, "--target-latency is 0"),
        (["--target-latency", "1.5"], 2, "--target-latency is 1.5"),
        (["--target-latency", "nan"], 2, "--target-latency is nan"),
        (["--target-latency", "half"], 2, "not a valid float"),
        (["--benchmark-batch-size", "0"], 2, "at least 1"),
        (["--provider", "nowhere"], 2, "no execution provider 'nowhere'"),
        (["--latency-table", str(Path("no such folder", "t.json"))], 1, "doesn't exist: create it first"),
    ],
)
def test_contradictory_options_are_one_line(
    fake_clock: Any, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    result, report = run_quickly(tmp_path, "small", *options)
    assert (result.exit_code, result.stdout, report) == (code, "", {})
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert (fake_clock.layers, list(tmp_path.glob("*.onnx"))) == ([], [])


def test_what_is_no_table_is_refused_and_stays(fake_clock: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("{}")
    result, _ = run_quickly(tmp_path, "small", "--latency-table", str(path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "mine.json' is not a latency table" in result.stderr
    assert path.read_text() == "{}"


def test_the_smallest_model_within_a_bound_is_searched(fake_clock: Any, tmp_path: Path) -> None:
    options = ["--max-drop", "2", "--minimize", "params", "--recover-steps", "20"]
    result, report = run_quickly(tmp_path, "small", *options)
    assert result.exit_code == 0, result.output
    assert "Search: " in result.output
    assert [gate["name"] for gate in report["gates"]] == ["max_drop", "not_slower"]
    assert report["drop_pp"]["estimate"] <= 2
    assert report["search"]["claims"] >= 1
    accepted = [look["kept"] for look in report["search"]["looks"] if look["accepted"]]
    assert report["compressed"]["parameters"] / report["original"]["parameters"] == pytest.approx(
        min(accepted), abs=0.01
    )
