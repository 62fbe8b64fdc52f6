"""The table of nodes."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from onnx_basisprune.benchmark_report import BenchmarkRun, ModelTiming, NodePart, NodeTiming
from onnx_basisprune.cli.node_table import print_nodes
from onnx_basisprune.results import Latency, Speedup


def make_node(name: str, a: dict[str, float], b: dict[str, float], *, inserted: bool = False) -> NodeTiming:
    parts = [tuple(NodePart(part, ms) for part, ms in times.items()) for times in (a, b)]
    sums = [sum(times.values()) if times else None for times in (a, b)]
    return NodeTiming(name, "Conv", inserted, sums[0], sums[1], parts[0], parts[1])


def draw(nodes: list[NodeTiming], b_ms: float | None = 1.0, width: int = 80) -> list[str]:
    """Return the printed lines below the table's head."""
    timings = [None if ms is None else ModelTiming(Latency(ms, ms, 1, 9), 1.0) for ms in (2.0, b_ms)]
    assert timings[0] is not None
    speedup = None if b_ms is None else Speedup(2.0 / b_ms, 1.0, 3.0)
    run = BenchmarkRun(1, None, timings[0], timings[1], speedup, (), tuple(nodes))
    text = io.StringIO()
    print_nodes(Console(file=text, width=width, markup=False), run, ["first.onnx", "second.onnx"][: 2 if b_ms else 1])
    lines = text.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    return lines[next(i for i, line in enumerate(lines) if line.startswith("──")) + 1 :]


def test_what_replaced_a_node_stands_below_it() -> None:
    nodes = [
        make_node("fc", {"fc": 0.5}, {}),
        make_node("conv1", {"conv1": 1.5}, {"conv1.basis": 0.7, "conv1.scaling": 0.1}),
        make_node("ReorderInput", {}, {"ReorderInput": 0.1, "ReorderInput_1": 0.1}, inserted=True),
    ]
    assert [line.split() for line in draw(nodes)] == [
        ["conv1", "Conv", "1.500", "75.0", "0.800", "80.0", "1.88x"],
        [".basis", "0.700", "70.0"],
        [".scaling", "0.100", "10.0"],
        ["fc", "Conv", "0.500", "25.0", "-", "-", "-"],
        ["(inserted:", "0", "/", "2)", "Conv", "-", "-", "0.200", "20.0", "-"],
        ["all", "2.000", "100.0", "1.000", "100.0", "2.00x"],
    ]


def test_the_rest_is_one_line_but_what_was_inserted_always_shows() -> None:
    nodes = [make_node(f"n{i:02}", {f"n{i:02}": 0.05 + i / 1000}, {}) for i in range(30)]
    lines = draw([*nodes, make_node("Reorder", {"r": 0.001}, {}, inserted=True)], b_ms=None)
    names = [line.split()[0] for line in lines]
    assert names == [f"n{i:02}" for i in reversed(range(15, 30))] + ["(inserted:", "15", "all"]
    others = lines[-2].split()
    assert others[:2] == ["15", "others"]
    assert float(others[2]) == pytest.approx(sum(0.05 + i / 1000 for i in range(15)), abs=1e-3)


def test_names_from_files_are_folded_and_made_harmless() -> None:
    text = "".join(draw([make_node("a" * 300 + "\x1b[2J", {"x": 2.0}, {"a": 1.0})]))
    assert "\x1b" not in text
    assert text.count("a") >= 199
