"""The options of each command: one field per command-line option, by the same name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onnx_basisprune.errors import ConfigError
from onnx_basisprune.limits import GateLimits

DEFAULT_MAX_DROP = 1.0
DEFAULT_PROVIDER = "cpu"
# Of a search, in percentage points: no number of images can tell less.
_LEAST_DROP = 1e-6


@dataclass(frozen=True)
class PreprocessConfig:
    """How images become the model's input; `None` means that the preset or the model decides.

    Attributes:
        preprocess: `auto` or the name of a preset (`imagenet`, `unit`, `tf`, `raw`, `caffe`).
        mean: Subtracted per channel after scaling, in the order of `color`.
        std: Divided by per channel after the mean.
        scale: Multiplies the 0..255 pixel values first.
        resize: Shorter side in pixels before the crop; 0 for no resize.
        crop: Side of the centre crop in pixels; 0 for no crop.
        color: `rgb`, `bgr` or `gray`.
        layout: `nchw` or `nhwc`.
    """

    preprocess: str = "auto"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    resize: int | None = None
    crop: int | None = None
    color: Literal["rgb", "bgr", "gray"] | None = None
    layout: Literal["nchw", "nhwc"] | None = None


@dataclass(frozen=True)
class CompressionConfig(PreprocessConfig, GateLimits):
    """Every option of `basisprune compress`; see `basisprune compress --help` for their meaning.

    The gates are those of `GateLimits`.

    Attributes:
        model: The ONNX file to compress; never written to.
        data: Calibration images: a folder or an `.npz`.
        output: Where the compressed model goes; `None` is `<model>.pruned.onnx` beside the model.
        val: Images for the reported figures; `None` splits a fifth off `data`.
        labels: JSON from folder or file name to class index.
        scores: Name of the model's output that holds the class scores; `None` for its first floating-point one.
        feed: What inputs beside the images are fed, each as `NAME=VALUE`.
        limit: At most this many images of `data` are used for calibration.
        batch_size: Images per batch in calibration and evaluation.
        threads: onnxruntime's intra-op threads for every latency; `None` is onnxruntime's default.
        seed: Seeds every random choice.
        target_macs: Fraction of the multiply-adds to keep.
        target_params: Fraction of the parameters to keep.
        target_latency: Fraction of onnxruntime's measured time to keep.
        max_drop: The smallest model that loses at most so many percentage points is searched, 1 by default (see
            `bound`). Where a target or a plan says what to keep, no more than a gate.
        minimize: What that search makes small.
        time_limit: Seconds after which a search, or what `frontier` looks at, ends; `None` for no limit.
        align: Ranks and kept channels are multiples of this; `auto` is what onnxruntime's kernels want on this
            machine, or 1 where slower layers are allowed.
        allow_slower: Under a budget of MACs or parameters, don't look at time at all.
        frontier: Measure several other sizes, too, and show the trade-off.
        cache: Go on from what earlier runs with the same model, images and options have found out, and keep what this
            one does.
        latency_table: A file of measured times to read, or to make where it doesn't exist; `None` is the one in the
            user's cache folder.
        provider: onnxruntime's execution provider, such as `cpu`, in any case, with or without its ending.
        benchmark_batch_size: Images in a run for every latency; `None` is the model's own, or 1.
        basis: `fisher` (data-aware) or `svd` (published).
        prune: What is removed: `basis` components, coupled output `channels`, or both (`double`).
        rounds: How many times statistics are taken anew on the way to the budget.
        recover: `scale` tunes scaling factors, biases and the final classifier; `full` all weights; `none` nothing.
        recover_steps: Optimiser steps of the recovery.
        augment: Augmentation during the recovery.
        exclude: Names of nodes that are left as they are.
        plan: A saved plan to apply; no budget is given then, and components and channels are chosen anew.
        save_plan: Where the plan goes that was made.
        report: Where the JSON report goes.
        html: Where the report goes as a page to look at.
        dry_run: Plan and predict only; nothing is written.
        force: Allow an existing output or report file to be replaced.
    """

    model: Path = Path("model.onnx")
    data: Path = Path("data")
    output: Path | None = None
    val: Path | None = None
    labels: Path | None = None
    scores: str | None = None
    feed: tuple[str, ...] = ()
    limit: int | None = 2000
    batch_size: int = 64
    threads: int | None = None
    seed: int = 0
    target_macs: float | None = None
    target_params: float | None = None
    target_latency: float | None = None
    max_drop: float | None = None
    minimize: Literal["latency", "macs", "params"] = "latency"
    time_limit: float | None = None
    align: int | Literal["auto"] = "auto"
    allow_slower: bool = False
    frontier: bool = False
    cache: bool = True
    latency_table: Path | None = None
    provider: str = DEFAULT_PROVIDER
    benchmark_batch_size: int | None = None
    basis: Literal["fisher", "svd"] = "fisher"
    prune: Literal["basis", "channels", "double"] = "double"
    recover: Literal["none", "scale", "full"] = "scale"
    recover_steps: int = 300
    augment: Literal["none", "shift", "shift+flip"] = "shift"
    exclude: tuple[str, ...] = ()
    rounds: int = 1
    plan: Path | None = None
    save_plan: Path | None = None
    report: Path | None = None
    html: Path | None = None
    dry_run: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no run can use.

        Raises:
            ConfigError: A target isn't in (0, 1], both targets are given, a count is too small, or a gate's bound can't
                be met or missed.
        """
        super().__post_init__()
        given = self._list_targets()
        self._check_plan(given)
        if self.bound is not None:
            self._check_search()
        else:
            self._check_no_search()
        if self.time_limit is not None and not self.time_limit > 0:
            raise ConfigError(f"--time-limit is {self.time_limit:g} s; expected more than 0.")
        if self.frontier and self.dry_run:
            raise ConfigError("--dry-run makes no model, and --frontier looks at several: leave one of them out.")
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} can't both be given: choose one budget.")
        for option, target in given.items():
            if not 0.0 < target <= 1.0:
                raise ConfigError(f"{option} is {target:g}; expected the fraction to keep, over 0 and at most 1.")
        if self.allow_slower and self.target_latency is not None:
            raise ConfigError("--allow-slower and --target-latency contradict each other: choose one.")
        self._check_counts()

    @property
    def bound(self) -> float | None:
        """The largest drop that a search may accept, in percentage points; `None` where a target or plan is given."""
        if self.plan is not None or self._list_targets():
            return None
        return DEFAULT_MAX_DROP if self.max_drop is None else self.max_drop

    @property
    def is_recovered(self) -> bool:
        """Whether what was cut is tuned afterwards."""
        return self.recover != "none" and self.recover_steps > 0

    def _list_targets(self) -> dict[str, float]:
        """Return the targets that are given, by option."""
        targets = {
            "--target-macs": self.target_macs,
            "--target-params": self.target_params,
            "--target-latency": self.target_latency,
        }
        return {option: target for option, target in targets.items() if target is not None}

    def _check_counts(self) -> None:
        """Refuse counts that are too small."""
        for option, count in (
            ("--limit", self.limit),
            ("--batch-size", self.batch_size),
            ("--threads", self.threads),
            ("--rounds", self.rounds),
            ("--align", None if self.align == "auto" else self.align),
            ("--benchmark-batch-size", self.benchmark_batch_size),
        ):
            if count is not None and count < 1:
                raise ConfigError(f"{option} is {count}; expected at least 1.")
        if self.recover_steps < 0:
            raise ConfigError(f"--recover-steps is {self.recover_steps}; expected 0 or more.")
        if self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}; expected 0 or more.")

    def _check_plan(self, targets: Mapping[str, float]) -> None:
        """Refuse options that say otherwise what `plan` says."""
        if self.plan is None:
            return
        for option in targets:
            raise ConfigError(f"--plan and {option} can't both be given: a plan says what is kept.")
        if self.save_plan is not None:
            raise ConfigError("--plan and --save-plan can't both be given: the plan would be the same one.")
        if self.rounds > 1:
            raise ConfigError("--rounds goes down to a target, which --plan doesn't have: leave one of them out.")

    def _check_no_search(self) -> None:
        """Refuse options that are for a search, where there is a target or a plan."""
        if self.time_limit is not None and not self.frontier:
            raise ConfigError("--time-limit ends a search for --max-drop, which a target or a plan doesn't need.")
        if self.minimize != CompressionConfig.minimize:
            raise ConfigError(
                f"--minimize {self.minimize} is for a search for --max-drop, which a target or a plan doesn't need."
            )

    def _check_search(self) -> None:
        """Refuse options that a search for `bound` can't use."""
        if self.max_drop is not None and not _LEAST_DROP <= self.max_drop < 100.0:
            raise ConfigError(
                f"--max-drop is {self.max_drop:g}; expected percentage points, at least {_LEAST_DROP:g} and below 100."
            )
        if self.dry_run:
            raise ConfigError(
                "--dry-run makes no model, and --max-drop (the default) looks at models: give a target, such as "
                "--target-macs 0.5."
            )
        if self.rounds > 1:
            raise ConfigError(
                "--rounds goes down to a target, which --max-drop (the default) doesn't have: give one, such as "
                "--target-macs 0.2."
            )
        if self.allow_slower and self.minimize == "latency":
            raise ConfigError(
                "--allow-slower and --minimize latency (the default) contradict each other: add --minimize macs or "
                "params, or a target."
            )
