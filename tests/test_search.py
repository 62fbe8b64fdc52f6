"""The search for the smallest model within a bound: what it tries, accepts, claims, and when it stops."""

from __future__ import annotations

from collections.abc import Callable
from math import floor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnx_basisprune.progress as progress
import onnx_basisprune.search as search
from onnx_basisprune.candidates import Candidate
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.errors import ConfigError
from onnx_basisprune.pipeline import compress
from onnx_basisprune.planning.types import Plan
from onnx_basisprune.pricing import Pricing
from onnx_basisprune.progress import Recorder, Silence
from onnx_basisprune.results import CompressionReport, SearchReport
from onnx_basisprune.runtime.evaluation import Predictions, estimate_standard_error
from onnx_basisprune.search import Search, check_images, search_candidate
from onnx_basisprune.tried import Tried, choose_step_back, measure_rise

COUNT = 10_000
SHARED = Path(__file__).resolve().parents[2] / "shared"
Drop = Callable[[float, bool], float]


def predict(drop: float) -> Predictions:
    """`drop` points fewer right than the original, which is always right."""
    classes = np.zeros(COUNT, dtype=np.int64)
    classes[: round(drop * COUNT / 100)] = 1
    return Predictions(classes, 10, np.zeros(COUNT, dtype=np.int64), None)


class World:
    """A made-up network: what a target loses, with and without recovery, on the images to choose and to claim on."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        drop: Drop,
        *,
        claimed: Drop | None = None,
        least: float = 0.0,
        seconds: float = 1.0,
        slower: float = 1.0,
        step: float = 0.0,
        **options: Any,
    ) -> None:
        self.built: list[tuple[float, bool]] = []
        self.clock, self.hurried = 0.0, 0
        config = CompressionConfig(max_drop=1.0, minimize="params", **options)
        recorder = Recorder(Silence())
        recorder.started = 0.0
        network = SimpleNamespace(model="the original")
        run = SimpleNamespace(
            config=config, recorder=recorder, validation=range(COUNT), baseline=predict(0.0), network=network
        )

        def plan(target: float) -> SimpleNamespace:
            kept = max(target, least) if step == 0.0 else max(least, step * floor(target / step + 1e-9))
            return SimpleNamespace(
                left=kept * 100.0, reached=target >= least, plan=Plan({}, {"h": np.arange(round(1e6 * kept))})
            )

        def plan_nothing() -> SimpleNamespace:
            return SimpleNamespace(left=100.0, reached=True, plan=Plan({}, {}))

        def count_kept(planned: SimpleNamespace) -> float:
            return float(planned.left / 100.0)

        def build(
            _run: Any, _prospect: Any, planned: SimpleNamespace, *, tune: bool, deadline: float | None
        ) -> SimpleNamespace:
            takes = seconds * (slower if tune else 1.0)
            if tune and deadline is not None and self.clock + takes > deadline:
                takes = max(deadline - self.clock, 0.05 * takes)
                self.hurried += 1
            self.clock += takes
            recorder.advance(1.0)
            self.built.append((planned.left / 100, tune))
            return Candidate(planned, "a model", "its course" if tune else None)  # type: ignore[arg-type]

        def say(_run: Any, candidate: Candidate, images: range) -> Predictions:
            lost = claimed if images is run.validation and claimed is not None else drop
            return predict(lost(candidate.planned.left / 100, candidate.recovery is not None))

        monkeypatch.setattr(search, "build_candidate", build)
        monkeypatch.setattr(search, "predict_candidate", say)
        for module in (search, progress):
            monkeypatch.setattr(module, "perf_counter", lambda: self.clock)
        self.outlook: Any = SimpleNamespace(
            run=run,
            unit="params",
            whole=100.0,
            untouched=network,
            prospect=None,
            plan=plan,
            plan_nothing=plan_nothing,
            count_kept=count_kept,
        )

    def run(self) -> tuple[Any, Any]:
        trial: Any = SimpleNamespace(images=range(COUNT), baseline=predict(0.0))
        return search_candidate(self.outlook, trial, 1.0)


def lose_below(quick: float, tuned: float) -> Drop:
    """Nothing is lost down to a target, everything below it."""
    return lambda kept, tune: 0.0 if kept >= (tuned if tune else quick) else 50.0


def test_the_smallest_budget_that_holds_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, lose_below(0.4, 0.23))
    candidate, report = world.run()
    kept = candidate.planned.left / 100
    assert 0.23 <= kept <= 0.23 * 1.07
    assert candidate.recovery
    assert report.claims == 1
    assert not report.stopped
    assert [look.accepted for look in report.looks] == [
        kept >= (0.23 if tune else 0.4) for kept, tune in world.built[: len(report.looks)]
    ]
    # Recovery is slow: it is only tried around what it decides.
    assert sum(look.recovered for look in report.looks) <= 8


def test_the_drop_counts_with_its_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # 0.95 pp is below the bound, but on 10,000 images its error is 0.097.
    near = World(monkeypatch, lambda kept, _: 0.0 if kept > 0.5 else 0.95)
    assert near.run()[0].planned.left > 50
    far = World(monkeypatch, lambda _kept, _tune: 0.85)
    assert far.run()[0].planned.left < 2


def test_a_failed_claim_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, lose_below(0.4, 0.2), claimed=lose_below(0.3, 0.3))
    candidate, report = world.run()
    # Not as far as to the next that the search had accepted, 0.4 without recovery, though the claim was far off.
    assert 0.3 <= candidate.planned.left / 100 <= 0.3 * 1.3
    assert candidate.recovery
    assert report.claims > 1


def test_what_was_accepted_without_recovery_is_recovered_before_it_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, lose_below(0.4, 0.2), claimed=lambda kept, tune: 0.0 if tune and kept >= 0.395 else 5.0)
    candidate, _ = world.run()
    assert 0.395 <= candidate.planned.left / 100 <= 0.4 * 1.15
    assert candidate.recovery


def test_stepping_back_ends_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    claimed = lose_below(0.3, 0.3)
    whole = World(monkeypatch, lose_below(0.4, 0.2), claimed=claimed, seconds=10.0)
    count = sum(look.target < 0.3 for look in whole.run()[1].looks)
    short = World(monkeypatch, lose_below(0.4, 0.2), claimed=claimed, seconds=10.0, time_limit=10.0 * count + 5)
    candidate, report = short.run()
    assert report.stopped
    assert short.clock <= 10.0 * count + 5
    # What the search had accepted before is what is left.
    assert 0.4 <= candidate.planned.left / 100 <= 0.4 * 1.3
    assert not candidate.recovery


def test_after_a_near_miss_the_step_back_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    # The drop falls with the square of what is kept; at 0.25 it is 1.0, the most that holds.
    world = World(monkeypatch, lose_below(0.4, 0.2), claimed=lambda kept, _: (0.25 / kept) ** 2)
    candidate, report = world.run()
    assert 0.25 <= candidate.planned.left / 100 <= 0.25 * 1.1
    assert report.claims <= 3


def test_without_the_time_for_a_recovery_the_search_steps_back_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # What was accepted fails, with recovery and without; there is time for more looks of a second, none for one of 50.
    claimed = lose_below(0.55, 0.55)
    world = World(monkeypatch, lose_below(0.4, 0.2), claimed=claimed, slower=50.0, time_limit=120.0)
    candidate, report = world.run()
    assert report.stopped
    assert 0.55 <= candidate.planned.left / 100 <= 0.55 * 1.3
    assert not candidate.recovery
    assert world.clock <= 120.0


def test_the_search_leaves_time_to_step_back(monkeypatch: pytest.MonkeyPatch) -> None:
    # A recovery takes 50 s. A fourth look for what is smaller than 0.21, which fails its claim, would be the last.
    claimed = lose_below(0.25, 0.25)
    world = World(monkeypatch, lose_below(0.4, 0.1), claimed=claimed, slower=50.0, time_limit=230.0)
    candidate, report = world.run()
    assert report.stopped
    assert candidate.recovery
    assert 0.25 <= candidate.planned.left / 100 < 0.29
    assert world.clock <= 230.0


def test_where_a_claim_fails_the_last_recovery_hurries(monkeypatch: pytest.MonkeyPatch) -> None:
    # There is time for half of one more look of 50 s: without it, 0.4 and more would be left.
    claimed = lose_below(0.25, 0.25)
    world = World(monkeypatch, lose_below(0.4, 0.2), claimed=claimed, slower=50.0, time_limit=195.0)
    candidate, _ = world.run()
    assert world.hurried == 1
    assert candidate.recovery
    assert 0.25 <= candidate.planned.left / 100 < 0.29
    assert world.clock <= 195.0


@pytest.mark.parametrize(
    ("chosen", "claimed", "holds"),
    [
        pytest.param(0.88, 0.95, True, id="both-with-their-error"),
        pytest.param(0.88, 0.99, False, id="not-both-with-their-error"),
        pytest.param(0.0, 0.99, True, id="better-on-the-others"),
        pytest.param(0.0, 1.01, False, id="not-alone"),
    ],
)
def test_a_claim_holds_alone_and_with_the_standard_error_of_both_parts(
    monkeypatch: pytest.MonkeyPatch, chosen: float, claimed: float, *, holds: bool
) -> None:
    # Two parts of 10,000 images each: 0.88 and 0.95 pp are 0.915 with a standard error of 0.067.
    world = World(monkeypatch, lambda _kept, _tune: chosen, claimed=lambda _kept, _tune: claimed, least=0.3)
    candidate, report = world.run()
    assert (candidate.planned.left == 30) == holds
    assert (report.claims == 1) == holds
    if not holds:
        assert candidate.planned.left == 100


@pytest.mark.parametrize(("claimed", "strict"), [(0.9, False), (0.9, True), (0.75, True)])
def test_strict_judges_by_the_end_of_the_interval(
    monkeypatch: pytest.MonkeyPatch, claimed: float, *, strict: bool
) -> None:
    # The interval of 0.9 pp on 10,000 images ends at 1.11, that of 0.75 at 0.94.
    world = World(monkeypatch, lambda _kept, _tune: 0.0, claimed=lambda _kept, _tune: claimed, least=0.3, strict=strict)
    assert world.run()[0].planned.left == (100 if strict and claimed > 0.8 else 30)
    # What is chosen counts with 1.96 errors of 0.095 as well.
    near = World(monkeypatch, lambda kept, _: 0.0 if kept > 0.5 else 0.87, strict=strict)
    assert (near.run()[0].planned.left > 50) == strict


@pytest.mark.parametrize(("count", "strict", "tries"), [(97, False, False), (98, False, True), (370, True, False)])
def test_where_nothing_could_hold_nothing_is_tried(
    monkeypatch: pytest.MonkeyPatch, count: int, *, strict: bool, tries: bool
) -> None:
    # That no image differs on 98 leaves one point of doubt; the interval of none in 370 ends at 1.03.
    world = World(monkeypatch, lambda _kept, _tune: 0.0, strict=strict, least=0.5)
    classes = np.zeros(count, dtype=np.int64)
    same = Predictions(classes, 10, classes, None)
    monkeypatch.setattr(search, "predict_candidate", lambda *_: same)
    world.outlook.run.baseline = same
    trial: Any = SimpleNamespace(images=range(count), baseline=same)
    candidate, report = search_candidate(world.outlook, trial, 1.0)
    assert (candidate.planned.left, len(report.looks) > 0) == ((50, True) if tries else (100, False))
    assert any("nothing is tried" in warning for warning in world.outlook.run.recorder.warnings) != tries


def test_of_nothing_nothing_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, lambda _kept, _tune: 0.0)
    world.outlook.whole = 0.0
    candidate, report = world.run()
    assert (candidate.model, report.looks) == ("the original", ())


def test_a_later_claim_is_judged_like_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, lose_below(0.4, 0.2), claimed=lambda kept, _tune: 5.0 if kept < 0.22 else 1.01)
    candidate, report = world.run()
    assert candidate.planned.left == 100
    assert report.claims > 1


def test_where_nothing_holds_the_model_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, lambda _kept, _tune: 5.0)
    candidate, report = world.run()
    assert candidate.planned.left == 100
    assert (candidate.model, candidate.recovery, report.claims) == ("the original", None, 0)
    assert not any(look.accepted for look in report.looks)


def test_the_end_of_what_can_go_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, lambda _kept, _tune: 0.0, least=0.3)
    candidate, report = world.run()
    assert candidate.planned.left == 30
    assert sum(look.recovered for look in report.looks) <= 2


def test_where_the_smallest_there_is_loses_too_much_the_search_goes_on_above_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, lose_below(0.6, 0.45), least=0.3)
    candidate, report = world.run()
    assert 0.45 <= candidate.planned.left / 100 <= 0.45 * 1.07
    quick = [look for look in report.looks if not look.recovered]
    # Below what is left at least all plans are the same one.
    assert sum(look.kept == 0.3 for look in report.looks) == 1
    assert min(look.kept for look in quick if look.accepted) <= 0.6 * 1.3


@pytest.mark.parametrize("step", [0.05, 0.2])
def test_between_two_plans_that_there_are_nothing_is_tried_twice(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    world = World(monkeypatch, lose_below(0.6, 0.35), claimed=lose_below(0.5, 0.5), least=0.1, step=step)
    candidate, report = world.run()
    assert 0.5 - 1e-9 <= candidate.planned.left / 100 <= 0.5 * 1.3
    assert len(set(world.built)) == len(world.built) == len(report.looks)
    assert len({look.kept for look in report.looks if look.recovered}) == sum(look.recovered for look in report.looks)


def test_a_recovery_that_spoils_the_smallest_plan_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, lambda _kept, tune: 5.0 if tune else 0.0, least=0.75)
    candidate, _ = world.run()
    assert (candidate.planned.left, candidate.recovery) == (75, None)
    assert world.built == [(0.75, False), (0.75, True)]


def test_without_recovery_only_quick_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, lose_below(0.4, 0.1), recover="none")
    candidate, report = world.run()
    assert 0.4 <= candidate.planned.left / 100 <= 0.4 * 1.07
    assert not any(look.recovered for look in report.looks)


def test_the_time_limit_ends_with_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, lose_below(0.4, 0.2), seconds=10.0, time_limit=75.0)
    candidate, report = world.run()
    assert report.stopped
    assert world.clock <= 75.0
    assert 0.2 <= candidate.planned.left / 100 < 1.0
    assert any("time limit" in warning for warning in world.outlook.run.recorder.warnings)


def test_a_recovery_that_takes_too_long_in_haste_too_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, lose_below(0.4, 0.2), slower=10_000.0, time_limit=75.0)
    candidate, report = world.run()
    assert report.stopped
    assert not candidate.recovery
    assert 0.4 <= candidate.planned.left / 100 <= 0.4 * 1.3
    # What comes after the search isn't held to its deadline.
    world.outlook.run.recorder.advance(1.0)


def test_a_limit_too_short_for_anything_leaves_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, lose_below(0.4, 0.2), time_limit=1e-9)
    world.clock = 1.0
    candidate, report = world.run()
    assert (candidate.planned.left, report.stopped, report.looks) == (100, True, ())


def test_a_line_through_what_was_found_saves_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    # The drop doubles with each halving of what is kept, as that of real networks does, roughly.
    tuned = 0.05
    world = World(monkeypatch, lambda kept, tune: (tuned if tune else 0.2) / kept * 0.9)
    candidate, report = world.run()
    kept = candidate.planned.left / 100
    assert tuned <= kept <= tuned * 1.15
    assert sum(look.recovered for look in report.looks) <= 7


def make_tried(kept: float, drop: float, error: float, *, tuned: bool = True) -> Tried:
    candidate: Any = None
    return Tried(candidate, kept, kept, kept, tuned, drop, error, drop + error - 1.0, 1.0)


def test_a_step_back_goes_as_far_as_the_drops_nearby_say() -> None:
    # They rise by 4 points with the logarithm; half a point too much is an eighth of it away.
    tried = [make_tried(kept, -4 * np.log(kept / 0.5), 0.3) for kept in (0.40, 0.45, 0.5, 0.55)]
    rise = measure_rise(tried, 0.4, 1.0)
    assert rise == pytest.approx(4)
    assert choose_step_back(1.2, 0.3, 1.0, rise) == pytest.approx(np.exp(0.5 / 4))
    # Far ones, hopeless ones and those that weren't recovered say nothing.
    others = [make_tried(0.9, 0, 0.3), make_tried(0.35, 9.0, 0.3), make_tried(0.41, 5, 0.3, tuned=False)]
    assert measure_rise([*tried, *others], 0.4, 1.0) == rise


@given(
    drop=st.floats(-20, 20),
    error=st.floats(0, 20),
    over=st.floats(-1e-12, 20),
    rise=st.floats(-1e6, 1e6) | st.just(0.0),
)
def test_a_step_back_is_one_whatever_chance_has_made_of_the_drops(
    drop: float, error: float, over: float, rise: float
) -> None:
    assert 1.03 <= choose_step_back(drop, error, drop + error - over, rise) < 1.27


@pytest.mark.parametrize(("bound", "count", "warned"), [(1.0, 799, True), (1.0, 800, False), (4.0, 200, False)])
def test_too_few_images_are_told(bound: float, count: int, warned: bool) -> None:
    assert (check_images(bound, count, "judged on") is not None) == warned


def test_a_bound_of_nothing_needs_no_number_of_images() -> None:
    assert check_images(0.0, 1, "judged on") is None
    assert str(check_images(1.0, 1, "judged on")).startswith("judged on 1 image, too few")


def test_standard_error_by_hand() -> None:
    labels = np.zeros(4, dtype=np.int64)
    original = Predictions(np.array([0, 0, 0, 1]), 10, labels, None)
    compressed = Predictions(np.array([1, 0, 0, 0]), 10, labels, None)
    # One lost, one won, and half of one each: a mean of 0 over six, of variance (2 + 1) / 6.
    assert estimate_standard_error(original, compressed) == pytest.approx(100 * np.sqrt(0.5 / 6), rel=1e-12)
    unlabelled = [Predictions(item.classes, 10, None, None) for item in (original, compressed)]
    # Two of four differ, and one of two more.
    assert estimate_standard_error(*unlabelled) == pytest.approx(100 * np.sqrt(0.25 / 6), rel=1e-12)


@pytest.mark.parametrize("labels", [True, False])
def test_a_few_images_that_do_not_differ_say_little(*, labels: bool) -> None:
    for count, most in ((1, 100.0), (10, 10.0), (1000, 0.11)):
        classes = np.zeros(count, dtype=np.int64)
        same = Predictions(classes, 10, classes if labels else None, None)
        assert most / 4 <= estimate_standard_error(same, same) <= most


@pytest.mark.parametrize(
    "options",
    [
        {"rounds": 2},
        {"max_drop": 0.0},
        {"time_limit": 0.0},
        {"allow_slower": True},
        {"dry_run": True},
    ],
)
def test_options_that_contradict_a_search(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        CompressionConfig(**{"max_drop": 1.0, **options})


def test_search_keeps_its_own_state(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, lose_below(0.4, 0.2))
    one, other = (Search(world.outlook, SimpleNamespace(images=[], baseline=predict(0.0)), 1.0) for _ in range(2))  # type: ignore[arg-type]
    one.try_target(0.5, tune=False)
    assert (len(one.tried), len(other.tried)) == (1, 0)


@pytest.mark.usefixtures("fake_clock")
def test_what_a_run_noted_of_the_clock_changes_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It holds for the target that it was found at, and says nothing of others: near the whole network it is wrong.
    samples = Path(__file__).resolve().parents[1] / "sample_models"

    def run(scale: float) -> SearchReport | None:
        monkeypatch.setattr(Pricing, "read_scale", lambda *_: scale)
        config = CompressionConfig(
            model=samples / "digits.onnx",
            data=samples / "digits" / "calib",
            output=tmp_path / "small.onnx",
            preprocess="imagenet",
            limit=100,
            max_drop=20.0,
            recover="none",
            threads=1,
            cache=False,
            force=True,
        )
        return compress(config).search

    reports = [run(scale) for scale in (1.0, 0.7, 1.4)]
    kept = [[(look.kept, look.accepted) for look in report.looks] for report in reports if report is not None]
    assert kept[0] == kept[1] == kept[2]
    assert any(accepted for _, accepted in kept[0])


def compress_at_once(model: Path, data: Path, output: Path, limit: int) -> CompressionReport:
    """Compress in a time that is over before anything could be tried."""
    return compress(
        CompressionConfig(
            model=model,
            data=data,
            output=output,
            preprocess="imagenet",
            limit=limit,
            minimize="macs",
            time_limit=1e-3,
            threads=1,
        )
    )


@pytest.mark.usefixtures("fake_clock")
def test_where_nothing_holds_the_original_is_written(tmp_path: Path) -> None:
    samples = Path(__file__).resolve().parents[1] / "sample_models"
    report = compress_at_once(samples / "digits.onnx", samples / "digits" / "calib", tmp_path / "same.onnx", limit=100)
    assert report.search is not None
    assert (report.search.looks, report.search.claims) == ((), 0)
    assert report.compressed.macs == report.original.macs
    assert report.drop_pp is not None
    assert report.drop_pp.estimate == 0
    assert all(gate.passed for gate in report.gates if gate.name != "not_slower")
    assert any("stays as it is" in warning for warning in report.warnings)


@pytest.mark.usefixtures("fake_clock")
@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared")
def test_the_original_is_written_as_it_is_where_macs_count(tmp_path: Path) -> None:
    # Its strided shortcuts as Convs would take more of them.
    model, data = SHARED / "models" / "resnet20_cifar10.onnx", SHARED / "data" / "cifar10" / "calib"
    report = compress_at_once(model, data, tmp_path / "same.onnx", limit=64)
    assert report.compressed.macs == report.original.macs
    assert report.compressed.parameters == report.original.parameters
    # A millisecond is over before the passes: they aren't gone through for nothing.
    assert report.search is not None
    assert report.search.stopped
    assert "scores" not in report.timings
