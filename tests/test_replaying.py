"""Plans saved by one run and applied by another, through the installed command."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from onnx_basisprune.budget import Budget, plan_cut
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.errors import ConfigError, OutputError, PlanError
from onnx_basisprune.graph.cost import measure_cost
from onnx_basisprune.network import Network
from onnx_basisprune.pipeline import compress
from onnx_basisprune.plan_file import SavedPlan, Share
from onnx_basisprune.replaying import check_fit, make_plan
from onnx_basisprune.results import CompressionReport, ModelMeasurement

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "sample_models" / "digits.onnx"
DATA = {"data": DIGITS.with_suffix("") / "calib", "val": DIGITS.with_suffix("") / "val"}
RESNET = ROOT.parent / "shared" / "models" / "resnet20_cifar10.onnx"
QUICK = ("--allow-slower", "--recover", "none", "--preprocess", "imagenet", "--threads", "1", "--limit", "64")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the installed command."""
    command = Path(sysconfig.get_path("scripts")) / ("basisprune.exe" if sys.platform == "win32" else "basisprune")
    if not command.exists():
        pytest.skip("the package isn't installed in this environment, so there is no command")
    return subprocess.run([command, *map(str, arguments)], capture_output=True, text=True, check=False)


def retrain(source: Path, target: Path, share: float) -> Path:
    """Write a copy of a model whose float weights are a little different."""
    model, rng = onnx.load(source), np.random.default_rng(0)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            noise = 1 + share * rng.standard_normal(values.shape, dtype=np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values * noise, tensor.name))
    onnx.save(model, target)
    return target


def count_macs(path: Path) -> int:
    model = onnx.load(path)
    size = 16 if "image" in model.graph.input[0].name else 32
    return measure_cost(model, {model.graph.input[0].name: (1, 3, size, size)}).macs


@pytest.fixture(scope="module")
def resnet_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The plan of a dry run on a real network, and the images."""
    if not RESNET.exists():
        pytest.skip("the shared models aren't beside the repository")
    folder = tmp_path_factory.mktemp("resnet")
    # Predictions of noise would be refused as chance: no labels.
    np.savez(folder / "x.npz", x=np.random.default_rng(0).integers(0, 256, (96, 32, 32, 3), dtype=np.uint8))
    plan = folder / "plan.json"
    done = run(
        "compress", RESNET, "--data", folder / "x.npz", *QUICK, "--target-macs", "0.5", "--dry-run", "--save-plan", plan
    )
    assert done.returncode == 0, done.stderr
    assert f"Plan: {plan}" in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["plan.json", "x.npz"]
    return {"plan": plan, "data": folder / "x.npz"}


def test_a_dry_run_writes_a_plan_to_review(resnet_run: dict[str, Any]) -> None:
    content = json.loads(resnet_run["plan"].read_text(encoding="utf-8"))
    assert content["macs"]["before"] == count_macs(RESNET)
    assert content["macs"]["after"] <= 0.5 * content["macs"]["before"]
    assert content["made_with"]["target"] == {"macs": 0.5}
    assert content["input_shape"] == [1, 3, 32, 32]
    assert len(content["layers"]) == 19
    assert any(layer["rank"] for layer in content["layers"].values())
    assert "sha256" not in json.dumps(content["made_with"])


def test_a_plan_fits_the_network_trained_again(resnet_run: dict[str, Any], tmp_path: Path) -> None:
    again = retrain(RESNET, tmp_path / "again.onnx", 0.05)
    report = tmp_path / "report.json"
    arguments = ("--data", resnet_run["data"], "--plan", resnet_run["plan"], "--report", report)
    done = run("compress", again, *arguments, *QUICK)
    assert done.returncode == 0, done.stderr
    assert "edited" not in done.stderr
    content = json.loads(resnet_run["plan"].read_text(encoding="utf-8"))
    assert count_macs(tmp_path / "again.pruned.onnx") == content["macs"]["after"]
    written = json.loads(report.read_text(encoding="utf-8"))
    assert written["compressed"]["macs"] == content["macs"]["after"]
    assert written["compressed"]["parameters"] == content["parameters"]["after"]
    assert {row["name"]: row["rank"] for row in written["layers"] if row["decomposed"]} == {
        name: layer["rank"] for name, layer in content["layers"].items() if layer["rank"]
    }
    assert {row["name"]: row["kept"] for row in written["groups"] if not row["blocked_by"]} == {
        name: group["keep"] for name, group in content["channels"].items()
    }
    assert written["config"]["plan"] == str(resnet_run["plan"])
    assert written["gates"] == []


def test_a_plan_of_another_network_is_refused(resnet_run: dict[str, Any], tmp_path: Path) -> None:
    options = ("--data", DATA["data"], "--plan", resnet_run["plan"], "-o", tmp_path / "out.onnx", *QUICK)
    done = run("compress", DIGITS, *options)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert "doesn't fit" in line
    assert "node 0 is '/stem/stem.0/Conv', in the plan it is '/conv1/Conv'" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [["--target-macs", "0.5"], ["--save-plan", "q.json"]])
def test_a_plan_and_a_budget_are_wrong_usage(options: list[str]) -> None:
    done = run("compress", DIGITS, "--data", DATA["data"], "--plan", "p.json", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: --plan and {options[0]} can't both be given")


def configure(folder: Path, name: str, **options: Any) -> CompressionConfig:
    defaults: dict[str, Any] = {"limit": 64, "recover": "none", "preprocess": "imagenet", "allow_slower": True}
    if not {"plan", "target_macs", "target_params", "target_latency", "max_drop"} & set(options):
        defaults["target_macs"] = 0.5
    return CompressionConfig(model=DIGITS, output=folder / name, **{**DATA, **defaults, **options})


def read_arrays(path: Path) -> ModelProto:
    """Return a model without the words about how it was made."""
    model = onnx.load(path)
    del model.metadata_props[:]
    return model


@pytest.mark.parametrize(
    "options",
    [
        {"target_params": 0.2, "recover": "scale", "recover_steps": 5},
        {"prune": "channels", "target_macs": 0.3},
        {"target_latency": 0.7, "allow_slower": False},
    ],
)
@pytest.mark.usefixtures("fake_clock")
def test_the_same_network_gives_the_same_model(options: dict[str, Any], tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    first = compress(configure(tmp_path, "a.onnx", save_plan=plan, **options))
    kept = {key: value for key, value in options.items() if not key.startswith("target")}
    second = compress(configure(tmp_path, "b.onnx", plan=plan, **kept))
    assert first.compressed.macs < first.original.macs
    assert read_arrays(tmp_path / "a.onnx") == read_arrays(tmp_path / "b.onnx")
    # A plan is applied without looking at times.
    untimed = tuple(replace(layer, ms_before=None, ms_after=None) for layer in first.layers)
    assert (second.layers, second.groups) == (untimed, first.groups)
    assert [gate.name for gate in second.gates] == [gate.name for gate in first.gates][1:]


@pytest.mark.skipif(not RESNET.exists(), reason="the shared models aren't beside the repository")
@pytest.mark.usefixtures("fake_clock")
def test_strided_shortcuts_are_convs_where_time_counts_and_where_the_plan_says_so(tmp_path: Path) -> None:
    plan, images = tmp_path / "plan.json", RESNET.parents[1] / "data" / "cifar10" / "calib"

    def compress_resnet(name: str, **options: Any) -> tuple[CompressionReport, ModelProto]:
        config = configure(tmp_path, name, data=images, val=None, **options)
        return compress(replace(config, model=RESNET)), onnx.load(tmp_path / name)

    first, model = compress_resnet("a.onnx", target_latency=0.7, allow_slower=False, save_plan=plan)
    second, same = compress_resnet("b.onnx", plan=plan)
    assert not {"Slice", "Pad"} & {node.op_type for node in model.graph.node}
    assert list(model.graph.node) == list(same.graph.node)
    # Multiply-adds of the original are those of its file.
    assert first.original.macs == second.original.macs == measure_cost(onnx.load(RESNET)).macs
    _, other = compress_resnet("c.onnx", target_macs=0.7)
    assert "Slice" in {node.op_type for node in other.graph.node}


@pytest.mark.usefixtures("fake_clock")
def test_the_plan_of_a_search_is_that_of_the_model_written(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    options: dict[str, Any] = {"max_drop": 5.0, "minimize": "macs", "save_plan": plan}
    report = compress(configure(tmp_path, "a.onnx", **options))
    content = json.loads(plan.read_text(encoding="utf-8"))
    assert content["macs"]["after"] == report.compressed.macs < report.original.macs
    assert content["made_with"]["target"] == {"max_drop": 5.0, "minimize": "macs"}


@pytest.mark.usefixtures("fake_clock")
def test_the_plan_of_several_rounds_counts_from_the_original(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    first = compress(configure(tmp_path, "a.onnx", rounds=2, target_macs=0.2, save_plan=plan))
    second = compress(configure(tmp_path, "b.onnx", plan=plan))
    assert any(group.kept < group.channels for group in first.groups)
    assert (second.compressed.macs, second.groups) == (first.compressed.macs, first.groups)


def test_an_edited_plan_is_applied_and_said_to_be_edited(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    compress(configure(tmp_path, "a.onnx", dry_run=True, save_plan=plan))
    content = json.loads(plan.read_text(encoding="utf-8"))
    name = next(name for name, layer in content["layers"].items() if layer["rank"])
    content["layers"][name]["rank"] += 1
    plan.write_text(json.dumps(content), encoding="utf-8")
    report = compress(configure(tmp_path, "a.onnx", dry_run=True, plan=plan, basis="svd"))
    assert report.compressed.macs > content["macs"]["after"]
    assert next(row.rank for row in report.layers if row.name == name) == content["layers"][name]["rank"]
    edited, basis = sorted(warning for warning in report.warnings if "plan was" in warning)
    assert f"it says {content['macs']['after']:,} multiply-adds" in edited
    assert f"it comes to {report.compressed.macs:,}" in edited
    assert basis == "the plan was made with --basis fisher, and is applied with svd."


def test_weights_that_lost_their_rank_are_told(tmp_path: Path) -> None:
    plan, model = tmp_path / "plan.json", onnx.load(DIGITS)
    compress(configure(tmp_path, "a.onnx", dry_run=True, save_plan=plan))
    content = json.loads(plan.read_text(encoding="utf-8"))
    name, layer = next((name, layer) for name, layer in content["layers"].items() if layer["rank"])
    weight = next(node.input[1] for node in model.graph.node if node.name == name)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == weight)
    values = np.broadcast_to(numpy_helper.to_array(tensor)[:1], tensor.dims)  # every filter is the first one
    tensor.CopyFrom(numpy_helper.from_array(values.copy(), weight))
    onnx.save(model, tmp_path / "flat.onnx")
    config = configure(tmp_path, "b.onnx", dry_run=True, plan=plan)
    with pytest.raises(PlanError, match=f"keeps {layer['rank']} components of '{name}', whose weights have 1 that"):
        compress(replace(config, model=tmp_path / "flat.onnx"))


@pytest.fixture(scope="module")
def saved(named_network: Callable[[str], Network], invent_assessment: Callable[..., Any]) -> tuple[Network, SavedPlan]:
    network = named_network("branching")
    planned = plan_cut(network, invent_assessment(network), "double", Budget("macs", 0.4 * network.cost.macs))
    original = ModelMeasurement(network.cost.macs, network.cost.parameters, None, ())
    plan = make_plan(network, original, planned, frozenset(), {})
    groups = {name: Share(share.total - 1, share.total) for name, share in plan.groups.items()}
    return network, replace(plan, groups=groups)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"input_shape": (1, 3, 9, 9)}, "the input has shape (1, 3, 8, 8), in the plan it has (1, 3, 9, 9)"),
        ({"layers": {"deep": Share(1, 6)}}, "'deep' can't be decomposed ("),
        ({"layers": {"nobody": Share(1, 6)}}, "'nobody' can't be decomposed (there is no such Conv)"),
        ({"layers": {"stem": Share(1, 7)}}, "'stem' has 6 components, in the plan 7"),
        ({"groups": {"fc": Share(1, 4)}}, "channels of 'fc' can't go (it is an output of the model, z)"),
        ({"groups": {"nobody": Share(1, 4)}}, "channels of 'nobody' can't go (there is no such group)"),
        ({"groups": {"wide": Share(1, 21)}}, "'wide' has 20 channels, in the plan 21"),
    ],
)
def test_what_cannot_be_done_is_told(
    change: dict[str, Any], expected: str, saved: tuple[Network, SavedPlan], tmp_path: Path
) -> None:
    network, plan = saved
    config = CompressionConfig(plan=tmp_path / "p.json")
    check_fit(plan, network, config)
    with pytest.raises(PlanError) as raised:
        check_fit(replace(plan, **change), network, config)
    assert expected in str(raised.value)


@pytest.mark.parametrize(
    ("prune", "expected"),
    [("channels", "which --prune channels doesn't allow"), ("basis", "which --prune basis doesn't allow")],
)
def test_a_plan_that_needs_more_than_prune_allows_is_told(
    prune: Any, expected: str, saved: tuple[Network, SavedPlan], tmp_path: Path
) -> None:
    network, plan = saved
    with pytest.raises(PlanError, match=expected):
        check_fit(plan, network, CompressionConfig(plan=tmp_path / "p.json", prune=prune))


def test_rounds_have_no_meaning_with_a_plan() -> None:
    with pytest.raises(ConfigError, match="--rounds goes down to a target, which --plan doesn't have"):
        CompressionConfig(plan=Path("p.json"), rounds=2)


def test_a_plan_is_never_written_over_and_never_over_others(tmp_path: Path) -> None:
    plan = tmp_path / "p.json"
    plan.write_text("{}", encoding="utf-8")
    with pytest.raises(OutputError, match="exists already"):
        compress(configure(tmp_path, "a.onnx", save_plan=plan))
    with pytest.raises(OutputError, match="is the input --plan, which is never written over"):
        compress(configure(tmp_path, "a.onnx", plan=plan, report=plan, force=True))
    for options in ({"report": tmp_path / "n.json"}, {"output": tmp_path / "n.json"}):
        with pytest.raises(OutputError, match=r"can't be both the .* and the plan: choose another --save-plan"):
            compress(replace(configure(tmp_path, "a.onnx", save_plan=tmp_path / "n.json"), **options))
