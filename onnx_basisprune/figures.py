"""What is measured of a model: size, speed and accuracy, with their intervals."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its 95 % confidence interval, all in the same unit.

    Attributes:
        estimate: What is most likely.
        low: The interval's lower end.
        high: Its upper end.
    """

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
    """Time of one run of one batch, in milliseconds, with what it was measured on.

    Attributes:
        median_ms: Median time of a run.
        p90_ms: Nine of ten runs take no longer.
        batch_size: Images in a run.
        runs: How many runs were timed.
    """

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
    """Old time divided by new time, with a 95 % interval over paired runs.

    Attributes:
        median: The speed-up: 2 is twice as fast, below 1 is slower.
        low: The interval's lower end.
        high: Its upper end.
    """

    median: float
    low: float
    high: float
