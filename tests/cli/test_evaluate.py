"""`basisprune evaluate`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from onnx_basisprune.cli.main import basisprune

SAMPLES = Path(__file__).resolve().parents[2] / "sample_models"
MODEL, VAL = SAMPLES / "digits.onnx", SAMPLES / "digits" / "val"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(basisprune, ["evaluate", str(MODEL), *arguments])


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a flat folder of twenty of the images."""
    folder = tmp_path_factory.mktemp("flat")
    for path in sorted(VAL.glob("*/*.png"))[::30]:
        shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
    return folder


def test_accuracy_is_shown_with_its_interval() -> None:
    result = run("--data", str(VAL), "--limit", "100")
    assert result.exit_code == 0
    assert "Top-1 accuracy" in result.stdout
    assert "Top-5 accuracy" in result.stdout
    assert "95 % interval" in result.stdout
    assert "100" in result.stdout
    assert result.stderr.startswith("preprocess: imagenet")


def test_json_on_stdout_is_nothing_but_json() -> None:
    result = run("--data", str(VAL), "--json", "-")
    values = json.loads(result.stdout)
    assert result.exit_code == 0
    accuracy = values["accuracy"]
    assert accuracy["n"] == sum(1 for _ in VAL.glob("*/*.png"))
    assert accuracy["top1"] > 0.97
    assert accuracy["interval"]["low"] < accuracy["top1"] < accuracy["interval"]["high"]
    assert values["preprocess"] == "imagenet"
    assert values["config"]["data"] == str(VAL)
    assert values["reference"] is None


def test_quiet_leaves_stderr_empty_and_the_result_in_place() -> None:
    result = run("--data", str(VAL), "--limit", "50", "-q")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Top-1 accuracy" in result.stdout


def test_verbose_tells_the_times_of_the_steps() -> None:
    result = run("--data", str(VAL), "--limit", "50", "-v")
    assert any(line.startswith("evaluating: ") and line.endswith(" s") for line in result.stderr.splitlines())


def test_near_chance_warns_even_when_quiet() -> None:
    result = run("--data", str(VAL), "--limit", "100", "--preprocess", "raw", "-q")
    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: Top-1 accuracy")
    assert "near chance" in result.stderr


def test_images_without_labels_ask_for_a_way_out(flat: Path) -> None:
    result = run("--data", str(flat))
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert "has no labels" in line
    assert "--reference" in line


def test_a_reference_needs_no_labels(flat: Path) -> None:
    result = run("--data", str(flat), "--reference", str(MODEL), "--preprocess", "imagenet")
    assert result.exit_code == 0
    assert "100.00 %" in result.stdout
    assert "Disagreement with the reference: 0.00 %" in result.stdout


def test_a_label_file_gives_flat_folders_labels(flat: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({path.name: int(path.name[0]) for path in flat.iterdir()}))
    result = run("--data", str(flat), "--labels", str(labels), "--preprocess", "imagenet", "--json", "-")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["accuracy"]["top1"] > 0.8


def test_preprocess_options_reach_the_library() -> None:
    options = ["--mean", "0.1,0.2,0.3", "--std", "1", "--scale", "0.5", "--resize", "20", "--crop", "16"]
    result = run("--data", str(VAL), "--limit", "20", *options, "--color", "bgr", "--layout", "nchw", "--json", "-")
    config = json.loads(result.stdout)["config"]
    assert result.exit_code == 0
    assert (config["mean"], config["std"], config["scale"]) == ([0.1, 0.2, 0.3], [1.0], 0.5)
    assert (config["resize"], config["crop"], config["color"], config["layout"]) == (20, 16, "bgr", "nchw")


def test_an_existing_json_file_is_refused_before_any_work(tmp_path: Path) -> None:
    target = tmp_path / "e.json"
    target.write_text("mine")
    result = run("--data", "missing", "--json", str(target))
    assert result.exit_code == 1
    assert "e.json' exists already" in result.stderr
    assert target.read_text() == "mine"
