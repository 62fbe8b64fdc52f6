"""The options of `evaluate` and `benchmark`: one field per command-line option, by the same name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnx_basisprune.config import DEFAULT_PROVIDER, PreprocessConfig
from onnx_basisprune.errors import ConfigError
from onnx_basisprune.limits import GateLimits


@dataclass(frozen=True)
class EvaluationConfig(PreprocessConfig):
    """Every option of `basisprune evaluate`; see `basisprune evaluate --help` for their meaning.

    Attributes:
        model: The ONNX file to evaluate.
        data: Images: a folder or an `.npz`.
        reference: The model that `model` was made from, to compare with.
        labels: JSON from folder or file name to class index.
        scores: Name of the output that holds the class scores; `None` for the first floating-point one.
        feed: What inputs beside the images are fed, each as `NAME=VALUE`.
        limit: At most this many images, drawn evenly over the classes; `None` for all.
        batch_size: Images per batch.
        threads: onnxruntime's intra-op threads; `None` is onnxruntime's default.
        provider: onnxruntime's execution provider, such as `cpu`, in any case, with or without its ending.
        seed: Seeds the draw of images.
    """

    model: Path = Path("model.onnx")
    data: Path = Path("data")
    reference: Path | None = None
    labels: Path | None = None
    scores: str | None = None
    feed: tuple[str, ...] = ()
    limit: int | None = None
    batch_size: int = 64
    threads: int | None = None
    provider: str = DEFAULT_PROVIDER
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that no run can use.

        Raises:
            ConfigError: A count is too small.
        """
        for option, count in (
            ("--limit", self.limit),
            ("--batch-size", self.batch_size),
            ("--threads", self.threads),
        ):
            if count is not None and count < 1:
                raise ConfigError(f"{option} is {count}; expected at least 1.")
        if self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}; expected 0 or more.")


@dataclass(frozen=True)
class BenchmarkConfig:
    """Every option of `basisprune benchmark`; see `basisprune benchmark --help` for their meaning.

    Attributes:
        a: The ONNX file to time.
        b: The one to time against it.
        batch_size: Images in a run, each to be measured; empty for the models' own, or 1.
        threads: onnxruntime's intra-op threads, each to be measured; empty for onnxruntime's default.
        provider: onnxruntime's execution provider, such as `cpu`, in any case, with or without its ending.
        input_shape: The input's shape with the batch first; needed where a model leaves height or width open.
        feed: What inputs beside the images are fed, each as `NAME=VALUE`.
        rounds: Rounds wanted of each measurement; in each, every model is timed once.
        min_seconds: Each measurement goes on until this time has passed, too.
        max_seconds: No round of a measurement starts after this time, except the first five.
        cold_start: Measure load time, first run and memory in fresh processes, too.
        profile: Find out how much of each latency every node takes, too.
        min_speedup: Least time of `a` divided by time of `b`, a gate of each measurement; `None` for no gate.
        strict: Judge by the lower end of the speed-up's interval, not by the estimate.
        seed: Seeds the input and the intervals.
    """

    a: Path = Path("model.onnx")
    b: Path | None = None
    batch_size: tuple[int, ...] = ()
    threads: tuple[int, ...] = ()
    provider: str = DEFAULT_PROVIDER
    input_shape: tuple[int, ...] | None = None
    feed: tuple[str, ...] = ()
    rounds: int = 30
    min_seconds: float = 2.0
    max_seconds: float = 10.0
    cold_start: bool = True
    profile: bool = False
    min_speedup: float | None = None
    strict: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that no run can use.

        Raises:
            ConfigError: A number is too small, or two options contradict each other.
        """
        shape = self.input_shape
        for option, numbers in (
            ("--batch-size", self.batch_size),
            ("--threads", self.threads),
            ("--input-shape", shape or ()),
            ("--rounds", (self.rounds,)),
        ):
            if min(numbers, default=1) < 1:
                raise ConfigError(f"{option} has {min(numbers)}; expected at least 1.")
        if shape is not None and len(shape) < 2:
            raise ConfigError(
                f"--input-shape has {len(shape)} dimension; expected the batch and the image's, e.g. 1,3,224,224."
            )
        if shape is not None and shape[0] != 1 and self.batch_size not in ((), (shape[0],)):
            raise ConfigError(
                f"--input-shape has a batch of {shape[0]}, but --batch-size says otherwise: begin it with 1."
            )
        GateLimits(min_speedup=self.min_speedup)
        if self.min_speedup is not None and self.b is None:
            raise ConfigError("--min-speedup compares two models: give the compressed one after the original.")
        if not 0 <= self.min_seconds <= self.max_seconds:
            raise ConfigError(
                f"--min-seconds is {self.min_seconds:g} and --max-seconds {self.max_seconds:g}; "
                "expected 0 or more, and the second not below the first."
            )
        if self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}; expected 0 or more.")
