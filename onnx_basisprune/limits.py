"""What a pipeline asks of a compressed model: bounds on its figures, and slack against an earlier release."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite

from onnx_basisprune.errors import ConfigError


@dataclass(frozen=True)
class GateLimits:
    """Bounds on a report's figures, each a gate; `None` for those that aren't asked for.

    Attributes:
        max_drop: Most percentage points of accuracy (without labels, of agreement) that may be lost.
        min_speedup: Least time of the original divided by time of the compressed model.
        max_macs: Most multiply-adds for one image.
        max_parameters: Most parameters.
        max_file_bytes: Most bytes of the file, with those that its weights lie in.
        min_accuracy: Least top-1 accuracy of the compressed model, as a fraction.
        strict: Judge accuracy and speed by the pessimistic end of their 95 % interval, not by the estimate.
    """

    max_drop: float | None = None
    min_speedup: float | None = None
    max_macs: int | None = None
    max_parameters: int | None = None
    max_file_bytes: int | None = None
    min_accuracy: float | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        """Refuse bounds that can't be met or missed.

        Raises:
            ConfigError: A bound isn't a number, or lies where its figure can't.
        """
        if self.max_drop is not None and not -100.0 <= self.max_drop <= 100.0:
            raise ConfigError(f"--max-drop is {self.max_drop:g}; expected percentage points, -100 to 100.")
        if self.min_speedup is not None and not (isfinite(self.min_speedup) and self.min_speedup > 0):
            raise ConfigError(f"--min-speedup is {self.min_speedup:g}; expected old time / new time, over 0.")
        if self.min_accuracy is not None and not 0.0 <= self.min_accuracy <= 1.0:
            raise ConfigError(f"--min-accuracy is {self.min_accuracy:g}; expected a fraction, 0 to 1.")
        for option, count in (
            ("--max-macs", self.max_macs),
            ("--max-parameters", self.max_parameters),
            ("--max-file-bytes", self.max_file_bytes),
        ):
            if count is not None and count < 0:
                raise ConfigError(f"{option} is {count}; expected a count, 0 or more.")

    @property
    def has_any(self) -> bool:
        """Whether there is a gate at all."""
        return any(getattr(self, field.name) is not None for field in fields(GateLimits) if field.name != "strict")


@dataclass(frozen=True)
class Slack:
    """How much worse than the last release a model may be; `None` is what the measurements can't tell from nothing.

    Attributes:
        accuracy: Percentage points of top-1 accuracy (without labels, of agreement).
        speedup: Percent of the speed-up.
        size: Percent of multiply-adds, of parameters and of the file's bytes.
        strict: Accuracy and speed must be within the slack, 0 by default, by the pessimistic end of the change's
            interval.
    """

    accuracy: float | None = None
    speedup: float | None = None
    size: float = 1.0
    strict: bool = False

    def __post_init__(self) -> None:
        """Refuse slack that isn't a number of at least 0.

        Raises:
            ConfigError: It isn't.
        """
        for option, value in (("accuracy", self.accuracy), ("speedup", self.speedup), ("size", self.size)):
            if value is not None and not (isfinite(value) and value >= 0):
                raise ConfigError(f"--slack-{option} is {value:g}; expected 0 or more.")
