"""Moments and gate scores of coupled channels against naive computation: gates moved a little, one by one."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_basisprune.calibration.channel_statistics import ChannelScores, ReadMoments, ReadPlace
from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.calibration.gradient_pass import GradientPass
from onnx_basisprune.data.batches import Batch
from onnx_basisprune.errors import ModelError
from onnx_basisprune.graph.dependency import map_channels
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.planning.types import Head, Operation, Program

# One tensor with two readers, a residual add, and a Flatten that hands four positions per channel to a Gemm.
RESIDUAL = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 2, 4, 4] x) => (float[N, 3] z)
{
    [stem] a0 = Conv <pads = [1, 1, 1, 1]> (x, w0)
    a = Tanh (a0)
    [left] b = Conv <pads = [1, 1, 1, 1]> (a, w1)
    [right] c0 = Conv (a, w2)
    c = Sigmoid (c0)
    d0 = Add (a, b)
    d = Mul (d0, c)
    p = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (d)
    f = Flatten (p)
    [fc] z = Gemm <transB = 1> (f, w3)
}
"""
# Windows: every image becomes four rows of the batch, whose channels a MatMul reads.
WINDOWS = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 2, 4, 4] x) => (float[N, 3] z)
<int64[6] cut = {-1, 5, 2, 2, 2, 2}, int64[3] rows = {-1, 4, 5}, int64[4] back = {-1, 4, 4, 5}>
{
    [stem] a0 = Conv <pads = [1, 1, 1, 1]> (x, w0)
    a = Tanh (a0)
    b = Reshape (a, cut)
    c = Transpose <perm = [0, 2, 4, 3, 5, 1]> (b)
    d = Reshape (c, rows)
    [inner] e = MatMul (d, w4)
    g = Tanh (e)
    h = Reshape (g, back)
    m = ReduceMean <axes = [1, 2], keepdims = 0> (h)
    [fc] z = MatMul (m, w5)
}
"""
SHAPES = {
    "w0": (5, 2, 3, 3), "w1": (5, 5, 3, 3), "w2": (5, 5, 1, 1), "w3": (3, 20), "w4": (5, 5), "w5": (5, 3),
}  # fmt: skip
HEAD = Head("logits", "z", "z")
COUNT = 6


def make_program(text: str) -> tuple[Program, list[ReadPlace]]:
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    read = {name for node in model.graph.node for name in node.input}
    for name in sorted(read & SHAPES.keys()):
        values = rng.standard_normal(SHAPES[name]) / np.sqrt(np.prod(SHAPES[name][1:]))
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    program = extract_program(model)
    inputs = {operation.name: operation.inputs for operation in program.operations}
    reads = map_channels(model, {"x": (1, 2, 4, 4)}).reads
    places = [ReadPlace((r.node, r.input_index), inputs[r.node][r.input_index], r.axis, r.labels) for r in reads]
    return program, places


def make_batches(size: int) -> list[Batch]:
    x = np.random.default_rng(1).standard_normal((COUNT, 2, 4, 4)).astype(np.float32)
    y = np.arange(COUNT) % 3
    parts = [np.arange(start, min(start + size, COUNT)) for start in range(0, COUNT, size)]
    return [Batch(part, x[part], y[part]) for part in parts]


def find_losses(program: Program, places: list[ReadPlace], gates: dict, means: dict) -> NDArray[np.float64]:
    """Logits times the pass' gradient at the logits, by image, in float64, with `mean + gate·(x - mean)` at every read.

    Its derivative by a gate is that of the loss.
    """
    executor = Executor(program)
    executor.parameters = {
        name: value.double() if value.is_floating_point() else value for name, value in executor.parameters.items()
    }
    by_edge = {place.edge: place for place in places}

    def alias(operation: Operation, index: int, tensor: torch.Tensor) -> torch.Tensor:
        place = by_edge.get((operation.name, index))
        if place is None:
            return tensor
        shape = [-1 if axis == place.axis % tensor.ndim else 1 for axis in range(tensor.ndim)]
        gate = torch.tensor([gates.get(label, 1.0) for label in place.labels.tolist()], dtype=torch.float64).view(shape)
        mean = torch.from_numpy(means.get(place.edge, np.zeros(len(place.labels)))).view(shape)
        return mean + gate * (tensor - mean)

    (batch,) = make_batches(COUNT)
    x = torch.from_numpy(batch.x)
    logits = Executor(program).run({"x": x}, ["z"])["z"]
    gradient = GradientPass(Executor(program), "x", HEAD, 0)._find_gradient(logits, batch)
    z = executor.run({"x": x.double()}, ["z"], alias=alias)["z"]
    return (z * gradient.double()).sum(dim=1).numpy()


def score(program: Program, places: list[ReadPlace], means: dict, size: int) -> dict[int, float]:
    scores = ChannelScores(places, means)
    GradientPass(Executor(program), "x", HEAD, 0).run(
        make_batches(size), {}, reads=scores.starts(), end_batch=scores.end_batch
    )
    return scores.finish()[0]


@pytest.mark.parametrize("text", [RESIDUAL, WINDOWS], ids=["residual", "windows"])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("size", [4, 6])
def test_scores_are_squared_derivatives_by_gates(text: str, size: int, *, centred: bool) -> None:
    program, places = make_program(text)
    assert len(places) >= 2
    rng = np.random.default_rng(2)
    means = {place.edge: 0.1 * rng.standard_normal(len(place.labels)) for place in places[:2]} if centred else {}
    found = score(program, places, means, size)
    assert set(found) == {label for place in places for label in place.labels.tolist()}
    step = 1e-5
    for label, value in found.items():
        up, down = (find_losses(program, places, {label: 1.0 + sign * step}, means) for sign in (1, -1))
        expected = float(np.mean(np.square((up - down) / (2 * step))))
        # float32 against differences in float64.
        assert value == pytest.approx(expected, rel=1e-3, abs=1e-9), label


def test_reads_of_one_tensor_count_together() -> None:
    """`stem`'s channels are read by two Convs and, flattened, by the Gemm: one gate each, moved in all three."""
    program, places = make_program(RESIDUAL)
    of_stem = [place for place in places if set(place.labels.tolist()) == set(places[0].labels.tolist())]
    assert {place.edge[0] for place in of_stem} == {"left", "right", "fc"}
    assert next(len(place.labels) for place in of_stem if place.edge[0] == "fc") == 20
    whole = score(program, places, {}, 6)
    parts = [score(program, [place], {}, 6) for place in of_stem]
    label = of_stem[0].labels[0]
    assert whole[label] != pytest.approx(sum(part[label] for part in parts), rel=1e-2)


@pytest.mark.parametrize("text", [RESIDUAL, WINDOWS], ids=["residual", "windows"])
@pytest.mark.parametrize("size", [2, 6])
def test_metrics_are_the_second_moments_of_the_gradients(text: str, size: int) -> None:
    program, places = make_program(text)
    place = next(place for place in places if place.edge[0] == "fc")
    scores = ChannelScores(places, {place.edge: np.zeros(len(place.labels))})
    GradientPass(Executor(program), "x", HEAD, 0).run(
        make_batches(size), {}, reads=scores.starts(), end_batch=scores.end_batch
    )
    (metric,) = scores.finish()[1].values()
    (batch,) = make_batches(COUNT)
    logits = Executor(program).run({"x": torch.from_numpy(batch.x)}, ["z"])["z"]
    g = GradientPass(Executor(program), "x", HEAD, 0)._find_gradient(logits, batch).numpy()
    W = program.initializers["w3" if text == RESIDUAL else "w5"]
    h = g @ (W if text == RESIDUAL else W.T)
    np.testing.assert_allclose(metric, h.T @ h / COUNT, rtol=1e-3, atol=1e-7)


def test_gradients_that_overflow_name_the_node() -> None:
    _, places = make_program(RESIDUAL)
    place = next(place for place in places if place.edge[0] == "left")
    scores = ChannelScores(places, {place.edge: np.zeros(len(place.labels))})
    finish = scores.starts()[place.edge](torch.zeros(1, 5, 4, 4), 1)
    assert finish is not None
    finish(torch.full((1, 5, 4, 4), 1e25))
    with pytest.raises(ModelError, match=r"what node 'left' reads isn't finite.*expected finite gradients"):
        scores.finish()


def test_no_reads_at_all() -> None:
    program, _ = make_program(RESIDUAL)
    assert score(program, [], {}, 6) == {}


@pytest.mark.parametrize("text", [RESIDUAL, WINDOWS], ids=["residual", "windows"])
@pytest.mark.parametrize("size", [2, 4])
def test_moments_are_those_of_all_positions(text: str, size: int) -> None:
    program, places = make_program(text)
    moments = ReadMoments(places)
    GradientPass(Executor(program), "x", HEAD, 0).run(make_batches(size), {}, reads=moments.starts())
    found = moments.finish()
    assert set(found) == {place.tensor for place in places}
    (batch,) = make_batches(COUNT)
    with torch.no_grad():
        values = Executor(program).run({"x": torch.from_numpy(batch.x)}, sorted(found))
    for place in places:
        rows = np.moveaxis(values[place.tensor].numpy(), place.axis, -1).reshape(-1, len(place.labels)).astype(float)
        statistics = found[place.tensor]
        assert statistics.positions == len(rows)
        # float32 sums.
        np.testing.assert_allclose(statistics.total, rows.sum(axis=0), rtol=0, atol=1e-4)
        np.testing.assert_allclose(statistics.outer.full(), rows.T @ rows, rtol=0, atol=1e-4)
        np.testing.assert_allclose(statistics.mean, rows.mean(axis=0), rtol=0, atol=1e-5)


def test_moments_that_are_not_finite_name_the_node() -> None:
    _, places = make_program(RESIDUAL)
    moments = ReadMoments(places)
    start = moments.starts()[places[0].edge]
    start(torch.full((1, 5, 4, 4), float("nan")), 1)
    with pytest.raises(ModelError, match=places[0].edge[0]):
        moments.finish()
