"""What a run hands back: frozen dataclasses whose field names are the report's JSON keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its 95 % confidence interval, all in the same unit."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Accuracy:
    """How often a model is right on `n` images.

    Attributes:
        n: Images looked at.
        top1: Fraction whose best class is the label; `None` without labels.
        top5: Fraction whose label is among the best five classes; `None` without labels or below 6 classes.
        agreement: Fraction whose best class is the original model's; `None` where there is no original.
        interval: 95 % interval of `top1`, or of `agreement` where there are no labels.
    """

    n: int
    top1: float | None = None
    top5: float | None = None
    agreement: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class Latency:
    """Time of one run of one batch, in milliseconds, with what it was measured on."""

    median_ms: float
    p90_ms: float
    batch_size: int
    runs: int


@dataclass(frozen=True)
class ModelMeasurement:
    """One model's size, speed and accuracy.

    Attributes:
        macs: Multiply-adds for one image.
        parameters: Elements of all floating-point weights.
        file_bytes: Size of the file; of a dry run's compressed model `None`.
        uncounted_ops: op_types that have no cost entry.
        latency: Measured with onnxruntime; `None` in a dry run.
        accuracy: On the validation images; `None` in a dry run.
    """

    macs: int
    parameters: int
    file_bytes: int | None
    uncounted_ops: tuple[str, ...] = ()
    latency: Latency | None = None
    accuracy: Accuracy | None = None


@dataclass(frozen=True)
class Speedup:
    """Old time divided by new time, with a 95 % interval over paired runs."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class LayerReport:
    """What became of one Conv.

    Attributes:
        name: The node's name in the input model (made unique where it had none).
        op_type: Always `Conv` for a decomposed layer.
        decomposed: Whether it was rewritten into basis conv + scaling conv.
        reason: Why it wasn't, else empty.
        full_rank: Components of the full basis; 0 where the layer isn't eligible.
        rank: Components kept; `full_rank` where undecomposed.
        macs_before: Multiply-adds for one image in the input model.
        macs_after: The same in the compressed model.
        parameters_before: Weights and biases in the input model.
        parameters_after: The same in the compressed model.
        removed_score: Sum of the removed components' scores: the predicted loss of this layer.
    """

    name: str
    op_type: str
    decomposed: bool
    reason: str
    full_rank: int
    rank: int
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    removed_score: float


@dataclass(frozen=True)
class GroupReport:
    """What became of one dependency group: channels that can only go together.

    Attributes:
        name: The first node that makes its channels.
        channels: How many there were.
        kept: How many stay.
        blocked_by: Why they must stay, else empty.
    """

    name: str
    channels: int
    kept: int
    blocked_by: str


@dataclass(frozen=True)
class Gate:
    """One pass-or-fail line: what was asked, what was reached."""

    name: str
    asked: float
    reached: float
    passed: bool


@dataclass(frozen=True)
class TimingReport:
    """How the plan was held to the clock.

    Attributes:
        table_sha256: Of the latency table with all times that the plan was made with.
        block: Channel counts that onnxruntime's kernels fill up to a multiple of.
        align: Ranks and kept channels are multiples of this.
        predicted: Time of the planned model by the table, as a fraction of the original's; `None` where the budget
            wasn't one of time.
        measured: The same by the clock, before the recovery; `None` where it wasn't measured.
        plans: How many plans were timed.
    """

    table_sha256: str
    block: int
    align: int
    predicted: float | None = None
    measured: float | None = None
    plans: int = 0


@dataclass(frozen=True)
class SearchLook:
    """One budget that a search tried.

    Attributes:
        target: The fraction to keep that the plan was made for.
        kept: The fraction that it keeps, by the forecast.
        recovered: Whether it was recovered.
        drop_pp: Drop on the images that candidates are chosen on, in percentage points.
        standard_error_pp: Its standard error.
        accepted: Whether the sum of the two is within the bound.
        seconds: What the look took.
    """

    target: float
    kept: float
    recovered: bool
    drop_pp: float
    standard_error_pp: float
    accepted: bool
    seconds: float


@dataclass(frozen=True)
class SearchReport:
    """The course of a search for the smallest model within a bound.

    Attributes:
        minimize: What was made small: `macs`, `params` or `latency`.
        max_drop_pp: The bound, in percentage points.
        images: How many candidates were chosen on.
        looks: What was tried, in order.
        claims: How often the images for the claim were looked at: once, unless the claim failed.
        stopped: Whether the time limit ended it.
    """

    minimize: str
    max_drop_pp: float
    images: int
    looks: tuple[SearchLook, ...]
    claims: int
    stopped: bool


@dataclass(frozen=True)
class RecoveryReport:
    """The recovery's course.

    Attributes:
        mode: `scale` or `full`.
        steps: Optimiser steps taken, those of attempts that were given up included.
        kept: Whether the tuned values were kept (they are dropped where they made nothing better).
        held_out_loss_before: Distillation loss on held-out calibration images before.
        held_out_loss_after: The same for the values that were kept.
        curve: `(step, held-out loss, learning rate)` at each check.
        learning_rate: The highest of the last attempt, as a fraction of each weight's size per step.
        precision: What the steps' products were rounded to: `bfloat16` where that is faster, else `float32`.
        images_per_second: Images learned from divided by the seconds that it took, with all checks.
    """

    mode: str
    steps: int
    kept: bool
    held_out_loss_before: float
    held_out_loss_after: float
    curve: tuple[tuple[int, float, float], ...] = ()
    learning_rate: float | None = None
    precision: str = "float32"
    images_per_second: float | None = None


@dataclass(frozen=True)
class ClassReport:
    """How accurate both models are on the `n` images of one class.

    Attributes:
        index: The class's index in the models' output.
        name: Its folder's name; `None` where there is none.
        n: Images with this label, at least 1.
        top1_before: Fraction of them that the original model has right.
        top1_after: The same for the compressed model.
        drop_pp: Before minus after, in percentage points.
    """

    index: int
    name: str | None
    n: int
    top1_before: float
    top1_after: float
    drop_pp: float


@dataclass(frozen=True)
class CompressionReport:
    """Everything a run found out; `reporting.render_json` writes it with these keys."""

    config: dict[str, Any]
    environment: dict[str, Any]
    original: ModelMeasurement
    compressed: ModelMeasurement
    speedup: Speedup | None
    drop_pp: Interval | None
    layers: tuple[LayerReport, ...]
    groups: tuple[GroupReport, ...]
    gates: tuple[Gate, ...]
    recovery: RecoveryReport | None
    timings: dict[str, float]
    timing: TimingReport | None = None
    search: SearchReport | None = None
    warnings: tuple[str, ...] = ()
    frontier: tuple[Any, ...] = ()
    per_class: tuple[ClassReport, ...] = ()
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class EvaluationReport:
    """How often a model is right; accuracies are fractions, `drop_pp` percentage points.

    Attributes:
        config: Every option.
        environment: What it was measured on.
        preprocess: The preset that was used, `none` for float data.
        accuracy: Of the model; `agreement` is with the reference.
        reference: Of the reference on the same images; `None` where none was given.
        drop_pp: Reference minus model; without labels 100 minus the agreement in percent.
        warnings: What the user should look at.
    """

    config: dict[str, Any]
    environment: dict[str, Any]
    preprocess: str
    accuracy: Accuracy
    reference: Accuracy | None = None
    drop_pp: Interval | None = None
    warnings: tuple[str, ...] = ()
    format_version: int = FORMAT_VERSION
