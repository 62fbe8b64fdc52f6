"""A compression run from end to end on the sample model."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import ModelProto, numpy_helper

import onnx_basisprune.calibration.recovery as recovery
import onnx_basisprune.candidates as candidates
import onnx_basisprune.pipeline as pipeline
import onnx_basisprune.run as run
import onnx_basisprune.timing as timing
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.data.dataset import open_dataset
from onnx_basisprune.errors import ConfigError, DataError, OutputError, ValidationError
from onnx_basisprune.graph.cost import measure_cost
from onnx_basisprune.graph.rewrite import PairNames
from onnx_basisprune.opening import Images
from onnx_basisprune.pipeline import compress
from onnx_basisprune.progress import Silence
from onnx_basisprune.results import CompressionReport
from onnx_basisprune.runtime.benchmark import BenchmarkSettings
from onnx_basisprune.runtime.session import Session

SAMPLE = Path(__file__).resolve().parents[1] / "sample_models"
CALIB, VAL = SAMPLE / "digits" / "calib", SAMPLE / "digits" / "val"
INPUT = {"image": (1, 3, 16, 16)}


@pytest.fixture(autouse=True)
def _short_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    real = timing.benchmark_pair

    def hurry(*models: Any, settings: BenchmarkSettings, **options: Any) -> Any:
        quick = replace(settings, min_rounds=5, min_seconds=0.0, max_seconds=0.1, warmup=1)
        return real(*models, settings=quick, **options)

    monkeypatch.setattr(timing, "benchmark_pair", hurry)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copy(SAMPLE / "digits.onnx", tmp_path / "digits.onnx"))


def configure(model: Path, **options: Any) -> CompressionConfig:
    """A quick run: 120 images, nothing tuned, nothing timed but the result."""
    defaults = {"data": CALIB, "val": VAL, "limit": 120, "recover": "none", "preprocess": "imagenet", "threads": 1}
    defaults["allow_slower"] = True
    if not {"target_macs", "target_params", "target_latency", "max_drop"} & set(options):
        defaults["target_macs"] = 0.5
    return CompressionConfig(model=model, **{**defaults, **options})


def list_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def count(path: Path) -> tuple[int, int]:
    cost = measure_cost(onnx.load(path), INPUT)
    return cost.macs, cost.parameters


class Listener(Silence):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.warnings: list[str] = []

    def start(self, stage: str, total: float | None = None) -> None:  # noqa: ARG002
        self.stages.append(stage)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.mark.parametrize(
    ("prune", "basis"), [("basis", "fisher"), ("basis", "svd"), ("channels", "fisher"), ("double", "fisher")]
)
@pytest.mark.parametrize(("unit", "target"), [("macs", 0.5), ("params", 0.25)])
def test_target_is_reached_as_predicted(model: Path, prune: str, basis: str, unit: str, target: float) -> None:
    report = compress(configure(model, prune=prune, basis=basis, **{f"target_{unit}": target}))
    written = model.with_name("digits.pruned.onnx")
    assert report.config["output"] == str(written)
    macs, parameters = count(written)
    assert (report.compressed.macs, report.compressed.parameters) == (macs, parameters)
    assert (report.original.macs, report.original.parameters) == count(model)
    assert (report.original.file_bytes, report.compressed.file_bytes) == (
        model.stat().st_size,
        written.stat().st_size,
    )
    before, after = (report.original.macs, macs) if unit == "macs" else (report.original.parameters, parameters)
    # The last cut is the first that meets the budget: at most one component or channel below it.
    assert (0.97 if prune == "basis" else 0.93) * target < after / before <= target
    (gate,) = report.gates
    assert (gate.name, gate.asked, gate.reached, gate.passed) == (f"target_{unit}", target, after / before, True)
    onnx.checker.check_model(onnx.load(written), full_check=True)
    assert any(row.decomposed for row in report.layers) <= (prune != "channels")
    # Both together, the walk takes what costs least: on this model, at half of the MACs, only components.
    if prune != "double":
        assert any(row.kept < row.channels for row in report.groups) == (prune == "channels")
    assert all(0 < row.kept <= row.channels for row in report.groups)
    assert all(row.kept == row.channels for row in report.groups if row.blocked_by)


@pytest.mark.parametrize("prune", ["channels", "double"])
def test_rounds_account_for_what_all_of_them_removed(model: Path, prune: str) -> None:
    report = compress(configure(model, prune=prune, rounds=3, target_macs=0.2))
    assert all(gate.passed for gate in report.gates)
    written = onnx.load(model.with_name("digits.pruned.onnx"))
    shapes = {tensor.name: tuple(tensor.dims) for tensor in written.graph.initializer}
    kept = {row.name: row.kept for row in report.groups}
    outputs = {}
    for node in written.graph.node:
        if node.op_type == "Conv":
            name = node.name.removesuffix(".scaling")
            outputs[name] = shapes[node.input[1]][0]
    groups = {name: count for name, count in kept.items() if name in outputs}
    assert len(groups) > 5
    assert groups == {name: outputs[name] for name in groups}
    assert report.timings.keys() >= {"moments", "scores"}


def test_report_is_complete(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    listener = Listener()
    options = {"recover": "scale", "recover_steps": 5, "report": path, "target_macs": 0.4, "prune": "basis"}
    report = compress(configure(model, **options), listener)
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["format_version"] == 1
    for side in ("original", "compressed"):
        assert data[side]["macs"] > 0
        assert data[side]["parameters"] > 0
        assert data[side]["file_bytes"] > 0
        assert data[side]["latency"]["median_ms"] > 0
        assert 0.9 < data[side]["accuracy"]["top1"] <= 1
        assert data[side]["accuracy"]["n"] == 600
    assert data["compressed"]["accuracy"]["agreement"] > 0.9
    assert data["speedup"]["low"] <= data["speedup"]["median"] <= data["speedup"]["high"]
    drop = 100 * (data["original"]["accuracy"]["top1"] - data["compressed"]["accuracy"]["top1"])
    assert data["drop_pp"]["estimate"] == pytest.approx(drop, abs=1e-9)
    assert data["drop_pp"]["low"] <= data["drop_pp"]["estimate"] <= data["drop_pp"]["high"]
    assert [row["name"] for row in data["per_class"]] == list("0123456789")
    for key, side in (("top1_before", "original"), ("top1_after", "compressed")):
        total = sum(row["n"] * row[key] for row in data["per_class"])
        assert total / 600 == pytest.approx(data[side]["accuracy"]["top1"], abs=1e-9)
    assert data["config"]["target_macs"] == 0.4
    assert data["config"]["model"] == str(model)
    assert data["config"]["preprocessing"]["preset"] == "imagenet"
    assert data["environment"]["seed"] == 0
    assert len(data["environment"]["compressed_sha256"]) == 64
    assert {row["name"]: row["blocked_by"] for row in data["groups"]}["/classifier/Gemm"].endswith("logits")
    assert all(row["kept"] == row["channels"] for row in data["groups"])
    assert data["recovery"]["mode"] == "scale"
    assert data["recovery"]["steps"] >= 5
    for stage in ("opening", "baseline", "moments", "scores", "rewriting", "recovery", "validating", "benchmark"):
        assert data["timings"][stage] >= 0
        assert stage in listener.stages
    assert data["warnings"] == listener.warnings == list(report.warnings)
    assert_layers_add_up(report)


def assert_layers_add_up(report: CompressionReport) -> None:
    rows = report.layers
    assert sum(row.macs_before - row.macs_after for row in rows) == report.original.macs - report.compressed.macs
    # Batch normalisations are folded into the Convs, which takes their parameters away, too.
    assert sum(row.parameters_before - row.parameters_after for row in rows) <= (
        report.original.parameters - report.compressed.parameters
    )
    for row in rows:
        assert row.decomposed == (row.reason == "")
        assert row.decomposed == (row.rank < row.full_rank or row.macs_after != row.macs_before)
        assert row.removed_score >= 0
        if not row.decomposed:
            assert (row.macs_after, row.parameters_after) == (row.macs_before, row.parameters_before)
    assert any(row.decomposed for row in rows)


def test_interface_and_metadata_stay(model: Path) -> None:
    source = onnx.load(model)
    entry = source.metadata_props.add()
    entry.key, entry.value = "owner", "me"
    onnx.save(source, model)
    compress(configure(model))
    written = onnx.load(model.with_name("digits.pruned.onnx"))
    assert list(written.graph.input) == list(source.graph.input)
    assert list(written.graph.output) == list(source.graph.output)
    assert list(written.opset_import) == list(source.opset_import)
    assert written.ir_version == source.ir_version
    properties = {entry.key: entry.value for entry in written.metadata_props}
    assert properties["owner"] == "me"
    done = json.loads(properties["basisprune.compression"])
    assert done["target"] == {"macs": 0.5}
    assert done["macs"] == [count(model)[0], count(model.with_name("digits.pruned.onnx"))[0]]


def test_dry_run_writes_nothing_and_predicts_the_run(model: Path, tmp_path: Path) -> None:
    files = list_files(tmp_path)
    predicted = compress(configure(model, dry_run=True))
    assert list_files(tmp_path) == files
    assert predicted.config["output"] is None
    assert predicted.compressed.latency is None
    assert predicted.compressed.accuracy is None
    assert predicted.compressed.file_bytes is None
    real = compress(configure(model))
    assert (predicted.compressed.macs, predicted.compressed.parameters) == (
        real.compressed.macs,
        real.compressed.parameters,
    )
    assert predicted.layers == real.layers


@pytest.mark.parametrize("recover", ["none", "scale"])
def test_the_same_run_writes_the_same_bytes(model: Path, tmp_path: Path, recover: str) -> None:
    config = configure(model, recover=recover, recover_steps=6, limit=60, augment="shift+flip", target_macs=0.3)
    compress(replace(config, output=tmp_path / "a.onnx"))
    compress(replace(config, output=tmp_path / "b.onnx"))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_scale_tunes_factors_biases_and_classifier_only(model: Path, tmp_path: Path) -> None:
    # So deep a cut that the re-fit leaves something to recover.
    config = configure(model, limit=None, target_macs=0.05, recover_steps=60, prune="basis")
    plain = compress(replace(config, output=tmp_path / "plain.onnx"))
    tuned = compress(replace(config, output=tmp_path / "tuned.onnx", recover="scale"))
    assert plain.recovery is None
    assert tuned.recovery is not None
    assert tuned.recovery.kept
    assert tuned.recovery.held_out_loss_after < tuned.recovery.held_out_loss_before
    assert plain.compressed.accuracy is not None
    assert tuned.compressed.accuracy is not None
    # Of 600 images a few may go either way.
    assert (tuned.compressed.accuracy.top1 or 0) > (plain.compressed.accuracy.top1 or 0) - 0.01
    first, second = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / name).graph.initializer}
        for name in ("plain.onnx", "tuned.onnx")
    )
    assert first.keys() == second.keys()
    changed = {name for name in first if not np.array_equal(first[name], second[name])}
    assert changed
    for name in changed:
        if first[name].ndim == 4:
            assert name.endswith(".scaling")
            factor = second[name] / np.where(first[name] == 0, np.nan, first[name])
            np.testing.assert_allclose(
                np.nanmax(factor, axis=0), np.nanmin(factor, axis=0), rtol=1e-4
            )  # float32 quotients of one factor
        else:
            assert first[name].ndim == 1 or "fc" in name or first[name].shape[0] == 10
    assert not any(name.endswith(".basis") for name in changed)


# -- where things may be written ------------------------------------------------------------------------------------


def alias(model: Path, how: str) -> Path:
    if how == "same":
        return model
    other = model.with_name("other.onnx")
    if how == "symlink":
        try:
            other.symlink_to(model)
        except OSError:
            pytest.skip("symbolic links need rights here")
    else:
        os.link(model, other)
    return other


@pytest.mark.parametrize("how", ["same", "symlink", "hardlink"])
@pytest.mark.parametrize(("option", "dry_run"), [("output", False), ("report", False), ("report", True)])
def test_never_over_the_input(model: Path, how: str, option: str, *, dry_run: bool) -> None:
    content = model.read_bytes()
    with pytest.raises(OutputError, match="input"):
        compress(configure(model, force=True, dry_run=dry_run, **{option: alias(model, how)}))
    assert model.read_bytes() == content


@pytest.mark.parametrize("option", ["output", "report"])
@pytest.mark.parametrize("source", ["data", "val", "labels"])
def test_never_over_images_or_labels(model: Path, tmp_path: Path, option: str, source: str) -> None:
    path = tmp_path / ("labels.json" if source == "labels" else "images.npz")
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match=f"input --{source}"):
        compress(configure(model, force=True, **{source: path, option: path}))
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("how", ["folder", "file"])
def test_figures_on_the_calibration_images_are_refused(model: Path, tmp_path: Path, how: str) -> None:
    path = CALIB
    if how == "file":
        path = tmp_path / "images.npz"
        np.savez(path, x=np.zeros((4, 16, 16, 3), np.uint8))
    with pytest.raises(ConfigError, match="--val and --data"):
        compress(configure(model, data=path, val=path.parent / "." / path.name))


def test_a_run_without_an_installed_version(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", find)
    compress(configure(model, limit=20))
    properties = {entry.key: entry.value for entry in onnx.load(model.with_name("digits.pruned.onnx")).metadata_props}
    assert properties["basisprune.version"] == "unknown"


def test_no_stage_goes_beyond_its_total(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the recovery starts again with a lower rate."""
    monkeypatch.setattr(recovery, "choose_first_rate", lambda *_: 30.0)
    stages: list[list[Any]] = []

    class Watcher(Listener):
        def start(self, stage: str, total: float | None = None) -> None:
            stages.append([stage, total, 0.0])

        def advance(self, amount: float) -> None:
            assert amount >= 0
            stages[-1][2] += amount

    compress(configure(model, limit=60, recover="scale", recover_steps=20), Watcher())
    assert [stage for stage, _, _ in stages].count("recovery") > 1
    for stage, total, done in stages:
        assert done <= (total or 0.0) * (1 + 1e-9), stage
    assert {stage: done for stage, _, done in stages}["benchmark"] == pytest.approx(1.0)


def test_no_file_is_replaced_without_force(model: Path, tmp_path: Path) -> None:
    for option in ("output", "report"):
        path = tmp_path / option
        path.write_bytes(b"mine")
        with pytest.raises(OutputError, match="--force"):
            compress(configure(model, **{option: path}))
        assert path.read_bytes() == b"mine"
    compress(configure(model, force=True, output=tmp_path / "output", report=tmp_path / "report"))
    assert (tmp_path / "output").read_bytes() != b"mine"
    assert json.loads((tmp_path / "report").read_text(encoding="utf-8"))["format_version"] == 1


def test_report_over_the_output_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="both"):
        compress(configure(model, output=tmp_path / "x", report=tmp_path / "." / "x"))


def test_missing_folder_is_told_before_any_work(model: Path, tmp_path: Path) -> None:
    listener = Listener()
    with pytest.raises(OutputError, match="doesn't exist"):
        compress(configure(model, output=tmp_path / "nowhere" / "x.onnx"), listener)
    assert listener.stages == []


@pytest.mark.parametrize("stage", ["moments", "scores", "recovery", "validating"])
def test_interruption_leaves_nothing(model: Path, tmp_path: Path, stage: str) -> None:
    class Interrupter(Listener):
        def start(self, name: str, total: float | None = None) -> None:  # noqa: ARG002
            if name == stage:
                raise KeyboardInterrupt

    files = list_files(tmp_path)
    config = configure(model, recover="scale", recover_steps=2, limit=60, report=tmp_path / "report.json")
    with pytest.raises(KeyboardInterrupt):
        compress(config, Interrupter())
    assert list_files(tmp_path) == files


@pytest.mark.parametrize("fault", ["weight", "nan", "cost"])
def test_a_model_that_is_not_what_was_planned_is_not_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    real_save, real_cut = pipeline.save_model, candidates.cut_network

    def corrupt(model: ModelProto, path: Path, **options: Any) -> tuple[Path, ...]:
        copy = ModelProto()
        copy.CopyFrom(model)
        tensor = next(t for t in copy.graph.initializer if t.name.endswith(".basis"))
        values = numpy_helper.to_array(tensor).copy()
        values[0] = np.nan if fault == "nan" else values[0] + 1.0
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return real_save(copy, path, **options)

    def forget(network: Any, assessment: Any, plan: Any) -> tuple[ModelProto, dict[str, PairNames]]:
        left = dict(list(plan.components.items())[1:])
        return real_cut(network, assessment, replace(plan, components=left))

    if fault == "cost":
        monkeypatch.setattr(candidates, "cut_network", forget)
    else:
        monkeypatch.setattr(pipeline, "save_model", corrupt)
    files = list_files(tmp_path)
    with pytest.raises(ValidationError) as caught:
        compress(configure(model, limit=60, prune="basis", report=tmp_path / "report.json"))
    assert "\n" not in str(caught.value)
    after = list_files(tmp_path)
    assert after.pop("digits.pruned.onnx.rejected.npz")  # the evidence, and nothing else
    assert after == files


# -- images and labels ----------------------------------------------------------------------------------------------


def test_without_val_no_image_is_in_both_sets(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets: list[tuple[set[str], set[str]]] = []
    real = run.open_data

    def keep(*arguments: Any) -> Any:
        subject, calibration, validation = real(*arguments)
        names = [{images.dataset.name_of(i) for i in range(len(images))} for images in (calibration, validation)]
        sets.append((names[0], names[1]))
        return subject, calibration, validation

    monkeypatch.setattr(run, "open_data", keep)
    report = compress(configure(model, val=None, limit=None, dry_run=True))
    ((calibration, validation),) = sets
    assert (len(calibration), len(validation)) == (480, 120)
    assert not calibration & validation
    assert report.original.accuracy is not None
    assert report.original.accuracy.n == 120
    assert any("--val" in warning for warning in report.warnings)


def make_flat_folder(folder: Path, step: int = 5) -> Path:
    folder.mkdir()
    for index, path in enumerate(sorted(CALIB.rglob("*.png"))[::step]):
        shutil.copy(path, folder / f"{index:04}_{path.parent.name}.png")
    return folder


def test_without_labels_agreement_takes_accuracys_place(model: Path, tmp_path: Path) -> None:
    flat = make_flat_folder(tmp_path / "flat")
    report = compress(configure(model, data=flat, val=None, target_macs=0.6))
    for measured in (report.original, report.compressed):
        assert measured.accuracy is not None
        assert measured.accuracy.top1 is None
        assert measured.accuracy.n == 24
    assert report.compressed.accuracy is not None
    assert report.compressed.accuracy.agreement is not None
    assert report.compressed.accuracy.agreement > 0.9
    assert report.drop_pp is not None
    assert report.drop_pp.estimate == pytest.approx(100 * (1 - report.compressed.accuracy.agreement))


def test_label_file(model: Path, tmp_path: Path) -> None:
    flat = make_flat_folder(tmp_path / "flat")
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({p.name: int(p.stem[-1]) for p in flat.iterdir()}), encoding="utf-8")
    report = compress(configure(model, data=flat, val=None, labels=labels, dry_run=True))
    assert report.original.accuracy is not None
    assert report.original.accuracy.top1 is not None
    assert report.original.accuracy.top1 > 0.9


def test_npz_of_pixels_and_of_floats(model: Path, tmp_path: Path) -> None:
    dataset = open_dataset(CALIB)
    pixels = np.stack([dataset.load([i])[0] for i in range(0, 600, 4)])
    assert dataset.labels is not None
    y = dataset.labels[::4]
    np.savez(tmp_path / "pixels.npz", x=pixels, y=y)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    floats = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    np.savez(tmp_path / "floats.npz", x=floats, y=y)
    first, second = (
        compress(configure(model, data=tmp_path / name, val=None, limit=None, dry_run=True))
        for name in ("pixels.npz", "floats.npz")
    )
    assert first.original.accuracy == second.original.accuracy
    assert first.original.accuracy is not None
    assert (first.original.accuracy.top1 or 0) > 0.9
    assert [row.rank for row in first.layers] == [row.rank for row in second.layers]


def test_near_chance_is_an_error_unless_the_preset_was_chosen(model: Path, tmp_path: Path) -> None:
    dataset = open_dataset(CALIB)
    x = np.stack([dataset.load([i])[0] for i in range(200)])
    np.savez(tmp_path / "wrong.npz", x=x, y=np.random.default_rng(0).integers(0, 10, 200))
    files = list_files(tmp_path)
    config = configure(model, data=tmp_path / "wrong.npz", val=None)
    with pytest.raises(DataError, match="--preprocess"):
        compress(replace(config, preprocess="auto"))
    assert list_files(tmp_path) == files
    report = compress(replace(config, dry_run=True))
    assert any("chance" in warning for warning in report.warnings)


def test_labels_beyond_the_classes_are_refused(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "wrong.npz", x=np.zeros((4, 16, 16, 3), np.uint8), y=np.array([0, 1, 12, 3]))
    with pytest.raises(DataError, match="12"):
        compress(configure(model, data=tmp_path / "wrong.npz"))


def test_detects_the_preset(model: Path) -> None:
    report = compress(configure(model, preprocess="auto", dry_run=True))
    assert report.config["preprocessing"]["preset"] == "imagenet"


# -- what can be pruned ---------------------------------------------------------------------------------------------


def test_excluded_nodes_stay(model: Path) -> None:
    report = compress(configure(model, dry_run=True))
    name = next(row.name for row in report.layers if row.decomposed)
    again = compress(configure(model, exclude=(name,)))
    row = next(row for row in again.layers if row.name == name)
    assert not row.decomposed
    assert "--exclude" in row.reason
    assert row.macs_before == row.macs_after
    blocked = [group for group in again.groups if "--exclude" in group.blocked_by]
    assert blocked
    assert all(group.kept == group.channels for group in blocked)
    assert all(gate.passed for gate in again.gates)


def test_unknown_node_to_exclude_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        compress(configure(model, exclude=("nonsense",)))


@pytest.mark.parametrize("prune", ["basis", "channels", "double"])
@pytest.mark.parametrize("unit", ["macs", "params"])
def test_unreachable_target_writes_the_smallest_model_and_fails_the_gate(model: Path, unit: str, prune: str) -> None:
    report = compress(configure(model, prune=prune, **{f"target_{unit}": 1e-4}))
    (gate,) = report.gates
    assert not gate.passed
    assert gate.reached > gate.asked
    assert all(row.rank == 1 for row in report.layers if row.decomposed)
    assert all(row.kept == 1 for row in report.groups if not row.blocked_by) or prune == "basis"
    assert count(model.with_name("digits.pruned.onnx")) == (report.compressed.macs, report.compressed.parameters)


LINEAR = """
<ir_version: 8, opset_import: ["" : 17]>
linear (float[N, 3, 16, 16] image) => (float[N, 10] out)
{
    flat = Flatten (image)
    out = Gemm <transB = 1> (flat, w)
}
"""


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    """A model without a Conv: class means as templates, good enough to be above chance."""
    dataset = open_dataset(CALIB)
    assert dataset.labels is not None
    x = np.stack([dataset.load([i])[0] for i in range(len(dataset))]).transpose(0, 3, 1, 2) / 255
    means = np.stack([x[dataset.labels == c].mean(axis=0).ravel() for c in range(10)])
    means -= means.mean(axis=0)
    proto = onnx.parser.parse_model(LINEAR)
    proto.graph.initializer.append(numpy_helper.from_array(means.astype(np.float32), "w"))
    path = tmp_path / "linear.onnx"
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize(("options", "passed"), [({"max_drop": 1.0, "minimize": "macs"}, True), ({}, False)])
def test_nothing_to_prune(linear: Path, options: dict[str, Any], *, passed: bool) -> None:
    report = compress(configure(linear, preprocess="unit", recover="scale", **options))
    assert any("no Conv" in warning for warning in report.warnings)
    assert [gate.passed for gate in report.gates] == [passed]
    assert report.layers == ()
    written = linear.with_name("linear.pruned.onnx")
    x = np.random.default_rng(0).standard_normal((3, 3, 16, 16), dtype=np.float32)
    first, second = (Session(path).predict(x) for path in (linear, written))
    np.testing.assert_array_equal(first, second)


def fix_batch(model: Path, size: int, *, bake: bool) -> Path:
    """Write the sample model for one batch size, with the batch in a Reshape where `bake`."""
    proto = onnx.load(model)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    del proto.graph.value_info[:]
    if bake:
        classifier = next(node for node in proto.graph.node if node.op_type == "Gemm")
        position = list(proto.graph.node).index(classifier)
        shape = numpy_helper.from_array(np.array([size, -1]), "fixed_shape")
        proto.graph.initializer.append(shape)
        reshape = onnx.helper.make_node("Reshape", [classifier.input[0], "fixed_shape"], ["rows"])
        classifier.input[0] = "rows"
        proto.graph.node.insert(position, reshape)
    path = model.with_name(f"fixed{size}.onnx")
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("bake", [False, True])
@pytest.mark.parametrize("size", [1, 7])
def test_fixed_batch(model: Path, size: int, *, bake: bool) -> None:
    # 40 images are no multiple of 7.
    path = fix_batch(model, size, bake=bake)
    report = compress(configure(path, limit=40, recover="scale", recover_steps=2, target_macs=0.7))
    reference = compress(configure(model, limit=40, target_macs=0.7, dry_run=True))
    assert all(gate.passed for gate in report.gates)
    assert [row.rank for row in report.layers] == [row.rank for row in reference.layers]


def test_the_input_file_is_never_changed(model: Path) -> None:
    content = model.read_bytes()
    compress(configure(model, recover="scale", recover_steps=2))
    assert model.read_bytes() == content


def test_images_stream_in_parts(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: set[int] = set()
    real = Images.stream

    def watch(self: Images, batch_size: int) -> Iterator[Any]:
        sizes.add(batch_size)
        return real(self, batch_size)

    monkeypatch.setattr(Images, "stream", watch)
    compress(configure(model, batch_size=13, dry_run=True))
    assert sizes == {13}
