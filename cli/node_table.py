"""Where the time goes in one model, or in two beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console

from onnx_basisprune.benchmark_report import BenchmarkRun, NodePart, NodeTiming
from onnx_basisprune.cli.tables import build_table, print_lines
from onnx_basisprune.numbers import UNKNOWN, show_name

# The rows of most time, and what onnxruntime put in; the rest is one line, all of it is in the JSON.
_MOST_ROWS = 15


def print_nodes(console: Console, run: BenchmarkRun, names: Sequence[str]) -> None:
    """Print the nodes that take most time; what replaced a Conv stands below it."""
    totals = [timing.latency.median_ms for timing in (run.a, run.b) if timing is not None]
    columns = [title for letter in "AB"[: len(totals)] for title in (f"{letter} ms", f"{letter} %")]
    table = build_table(["node", "operator"], [*columns, "A / B"][: 5 if run.b else 2])

    def add_row(name: str, op_type: str, times: Sequence[float | None]) -> None:
        cells = [cell for ms, total in zip(times, totals, strict=False) for cell in _show_time(ms, total)]
        table.add_row(name, op_type, *cells, *([_show_ratio(*times)] if run.b else []))

    nodes = sorted(run.nodes, key=lambda node: max(node.a_ms or 0.0, node.b_ms or 0.0), reverse=True)
    shown = [node for position, node in enumerate(nodes) if position < _MOST_ROWS or node.inserted]
    for node in shown:
        add_row(_name_node(node, len(totals)), show_name(node.op_type), (node.a_ms, node.b_ms))
        for part in _list_successors(node):
            name = f"  {show_name(part.name.removeprefix(node.name))}"
            table.add_row(name, "", "", "", *_show_time(part.ms, totals[1]), "")
    rest = [node for node in nodes if node not in shown]
    if rest:
        sums = _add_up(node.a_ms for node in rest), _add_up(node.b_ms for node in rest)
        add_row(f"{len(rest)} others", "", sums)
    add_row("all", "", (*totals, None)[:2])
    models = ", ".join(f"{letter} is {name}" for letter, name in zip("AB", names, strict=False))
    print_lines(console, ["Where the time goes, by onnxruntime's profiler, scaled to the medians", f"({models}):", ""])
    console.print(table)


def _name_node(node: NodeTiming, models: int) -> str:
    """Return a node's name; of what onnxruntime put in, how many there are in each model."""
    if not node.inserted:
        return show_name(node.name)
    return f"(inserted: {' / '.join(str(len(parts)) for parts in (node.a_parts, node.b_parts)[:models])})"


def _list_successors(node: NodeTiming) -> tuple[NodePart, ...]:
    """Return the second model's nodes that replaced one of the first."""
    return () if node.inserted or all(part.name == node.name for part in node.b_parts) else node.b_parts


def _add_up(times: Iterable[float | None]) -> float | None:
    """Return the sum of the times that there are, `None` where there is none."""
    known = [ms for ms in times if ms is not None]
    return sum(known) if known else None


def _show_time(ms: float | None, total: float) -> tuple[str, str]:
    """Return milliseconds, as fine as the model is fast, and their share of its time."""
    if ms is None:
        return UNKNOWN, UNKNOWN
    digits = 4 if total < 1 else 3 if total < 10 else 2 if total < 100 else 1
    return f"{ms:.{digits}f}", f"{100 * ms / total:.1f}"


def _show_ratio(a_ms: float | None, b_ms: float | None) -> str:
    """Return how many times faster a node is in the second model."""
    return UNKNOWN if not a_ms or not b_ms else f"{a_ms / b_ms:.2f}x"
