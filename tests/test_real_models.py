"""Accuracy on real trained models: what was reached once must not be lost unnoticed.

Nothing is recovered here, so that these figures are those of bases, scores, allocation and the re-fit of the layers.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnx_basisprune.timing as timing
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.data.dataset import open_dataset
from onnx_basisprune.pipeline import compress
from onnx_basisprune.results import CompressionReport
from onnx_basisprune.runtime.benchmark import BenchmarkSettings

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
MODELS, DATA = SHARED / "models", SHARED / "data"

pytestmark = pytest.mark.skipif(not MODELS.is_dir(), reason="the shared models aren't beside the repository")


@pytest.fixture(autouse=True)
def _short_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    real = timing.benchmark_pair

    def hurry(*models: Any, settings: BenchmarkSettings, **options: Any) -> Any:
        quick = replace(settings, min_rounds=5, min_seconds=0.0, max_seconds=0.1, warmup=1)
        return real(*models, settings=quick, **options)

    monkeypatch.setattr(timing, "benchmark_pair", hurry)


def run(model: str, output: Path, **options: Any) -> CompressionReport:
    defaults = {"recover": "none", "allow_slower": True, "output": output / "out.onnx"}
    return compress(CompressionConfig(model=MODELS / f"{model}.onnx", **{**defaults, **options}))


def get_top1(report: CompressionReport) -> float:
    assert report.compressed.accuracy is not None
    assert report.compressed.accuracy.top1 is not None
    return report.compressed.accuracy.top1


@pytest.fixture(scope="module")
def cifar_test(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 test images as one file: faster to open than 10,000 files, and drawn the same in each run."""
    dataset = open_dataset(DATA / "cifar10" / "test").draw(2000, seed=0)
    path = tmp_path_factory.mktemp("cifar") / "test.npz"
    np.savez(path, x=np.stack([dataset.load([i])[0] for i in range(2000)]), y=dataset.labels)
    return path


# MACs kept, what is pruned, basis, least and most top-1. The baseline is 88 %; on 2,000 images a standard error at 70 %
# is 1 point.
@pytest.mark.parametrize(
    ("target", "prune", "basis", "least", "most"),
    [
        (0.8, "basis", "fisher", 0.86, 1.0),
        (0.5, "basis", "fisher", 0.81, 1.0),
        (0.5, "basis", "svd", 0.7, 0.85),
        (0.5, "double", "fisher", 0.81, 1.0),
        (0.35, "double", "fisher", 0.74, 1.0),
    ],
)
def test_resnet20(
    cifar_test: Path, tmp_path: Path, target: float, prune: str, basis: str, least: float, most: float
) -> None:
    report = run(
        "resnet20_cifar10",
        tmp_path,
        data=DATA / "cifar10" / "calib",
        val=cifar_test,
        limit=1000,
        preprocess="imagenet",
        target_macs=target,
        basis=basis,
        prune=prune,
    )
    assert all(gate.passed for gate in report.gates)
    assert least <= get_top1(report) <= most


def test_vgg16_keeps_its_accuracy_with_a_tenth_of_its_parameters(tmp_path: Path) -> None:
    with np.load(DATA / "mnist_test.npz") as arrays:
        chosen = np.random.default_rng(0).choice(len(arrays["y"]), 1000, replace=False)
        np.savez(tmp_path / "test.npz", x=arrays["x"][chosen], y=arrays["y"][chosen])
    report = run(
        "vgg16_mnist",
        tmp_path,
        data=DATA / "mnist_calib.npz",
        val=tmp_path / "test.npz",
        limit=600,
        preprocess="imagenet",
        target_params=0.1,
    )
    assert all(gate.passed for gate in report.gates)
    assert get_top1(report) >= 0.98


def test_dynamic_height_and_width_without_labels(tmp_path: Path) -> None:
    """Paddle's text direction classifier on drawn strips: agreement with itself."""
    generator = np.random.default_rng(0)
    # Rows of dark strokes on light ground, upright or turned by half: what tells the two classes apart.
    x = np.full((120, 48, 192, 3), 235, np.uint8)
    for image in x:
        for left in range(8, 180, 12):
            top = int(generator.integers(6, 20))
            image[top:38, left : left + int(generator.integers(2, 8))] = generator.integers(0, 90)
    x[::2] = x[::2, ::-1, ::-1]
    np.savez(tmp_path / "strips.npz", x=x)
    report = run(
        "ppocr_cls",
        tmp_path,
        data=tmp_path / "strips.npz",
        preprocess="tf",
        color="bgr",
        resize=0,
        crop=0,
        target_macs=0.8,
    )
    assert all(gate.passed for gate in report.gates)
    assert report.compressed.accuracy is not None
    assert report.compressed.accuracy.top1 is None
    assert report.compressed.accuracy.agreement is not None
    assert report.compressed.accuracy.agreement >= 0.75
    assert report.drop_pp is not None


def test_efficientnet(tmp_path: Path) -> None:
    """A thousand classes, depthwise Convs, 1×1 expansions with C_out > K."""
    report = run(
        "efficientnet_lite0_imagenet",
        tmp_path,
        data=DATA / "imagenet1k_sample",
        limit=48,
        preprocess="tf",
        batch_size=16,
        target_macs=0.8,
    )
    assert all(gate.passed for gate in report.gates)
    assert report.compressed.accuracy is not None
    assert (report.compressed.accuracy.agreement or 0) > 0.25
    reasons = {row.reason for row in report.layers if not row.full_rank}
    assert "depthwise" in reasons
