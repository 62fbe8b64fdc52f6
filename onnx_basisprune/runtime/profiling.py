"""Where a run's time goes, node by node, by onnxruntime's own profiler."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from numpy.typing import NDArray

from onnx_basisprune.errors import OutputError, quote
from onnx_basisprune.runtime.session import CPU, Session
from onnx_basisprune.scratch import make_scratch_folder

_KERNEL_SUFFIX = "_kernel_time"
# Of nodes in the blocked layout, after the name of the tensor that they write.
BLOCKED_SUFFIX = "_nchwc"
# Their time holds that of the nodes in their subgraphs, which the profiler lists as well.
_CONTROL_FLOW = ("If", "Loop", "Scan")


@dataclass(frozen=True)
class NodeTime:
    """What one node of onnxruntime's optimised graph takes.

    Attributes:
        name: onnxruntime's name: that of the model's node where it was left as it was; `<tensor>_nchwc` where it
            was moved to the blocked layout, after the output of the node or of what was fused into it; `ReorderInput…`
            and the like where onnxruntime put it in.
        op_type: Its operator, such as `Conv`, `FusedConv` or `ReorderOutput`.
        microseconds: The kernel's time, the mean of the fastest half of the runs; the profiler makes it longer by some
            4 µs.
    """

    name: str
    op_type: str
    microseconds: float


def profile_nodes(
    model: bytes | Path,
    feeds: Mapping[str, NDArray[Any]],
    *,
    threads: int | None = None,
    provider: str = CPU,
    runs: int = 30,
    warmup: int = 5,
    feed: Sequence[str] = (),
) -> tuple[NodeTime, ...]:
    """Run a model under onnxruntime's profiler.

    The profiler slows the run as a whole down (some 10 µs per node): what counts are the shares.

    Args:
        model: The serialized model, or its file.
        feeds: An array for every input that `feed` doesn't name, by name.
        threads: onnxruntime's intra-op threads; `None` is onnxruntime's default.
        provider: Execution provider, see `runtime.session.find_provider`.
        runs: Runs that count, at least 1.
        warmup: Runs before them.
        feed: What inputs beside the images are fed, see `runtime.fed_inputs.resolve_feeds`.

    Returns:
        The nodes of the optimised graph in the order in which they ran; nodes of subgraphs count with the If, Loop or
        Scan that holds them.

    Raises:
        ConfigError: There is no such execution provider.
        ModelError: The model can't be loaded or run.
        OutputError: The profile can't be written to the system's folder for temporary files.
    """
    with make_scratch_folder() as folder:
        session = Session(model, threads=threads, provider=provider, feed=feed, profile_prefix=folder / "profile")
        try:
            for _ in range(warmup + runs):
                session.run(feeds)
        finally:
            path = session.end_profiling()
        events = read_events(path)
    return tuple(NodeTime(*key, average_fastest(times[warmup:])) for key, times in list_kernels(events).items())


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the profiler's events."""
    try:
        # Node names may hold any character.
        events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8", errors="replace"), strict=False)
    except (OSError, ValueError) as error:
        raise OutputError(
            f"onnxruntime's profile {quote(path)} can't be read back ({quote(error)}); expected JSON."
        ) from error
    return events


def list_kernels(events: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[int]]:
    """Return the microseconds of each kernel's runs by the node's name and operator, both in order of time."""
    kernels = [event for event in events if event.get("cat") == "Node" and str(event["name"]).endswith(_KERNEL_SUFFIX)]
    durations: dict[tuple[str, str], list[int]] = {}
    for event in _drop_subgraphs(sorted(kernels, key=lambda event: int(event["ts"]))):
        # onnxruntime refuses models in which two nodes have the same name.
        key = str(event["name"]).removesuffix(_KERNEL_SUFFIX), str(event["args"]["op_name"])
        durations.setdefault(key, []).append(int(event["dur"]))
    return durations


def average_fastest(values: Sequence[float]) -> float:
    """Return the mean of the fastest half: disturbances only ever slow a run down, and the clock's ticks are coarse."""
    ordered = sorted(values)
    return float(fmean(ordered[: (len(ordered) + 1) // 2]))


def _drop_subgraphs(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return events, sorted by their start, without those that lie within a control flow node's."""
    kept, end = [], -1
    for event in events:
        start = int(event["ts"])
        if start < end:
            continue
        kept.append(event)
        if event["args"]["op_name"] in _CONTROL_FLOW:
            end = start + int(event["dur"])
    return kept
