"""Where the time goes in a model, node by node, beside the model that was made from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from onnx_basisprune.benchmark_report import NodePart, NodeTiming
from onnx_basisprune.node_times import NodeNames
from onnx_basisprune.planning.types import Operation
from onnx_basisprune.runtime.profiling import NodeTime

# What a rewritten Conv's two nodes add to its name, see `graph.rewrite`.
_PAIR_SUFFIXES = (".basis", ".scaling")


@dataclass(frozen=True)
class Profile:
    """One model's node times.

    Attributes:
        names: Of the model's nodes.
        times: As onnxruntime's profiler has them.
        median_ms: What a run takes without the profiler: the times are scaled to it.
    """

    names: NodeNames
    times: Sequence[NodeTime]
    median_ms: float

    def list_parts(self) -> Iterator[tuple[Operation | None, str, NodePart]]:
        """Yield each timed node: the model's node behind it, its operator, and its share of the run."""
        total = sum(time.microseconds for time in self.times)
        for time, operation in zip(self.times, self.names.trace(self.times), strict=True):
            name = time.name if operation is None else operation.name
            # Where all is below the profiler's microsecond, nothing is known about the shares.
            ms = self.median_ms * time.microseconds / total if total else 0.0
            yield operation, time.op_type if operation is None else operation.op_type, NodePart(name, ms)


@dataclass
class _Row:
    """A line of the table while it grows; the parts are those of the first and of the second model."""

    name: str
    op_type: str
    inserted: bool
    parts: tuple[list[NodePart], list[NodePart]] = field(default_factory=lambda: ([], []))

    def finish(self) -> NodeTiming:
        """Return the line with its sums."""
        a_ms, b_ms = (sum(part.ms for part in parts) if parts else None for parts in self.parts)
        return NodeTiming(self.name, self.op_type, self.inserted, a_ms, b_ms, *map(tuple, self.parts))


def tabulate_nodes(a: Profile, b: Profile | None = None) -> tuple[NodeTiming, ...]:
    """Set what a model's nodes take beside what the same nodes take in another.

    The pair that replaced a Conv stands beside it. What onnxruntime put in is one line per operator.

    Args:
        a: Of the first model.
        b: Of the second, if any.

    Returns:
        The first model's nodes in the order in which they ran, then what only the second has.
    """
    known = {operation.name for operation in a.names.nodes.values()}
    rows: dict[tuple[bool, str], _Row] = {}
    for side, profile in enumerate([a] if b is None else [a, b]):
        for operation, op_type, part in profile.list_parts():
            inserted = operation is None
            name = op_type if inserted else _find_replaced(part.name, known)
            row = rows.setdefault((inserted, name), _Row(name, op_type, inserted))
            row.parts[side].append(part)
    return tuple(row.finish() for row in rows.values())


def _find_replaced(name: str, known: set[str]) -> str:
    """Return the node of the first model that a node of the second stands for, its own name where there is none."""
    if name not in known:
        for suffix in _PAIR_SUFFIXES:
            if name.endswith(suffix) and name.removesuffix(suffix) in known:
                return name.removesuffix(suffix)
    return name
