"""The trade-off: what it measures, on which images, and when it stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.errors import ConfigError
from onnx_basisprune.frontier import choose_targets
from onnx_basisprune.pipeline import compress
from onnx_basisprune.results import CompressionReport

SAMPLES = Path(__file__).resolve().parents[1] / "sample_models"


def run(folder: Path, **options: Any) -> CompressionReport:
    quick: dict[str, Any] = {"limit": 120, "recover": "none", "preprocess": "imagenet", "frontier": True}
    return compress(
        CompressionConfig(
            model=SAMPLES / "digits.onnx",
            data=SAMPLES / "digits" / "calib",
            val=SAMPLES / "digits" / "val",
            output=folder / "small.onnx",
            threads=1,
            **{**quick, **options},
        )
    )


@pytest.mark.usefixtures("fake_clock")
def test_points_go_down_and_the_written_model_is_one_of_them(tmp_path: Path) -> None:
    report = run(tmp_path, target_macs=0.4)
    macs = [point.macs for point in report.frontier]
    assert len(macs) >= 5
    assert macs == sorted(macs, reverse=True)
    assert len(set(macs)) == len(macs)
    (chosen,) = [point for point in report.frontier if point.chosen]
    assert (chosen.macs, chosen.parameters) == (report.compressed.macs, report.compressed.parameters)
    assert chosen.accuracy == report.compressed.accuracy
    assert chosen.drop_pp == report.drop_pp
    assert all(point.macs <= point.target * report.original.macs for point in report.frontier if not point.chosen)
    assert {point.unit for point in report.frontier} == {"macs"}
    # Accuracy falls, if not from each point to the next.
    accuracies = [point.accuracy.top1 or 0.0 for point in report.frontier]
    assert accuracies[0] > accuracies[-1]


@pytest.mark.usefixtures("fake_clock")
def test_a_search_keeps_the_images_for_its_claim_out_of_it(tmp_path: Path) -> None:
    report = run(tmp_path, max_drop=5.0, minimize="params")
    assert report.search is not None
    assert report.compressed.accuracy is not None
    assert {point.accuracy.n for point in report.frontier} == {report.search.images}
    assert report.search.images + report.compressed.accuracy.n == 600
    assert all(point.unit == "params" for point in report.frontier)


@pytest.mark.usefixtures("fake_clock")
def test_a_time_limit_leaves_points_out_and_says_so(tmp_path: Path) -> None:
    report = run(tmp_path, target_macs=0.4, time_limit=1e-3, recover="scale", recover_steps=5)
    assert [point.chosen for point in report.frontier] == [True]
    assert any("the trade-off has" in warning for warning in report.warnings)


@pytest.mark.parametrize("least", [0.08, 0.3, 0.95, 1.0])
def test_targets_reach_the_smallest_in_equal_ratios(least: float) -> None:
    targets = choose_targets(least)
    assert targets[-1] == pytest.approx(least, rel=1e-9)
    assert max(targets) <= 1.0
    ratios = np.divide(targets[1:], targets[:-1])
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-9)


def test_a_dry_run_has_no_frontier() -> None:
    with pytest.raises(ConfigError, match="--frontier looks at several"):
        CompressionConfig(frontier=True, dry_run=True, target_macs=0.5)
