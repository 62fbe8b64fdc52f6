"""Images that vanish or become unreadable while a run is at work: a few are made up for and told, many are an error."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from onnx_basisprune import pipeline
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.data.dataset import open_dataset
from onnx_basisprune.errors import DataError
from onnx_basisprune.progress import Silence
from onnx_basisprune.results import CompressionReport
from onnx_basisprune.runtime.session import Session

SAMPLE = Path(__file__).resolve().parents[1] / "sample_models"
BROKEN = b"\x89PNG\r\n\x1a\nhalf"
LIMIT = 100
MOST_BROKEN = 6  # one in a hundred of each folder's 600
STAGES = ["opening", "baseline", "moments", "bases", "scores", "rewriting", "refitting", "recovery", "validating"]
STAGES += ["evaluating", "benchmark"]


class Listener(Silence):
    """Calls a function at each stage, with the name and the number of those before it."""

    def __init__(self, act: Callable[[str, int], None]) -> None:
        self._act = act
        self.stages: list[str] = []

    def start(self, stage: str, total: float | None = None) -> None:  # noqa: ARG002  # its base's
        self._act(stage, len(self.stages))
        self.stages.append(stage)


@pytest.fixture
def images(tmp_path: Path, fake_clock: object) -> Path:
    return Path(shutil.copytree(SAMPLE / "digits", tmp_path / "digits"))


def compress(images: Path, output: Path, listener: Listener | None = None, **options: Any) -> CompressionReport:
    chosen = {"target_macs": 0.5, "recover_steps": 2, **options}
    config = CompressionConfig(
        model=SAMPLE / "digits.onnx",
        data=images / "calib",
        val=images / "val",
        output=output,
        limit=LIMIT,
        preprocess="imagenet",
        threads=1,
        allow_slower=True,
        **chosen,
    )
    return pipeline.compress(config, listener)


def test_a_few_that_vanish_or_break_at_any_stage_are_counted_and_not_remembered(images: Path, tmp_path: Path) -> None:
    drawn = {name: open_dataset(images / name).draw(LIMIT, seed=0) for name in ("calib", "val")}
    victims = {name: [Path(part.name_of(at)) for at in range(MOST_BROKEN)] for name, part in drawn.items()}

    def spoil(_: str, number: int) -> None:
        # From the statistics on, for which all are there when it is looked up whether they are known.
        at = number - STAGES.index("moments")
        if 0 <= at < MOST_BROKEN:
            victims["calib"][at].unlink()
            victims["val"][at].write_bytes(BROKEN)

    listener = Listener(spoil)
    report = compress(images, tmp_path / "spoilt.onnx", listener)
    # A recovery that helps nothing begins anew.
    assert [stage for stage, _ in groupby(listener.stages)] == STAGES
    assert Session(tmp_path / "spoilt.onnx").outputs
    told = [warning for warning in report.warnings if "were left out" in warning]
    assert [line.split(" images were")[0] for line in told] == [f"--data: {MOST_BROKEN}", f"--val: {MOST_BROKEN}"]
    # The whole images again: what was worked out from others in their place isn't recalled.
    shutil.rmtree(images)
    shutil.copytree(SAMPLE / "digits", images)
    compress(images, tmp_path / "again.onnx")
    compress(images, tmp_path / "fresh.onnx", cache=False)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "fresh.onnx").read_bytes()


@pytest.mark.parametrize(
    ("folder", "stage"),
    [
        *(("calib", stage) for stage in ("moments", "scores", "refitting", "recovery")),
        *(("val", stage) for stage in ("baseline", "validating", "evaluating")),
    ],
)
def test_a_folder_that_vanishes_ends_the_run(folder: str, stage: str, images: Path, tmp_path: Path) -> None:
    def take(found: str, _: int) -> None:
        if found == stage:
            shutil.rmtree(images / folder)

    output = tmp_path / "small.onnx"
    with pytest.raises(DataError, match=r"^\d+ images can't be used, more than 1% of them; one is the following: '"):
        compress(images, output, Listener(take))
    left = {path.name for path in tmp_path.iterdir()} - {"cache", "digits"}
    # The last one measures a model that was found valid.
    assert left == ({"small.onnx"} if stage == "evaluating" else set())
    if left:
        assert Session(output).outputs


def test_images_to_choose_on_and_for_the_claim_that_vanish_end_a_search(images: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"target_macs": None, "max_drop": 20.0, "minimize": "macs", "recover": "none"}
    compress(images, tmp_path / "first.onnx", **options)
    whole = Listener(lambda *_: None)
    compress(images, tmp_path / "whole.onnx", whole, **options)
    tries = [at for at, stage in enumerate(whole.stages) if stage == "trying"]
    # The last one is the claim's.
    for number in (tries[0], tries[-1]):
        taking = Listener(lambda _, at, number=number: shutil.rmtree(images / "val") if at == number else None)
        with pytest.raises(DataError, match="more than 1% of them"):
            compress(images, tmp_path / "small.onnx", taking, **options)
        assert len(taking.stages) == number + 1
        assert not (tmp_path / "small.onnx").exists()
        shutil.copytree(SAMPLE / "digits" / "val", images / "val")
