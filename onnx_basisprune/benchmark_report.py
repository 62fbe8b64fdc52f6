"""What a benchmark hands back: frozen dataclasses whose field names are the report's JSON keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnx_basisprune.results import FORMAT_VERSION, Gate, Latency, Speedup


@dataclass(frozen=True)
class ModelTiming:
    """What one model takes at one batch size and number of threads.

    Attributes:
        latency: Of warm runs.
        images_per_second: From the median.
        load_ms: Building the session in a fresh process; `None` where cold starts weren't measured.
        first_run_ms: The first run there.
        peak_memory_bytes: Largest resident size of that process.
        baseline_memory_bytes: Resident size there before the model was loaded.
    """

    latency: Latency
    images_per_second: float
    load_ms: float | None = None
    first_run_ms: float | None = None
    peak_memory_bytes: int | None = None
    baseline_memory_bytes: int | None = None


@dataclass(frozen=True)
class NodePart:
    """A node of onnxruntime's optimised graph: the model's node that it stands for, and its part of a run.

    Attributes:
        name: The model's node.
        ms: Its time in a run, in milliseconds.
    """

    name: str
    ms: float


@dataclass(frozen=True)
class NodeTiming:
    """What one node takes of a run of `a` and of `b`; the profiler's shares, scaled to the median latency.

    Attributes:
        name: The node in `a`, or in `b` where only `b` has it; of what onnxruntime put in, the operator.
        op_type: Its operator.
        inserted: Whether onnxruntime put it in, such as the reorderings around its blocked layout.
        a_ms: Its time in `a`; `None` where it isn't there, or was fused into another node.
        b_ms: The same in `b`, of all that replaced it.
        a_parts: What `a_ms` is the sum of.
        b_parts: What `b_ms` is the sum of: basis conv and scaling conv of a decomposed Conv, say.
    """

    name: str
    op_type: str
    inserted: bool
    a_ms: float | None
    b_ms: float | None
    a_parts: tuple[NodePart, ...]
    b_parts: tuple[NodePart, ...]


@dataclass(frozen=True)
class BenchmarkRun:
    """One measurement of one model or two.

    Attributes:
        batch_size: Images in a run.
        threads: onnxruntime's; `None` for its default.
        a: The first model's figures.
        b: The second's; `None` where there is none.
        speedup: Time of `a` / time of `b`.
        warnings: Why the figures are not to be trusted fully.
        nodes: Where the time goes; empty where that wasn't asked for.
    """

    batch_size: int
    threads: int | None
    a: ModelTiming
    b: ModelTiming | None
    speedup: Speedup | None
    warnings: tuple[str, ...] = ()
    nodes: tuple[NodeTiming, ...] = ()


@dataclass(frozen=True)
class BenchmarkReport:
    """Latency of one model, or of two against each other.

    Attributes:
        config: Every option by its name.
        environment: What it was measured on.
        runs: One per batch size and number of threads, batch sizes outermost.
        gates: One per run where a speed-up was asked for.
        format_version: Grows when a key changes its meaning or goes.
    """

    config: dict[str, Any]
    environment: dict[str, Any]
    runs: tuple[BenchmarkRun, ...]
    gates: tuple[Gate, ...] = ()
    format_version: int = FORMAT_VERSION
