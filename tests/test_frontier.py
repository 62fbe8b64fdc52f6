"""The trade-off: what it measures, on which images, and when it stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.errors import ConfigError
from onnx_basisprune.frontier import choose_targets, find_widest_gap
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


@pytest.mark.parametrize(
    ("drops", "expected"),
    [
        ({0.8: 1.0, 0.5: 3.0, 0.2: 60.0}, (0.5 * 0.2) ** 0.5),
        ({0.25: 60.0}, 0.5),
        # From the original to the first is as far as anywhere else.
        ({0.49: 55.0, 0.4: 60.0}, 0.7),
        # Nothing is between sizes that are nearly the same.
        ({0.8: 1.0, 0.77: 60.0}, 0.8**0.5),
        ({0.99: 60.0}, None),
    ],
)
def test_the_widest_gap(drops: dict[float, float], expected: float | None) -> None:
    assert find_widest_gap(drops) == (None if expected is None else pytest.approx(expected))


@pytest.mark.usefixtures("fake_clock")
def test_few_sizes_are_spent_on_what_is_of_no_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_basisprune.frontier._COLLAPSED", 10.0)
    report = run(tmp_path, target_macs=0.9)
    drops = [point.drop_pp.estimate for point in report.frontier]
    assert len(drops) >= 6
    assert sum(drop > 10.0 for drop in drops[:-1]) < len(drops) / 2


def test_a_dry_run_has_no_frontier() -> None:
    with pytest.raises(ConfigError, match="--frontier looks at several"):
        CompressionConfig(frontier=True, dry_run=True, target_macs=0.5)
