"""The part of a report that tells how a run came to its result: by the clock, by a search, by the recovery."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_basisprune.figures import Accuracy, Interval, Speedup


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
        hurried: Whether `--time-limit` left time for fewer steps only than were asked for.
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
    hurried: bool = False


@dataclass(frozen=True)
class FrontierPoint:
    """One size on the trade-off between accuracy and time, multiply-adds or parameters.

    Attributes:
        unit: What its budget was counted in: `macs`, `params` or `latency`.
        target: The fraction to keep that its plan was made for.
        chosen: Whether it is the model that was written.
        recovered: Whether weights were tuned.
        macs: Multiply-adds for one image.
        parameters: Elements of all floating-point weights.
        speedup: Measured against the original; `None` where it couldn't be.
        accuracy: On images that it wasn't calibrated on, the same for all points: those that a search chooses on, else
            the validation images.
        drop_pp: Loss of accuracy on them in percentage points; without labels 100 minus the agreement in percent.
    """

    unit: str
    target: float
    chosen: bool
    recovered: bool
    macs: int
    parameters: int
    speedup: Speedup | None
    accuracy: Accuracy
    drop_pp: Interval
