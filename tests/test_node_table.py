"""The nodes of two models beside each other."""

from __future__ import annotations

import onnx
import pytest

from onnx_basisprune.benchmark_report import NodePart, NodeTiming
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.node_table import Profile, tabulate_nodes
from onnx_basisprune.node_times import NodeNames
from onnx_basisprune.runtime.profiling import NodeTime


def make_profile(names: list[str], times: dict[str, float], median_ms: float) -> Profile:
    """Return the profile of a chain of Erfs of these names; other timed nodes are onnxruntime's own."""
    nodes = [onnx.helper.make_node("Erf", [f"t{i}"], [f"t{i + 1}"], name=name) for i, name in enumerate(names)]
    program = extract_program(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [])))
    return Profile(
        NodeNames.of(program, names),
        [NodeTime(name, "Erf" if name in names else name.partition("_")[0], us) for name, us in times.items()],
        median_ms,
    )


def test_a_pair_stands_beside_the_node_that_it_replaced() -> None:
    a = make_profile(["conv1", "fc"], {"conv1": 60.0, "Reorder": 10.0, "fc": 30.0}, 2.0)
    b = make_profile(
        ["conv1.basis", "conv1.scaling", "fc", "new.basis"],
        {"conv1.basis": 10.0, "Reorder": 1.0, "conv1.scaling": 5.0, "Reorder_1": 2.0, "new.basis": 2.0},
        1.0,
    )
    assert tabulate_nodes(a, b) == (
        NodeTiming(
            *("conv1", "Erf", False, pytest.approx(1.2), pytest.approx(0.75)),
            (NodePart("conv1", pytest.approx(1.2)),),
            (NodePart("conv1.basis", pytest.approx(0.5)), NodePart("conv1.scaling", pytest.approx(0.25))),
        ),
        NodeTiming(
            *("Reorder", "Reorder", True, pytest.approx(0.2), pytest.approx(0.15)),
            (NodePart("Reorder", pytest.approx(0.2)),),
            (NodePart("Reorder", pytest.approx(0.05)), NodePart("Reorder_1", pytest.approx(0.1))),
        ),
        # Fused into another node of the second model, or not there at all.
        NodeTiming("fc", "Erf", False, pytest.approx(0.6), None, (NodePart("fc", pytest.approx(0.6)),), ()),
        # The first model has nothing of that name without its ending, either.
        NodeTiming(
            "new.basis", "Erf", False, None, pytest.approx(0.1), (), (NodePart("new.basis", pytest.approx(0.1)),)
        ),
    )


def test_a_name_that_both_have_is_the_same_node_whatever_its_ending() -> None:
    a = make_profile(["conv1", "conv1.basis"], {"conv1": 1.0, "conv1.basis": 3.0}, 4.0)
    rows = tabulate_nodes(a, make_profile(["conv1", "conv1.basis"], {"conv1": 2.0, "conv1.basis": 2.0}, 4.0))
    assert [(row.name, row.a_ms, row.b_ms) for row in rows] == [("conv1", 1.0, 2.0), ("conv1.basis", 3.0, 2.0)]


def test_one_model_alone_adds_up_to_its_latency() -> None:
    rows = tabulate_nodes(make_profile(["p", "q"], {"p": 1.0, "Reorder": 2.0, "q": 4.0}, 3.5))
    assert [(row.name, row.inserted, row.a_ms, row.b_ms) for row in rows] == [
        ("p", False, 0.5, None),
        ("Reorder", True, 1.0, None),
        ("q", False, 2.0, None),
    ]
    assert all(row.b_parts == () for row in rows)


def test_below_the_profilers_microsecond_nothing_is_made_up() -> None:
    (row,) = tabulate_nodes(make_profile(["p"], {"p": 0.0}, 0.01))
    assert row.a_ms == 0.0
