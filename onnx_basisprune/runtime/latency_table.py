"""What layers and models take on this machine, measured once and kept.

A table holds for one CPU, onnxruntime version, execution provider and number of threads. The one in the user's cache
folder grows from run to run; one that a file pins is read, never changed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onnx_basisprune.documents import read_document
from onnx_basisprune.errors import ConfigError, quote

_FORMAT_VERSION = 1
# Many times what any kernel computes at once.
_LARGEST_BLOCK = 1024
# The digest of all else in a file.
_SEAL = "sha256"
# What a file holds.
_FIELDS = frozenset({"environment", "block", "overhead", "layers", "models", "scales"})


@dataclass
class LatencyTable:
    """Measured times, in microseconds; the profiler's own cost is taken off.

    Attributes:
        environment: What they hold for.
        block: Channels that onnxruntime computes at once: other counts are filled up to a multiple of it; 1 where it
            doesn't.
        overhead: What the profiler adds to each node.
        layers: `ConvShape.key` → time of the layer.
        models: Digest of a model → node name → time; `""` is what belongs to no node.
        scales: Digest of a model → measured over predicted time of what was last made of it.
        pinned: Whether it came from a file that must not change: nothing can be added.
    """

    environment: dict[str, Any]
    block: int
    overhead: float
    layers: dict[str, float] = field(default_factory=dict)
    models: dict[str, dict[str, float]] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    pinned: bool = False

    def render(self, *, sealed: bool = False) -> str:
        """Return the table as JSON; the same content gives the same text.

        Args:
            sealed: Whether it says its own digest, so that any change to it shows; one for people to edit doesn't.
        """
        content = {key: value for key, value in asdict(self).items() if key in _FIELDS}
        seal = {_SEAL: self.digest()} if sealed else {}
        return json.dumps({"format_version": _FORMAT_VERSION, **content, **seal}, indent=1, sort_keys=True) + "\n"

    def digest(self) -> str:
        """Return the SHA-256 of `render`."""
        return hashlib.sha256(self.render().encode()).hexdigest()

    def merge(self, other: LatencyTable) -> None:
        """Take in what another table of the same machine knows and this one doesn't."""
        if (self.environment, self.block) == (other.environment, other.block):
            self.layers = {**other.layers, **self.layers}
            self.models = {**other.models, **self.models}
            self.scales = {**other.scales, **self.scales}


def read_table(path: Path) -> LatencyTable | None:
    """Read a table; `None` where there is none, or the file is damaged or of another format."""
    try:
        content = json.loads(read_document(path))
        seal = content.pop(_SEAL, None)
        if content.pop("format_version") != _FORMAT_VERSION or content.keys() - _FIELDS:
            return None
        table = LatencyTable(**content)
        return table if _is_sound(table) and seal in (None, table.digest()) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def _is_sound(table: LatencyTable) -> bool:
    """Return whether a table holds what one should: JSON may hold anything, and `NaN` too."""
    positive = [*table.layers.values(), *table.scales.values()]
    others = [table.overhead, *(time for times in table.models.values() for time in times.values())]
    numbers = [*positive, *others]
    return (
        isinstance(table.environment, dict)
        and type(table.block) is int
        and 1 <= table.block <= _LARGEST_BLOCK
        and all(type(number) in (int, float) and math.isfinite(number) and number >= 0 for number in numbers)
        and all(positive)
    )


def read_pinned_table(path: Path) -> LatencyTable:
    """Read a table that the user names; it may be another machine's.

    Raises:
        ConfigError: It can't be read.
    """
    table = read_table(path)
    if table is None:
        raise ConfigError(
            f"--latency-table {quote(path)} is not a latency table of this version; expected a file that an earlier "
            "run wrote; name a file that doesn't exist yet to make one."
        )
    table.pinned = True
    return table


def name_table(environment: Mapping[str, Any]) -> str:
    """Return the file name of the table for an environment."""
    digest = hashlib.sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()
    return f"latency-{digest[:16]}.json"
