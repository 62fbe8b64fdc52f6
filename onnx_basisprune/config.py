"""The options of a compression run: one field per command-line option, by the same name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onnx_basisprune.errors import ConfigError

DEFAULT_TARGET_MACS = 0.5


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
class CompressionConfig(PreprocessConfig):
    """Every option of `basisprune compress`; see `basisprune compress --help` for their meaning.

    Attributes:
        model: The ONNX file to compress; never written to.
        data: Calibration images: a folder or an `.npz`.
        output: Where the compressed model goes; `None` is `<model>.pruned.onnx` beside the model.
        val: Images for the reported figures; `None` splits a fifth off `data`.
        labels: JSON from folder or file name to class index.
        limit: At most this many images of `data` are used for calibration.
        batch_size: Images per batch in calibration and evaluation.
        threads: onnxruntime's intra-op threads for every latency; `None` is onnxruntime's default.
        seed: Seeds every random choice.
        target_macs: Fraction of the multiply-adds to keep.
        target_params: Fraction of the parameters to keep.
        basis: `fisher` (data-aware) or `svd` (published).
        prune: What is removed: `basis` channels.
        recover: `scale` tunes scaling factors, biases and the final classifier; `none` nothing.
        recover_steps: Optimiser steps of the recovery.
        augment: Augmentation during the recovery.
        exclude: Names of nodes that are left as they are.
        report: Where the JSON report goes.
        dry_run: Plan and predict only; nothing is written.
        force: Allow an existing output or report file to be replaced.
    """

    model: Path = Path("model.onnx")
    data: Path = Path("data")
    output: Path | None = None
    val: Path | None = None
    labels: Path | None = None
    limit: int | None = 2000
    batch_size: int = 64
    threads: int | None = None
    seed: int = 0
    target_macs: float | None = None
    target_params: float | None = None
    basis: Literal["fisher", "svd"] = "fisher"
    prune: Literal["basis"] = "basis"
    recover: Literal["none", "scale"] = "scale"
    recover_steps: int = 300
    augment: Literal["none", "shift", "shift+flip"] = "shift"
    exclude: tuple[str, ...] = ()
    report: Path | None = None
    dry_run: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no run can use.

        Raises:
            ConfigError: A target isn't in (0, 1], both targets are given, or a count is too small.
        """
        if self.target_macs is not None and self.target_params is not None:
            raise ConfigError("--target-macs and --target-params can't both be given: choose one budget.")
        for option, target in (("--target-macs", self.target_macs), ("--target-params", self.target_params)):
            if target is not None and not 0.0 < target <= 1.0:
                raise ConfigError(f"{option} is {target:g}; expected the fraction to keep, over 0 and at most 1.")
        for option, count in (("--limit", self.limit), ("--batch-size", self.batch_size), ("--threads", self.threads)):
            if count is not None and count < 1:
                raise ConfigError(f"{option} is {count}; expected at least 1.")
        if self.recover_steps < 0:
            raise ConfigError(f"--recover-steps is {self.recover_steps}; expected 0 or more.")
        if self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}; expected 0 or more.")
