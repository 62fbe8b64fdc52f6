"""Time many small models in turns, kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from onnx_basisprune.runtime.profiling import BLOCKED_SUFFIX, average_fastest, list_kernels, read_events
from onnx_basisprune.runtime.session import CPU, Session, find_provider
from onnx_basisprune.scratch import make_scratch_folder

# Models that take turns, so that a disturbance meets all of them; each open session takes memory.
_TURNS = 8
# Of each model: at least so many runs, and more while they take less than this.
_FEWEST_RUNS, _MOST_RUNS, _SECONDS = 7, 40, 0.02
_REORDER = "Reorder"


@dataclass(frozen=True)
class TimingSettings:
    """What is timed on.

    Attributes:
        threads: onnxruntime's intra-op threads; `None` is onnxruntime's default.
        provider: Execution provider, see `runtime.session.find_provider`.
    """

    threads: int | None = None
    provider: str = CPU

    @property
    def has_kernel_times(self) -> bool:
        """Whether the profiler's kernel times mean anything: elsewhere kernels run on while its clock has stopped."""
        return find_provider(self.provider) == find_provider(CPU)


def time_layers(
    models: Mapping[str, Callable[[], bytes]],
    settings: TimingSettings,
    ignored: str,
    progress: Callable[[int], None],
) -> dict[str, float]:
    """Time one-layer models, a few at a time in turns.

    On the CPU a layer's time is that of its kernels, without what onnxruntime does to bring a lone layer's input and
    output into its blocked layout; elsewhere that of the whole run.

    Args:
        models: Name → how to make the model; its inputs have fixed shapes.
        settings: What is timed on.
        ignored: A node of the models that doesn't count.
        progress: Told how many more are done.

    Returns:
        Name → microseconds.
    """
    names, times = list(models), dict[str, float]()
    for start in range(0, len(names), _TURNS):
        group = names[start : start + _TURNS]
        with make_scratch_folder() as folder:
            prefixes = [folder / str(index) if settings.has_kernel_times else None for index in range(len(group))]
            layers = [_Layer(models[name](), settings, prefix) for name, prefix in zip(group, prefixes, strict=True)]
            for _ in range(_choose_rounds([layer.run() for layer in layers])):
                for layer in layers:
                    layer.run()
            for name, layer in zip(group, layers, strict=True):
                profiled = settings.has_kernel_times
                times[name] = _sum_kernels(layer.end_profiling(), ignored) if profiled else layer.average_run()
        progress(len(group))
    return times


def _choose_rounds(seconds: Sequence[float]) -> int:
    """Return how many rounds fill the time that the models may take."""
    return int(np.clip(_SECONDS * len(seconds) / max(sum(seconds), 1e-9), _FEWEST_RUNS, _MOST_RUNS))


class _Layer:
    """One model while it is timed; its first run warms up and doesn't count."""

    def __init__(self, model: bytes, settings: TimingSettings, prefix: Path | None) -> None:
        self._session = Session(
            model,
            threads=settings.threads,
            provider=settings.provider,
            spin_between_runs=False,
            profile_prefix=prefix,
        )
        rng = np.random.default_rng(0)
        self._feeds = {
            spec.name: rng.standard_normal([size or 1 for size in spec.shape or ()], dtype=np.float32)
            for spec in self._session.inputs
        }
        self._seconds: list[float] = []

    def run(self) -> float:
        """Run once; return the seconds."""
        start = perf_counter()
        self._session.run(self._feeds)
        self._seconds.append(perf_counter() - start)
        return self._seconds[-1]

    def average_run(self) -> float:
        """Return the microseconds of a whole run."""
        return 1e6 * average_fastest(self._seconds[1:])

    def end_profiling(self) -> list[dict[str, Any]]:
        """Return the profiler's events; nothing can be run any more."""
        return read_events(self._session.end_profiling())


def _sum_kernels(events: Iterable[Mapping[str, Any]], ignored: str) -> float:
    """Return the microseconds of a layer's own kernels."""
    return sum(
        average_fastest(times[1:])
        for (name, op_type), times in list_kernels(events).items()
        if not op_type.startswith(_REORDER) and name.removesuffix(BLOCKED_SUFFIX) != ignored
    )


def measure_overhead(stack: bytes, settings: TimingSettings) -> float:
    """Return by how many microseconds the profiler makes each node of a model look longer.

    Args:
        stack: A chain of nodes, so that a run takes what its kernels take.
        settings: What is timed on.
    """
    if not settings.has_kernel_times:
        return 0.0
    with make_scratch_folder() as folder:
        profiled, plain = _Layer(stack, settings, folder / "stack"), _Layer(stack, settings, None)
        for _ in range(_MOST_RUNS):
            profiled.run()
            plain.run()
        kernels = list_kernels(profiled.end_profiling())
    profiled_sum = sum(average_fastest(times[1:]) for times in kernels.values())
    # It can't make them faster, however noisy the machine is.
    return max(0.0, profiled_sum - plain.average_run()) / len(kernels)


def detect_block(narrow: bytes, settings: TimingSettings) -> int:
    """Return to a multiple of what number onnxruntime fills up a Conv's output channels, 1 for none.

    Args:
        narrow: A Conv with one output channel: in the blocked layout its kernel writes a whole block.
        settings: What it is run on.
    """
    with make_scratch_folder() as folder:
        layer = _Layer(narrow, settings, folder / "narrow")
        layer.run()
        events = layer.end_profiling()
    shapes = [
        shape
        for event in events
        if event.get("args", {}).get("op_name") in ("Conv", "FusedConv")
        for output in event["args"].get("output_type_shape", ())
        for shape in output.values()
    ]
    return int(shapes[0][1]) if shapes else 1
