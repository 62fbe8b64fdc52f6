"""Which tensors are hints, and that both graphs compute them."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from onnx import ModelProto, numpy_helper

from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.graph.rewrite import replace_initializers
from onnx_basisprune.graph.surgery import remove_channels
from onnx_basisprune.hint_tensors import list_hints
from onnx_basisprune.network import Network, read_network
from onnx_basisprune.planning.types import Program

BLOCK = "[c{0}] a{0} = Conv (s{1}, w{0}) b{0} = Relu (a{0}) [d{0}] e{0} = Conv (b{0}, v{0}) "
SUM, END = "f{0} = Add (e{0}, s{1}) s{0} = Relu (f{0}) ", "s{0} = Relu (e{0}) "


def make_network(blocks: int, *, residual: bool) -> Network:
    """A stem, blocks of two Convs each, pooling and a classifier."""
    block = BLOCK + (SUM if residual else END)
    body = "".join(block.format(index + 1, index) for index in range(blocks))
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[N, 3, 6, 6] x) => (float[N, 5] z) {'
        f"[stem] a0 = Conv (x, w0) s0 = Relu (a0) {body}"
        f"p = GlobalAveragePool (s{blocks}) q = Flatten (p) [head] z = Gemm <transB = 1> (q, wz) }}"
    )
    rng = np.random.default_rng(0)
    shapes = {"w0": (8, 3, 1, 1), "wz": (5, 8)}
    shapes |= {f"{kind}{index + 1}": (8, 8, 1, 1) for index in range(blocks) for kind in "wv"}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).astype(np.float32) / np.sqrt(shape[1])
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return read_network(normalize_model(model), (1, 3, 6, 6), ())


def choose_removed(network: Network, step: int) -> list[int]:
    """Every so-many-th channel of each group."""
    free = [group for group in network.channels.groups if not group.blocked_by]
    return [channel for group in free for channel in group.channels[::step].tolist()]


def cut(network: Network, removed: list[int]) -> ModelProto:
    return remove_channels(network.model, network.channels, removed, network.input_shapes)


def compute(program: Program, names: list[str]) -> dict[str, np.ndarray]:
    x = np.random.default_rng(1).standard_normal((4, 3, 6, 6)).astype(np.float32)
    return dict(Executor(program).compute({"x": x}, names))


@pytest.mark.parametrize("residual", [True, False])
def test_what_removed_channels_never_reached_is_the_same_in_both(residual: bool) -> None:
    """Channels whose weights are 0 change nothing of those that stay, and each hint says which these are."""
    network = make_network(3, residual=residual)
    removed = choose_removed(network, 3)
    silenced = {}
    for coupling in network.channels.couplings:
        weight = network.operations[coupling.node].inputs[coupling.input_index]
        values = silenced.setdefault(weight, network.program.initializers[weight].copy())
        np.moveaxis(values, coupling.axis, 0)[np.isin(coupling.labels, removed)] = 0
    original = replace_initializers(network.model, silenced)
    student = extract_program(cut(network, removed))
    hints = list_hints(network, student, removed)
    names = [hint.name for hint in hints]
    before, after = compute(extract_program(original), names), compute(student, names)
    assert names
    for hint in hints:
        assert hint.kept is not None
        assert len(hint.kept) == 5
        np.testing.assert_allclose(after[hint.name], before[hint.name].take(hint.kept, axis=hint.axis), atol=1e-6)


def test_where_a_network_branches_is_compared() -> None:
    network = make_network(3, residual=True)
    removed = choose_removed(network, 4)
    hints = list_hints(network, extract_program(cut(network, removed)), removed)
    assert [hint.name for hint in hints] == ["s2", "q"]


def test_nothing_is_compared_that_a_cut_left_as_it_was() -> None:
    network = make_network(3, residual=False)
    assert list_hints(network, network.program, ()) == ()
    group = next(group for group in network.channels.groups if "d2" in group.name)
    removed = group.channels[:2].tolist()
    hints = list_hints(network, extract_program(cut(network, removed)), removed)
    assert [hint.name for hint in hints] == ["b3", "q"]
    assert [hint.kept for hint in hints] == [None, None]


def test_deep_networks_have_as_many_hints_as_others() -> None:
    network = make_network(30, residual=False)
    removed = choose_removed(network, 4)
    names = [hint.name for hint in list_hints(network, extract_program(cut(network, removed)), removed)]
    assert len(names) == 8
    assert names[-1] == "q"
