"""Planning on real graphs: what is predicted is what is written."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from onnx_basisprune.data.batches import Batch
from onnx_basisprune.decomposition import (
    BasisKind,
    Network,
    find_bases,
    plan_ranks,
    predict_cost,
    read_network,
    rewrite_network,
)
from onnx_basisprune.errors import ConfigError
from onnx_basisprune.graph.cost import measure_cost
from onnx_basisprune.graph.head import find_head
from onnx_basisprune.graph.model_io import serialize_model
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.planning.types import Plan
from onnx_basisprune.progress import Silence
from onnx_basisprune.runtime.session import Session

# One weight in two Convs, one bias in two Convs, batch normalisation, a depthwise Conv, an expansion, a constant as
# a node, and a branch that the loss never sees.
TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 8, 8] x) => (float[N, 4] z, float[N, 6, 8, 8] side)
{
    [stem] a = Conv <pads = [1, 1, 1, 1]> (x, w0)
    [bn] n = BatchNormalization (a, scale, shift, mean, var)
    [relu] b = Relu (n)
    [first] c = Conv <pads = [1, 1, 1, 1]> (b, shared, bias)
    [second] d = Conv <pads = [1, 1, 1, 1]> (c, shared, bias)
    [deep] e = Conv <group = 6, pads = [1, 1, 1, 1]> (d, w1)
    [wide] f = Conv (e, w2)
    [idle] side = Conv (e, w4)
    [pool] g = GlobalAveragePool (f)
    [flat] h = Flatten (g)
    [fc] z = Gemm <transB = 1> (h, w3)
}
"""
SHAPES = {
    "w0": (6, 3, 3, 3),
    "scale": (6,),
    "shift": (6,),
    "mean": (6,),
    "var": (6,),
    "shared": (6, 6, 3, 3),
    "bias": (6,),
    "w1": (6, 1, 3, 3),
    "w2": (20, 6, 1, 1),
    "w3": (4, 20),
    "w4": (6, 6, 1, 1),
}
IMAGES = np.random.default_rng(1).standard_normal((20, 3, 8, 8), dtype=np.float32)


def make_model() -> ModelProto:
    model = onnx.parser.parse_model(TEXT)
    generator = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        values = generator.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
        values = np.abs(values) + 0.5 if name == "var" else values
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return model


def make_network(exclude: tuple[str, ...] = ()) -> tuple[ModelProto, Network]:
    model = make_model()
    return model, read_network(model, normalize_model(model), (1, 3, 8, 8), exclude)


def stream() -> list[Batch]:
    labels: NDArray[np.int64] = np.arange(20) % 4
    return [Batch(np.arange(i, i + 8), IMAGES[i : i + 8], labels[i : i + 8]) for i in (0, 8)]


def test_eligible_convs_and_reasons() -> None:
    _, network = make_network(("second",))
    assert list(network.eligible) == ["stem", "first", "wide", "idle"]
    reasons = {layer.name: layer.reason for layer in network.layers if layer.reason}
    assert reasons.keys() == {"second", "deep"}
    assert "--exclude" in reasons["second"]
    assert reasons["deep"] == "depthwise"


def test_unknown_exclusions_are_refused() -> None:
    with pytest.raises(ConfigError, match="nobody"):
        make_network(("nobody",))


@pytest.mark.parametrize("kind", ["fisher", "svd", "literal"])
@pytest.mark.parametrize("unit", ["macs", "params"])
@pytest.mark.parametrize("target", [1.0, 0.8, 0.6, 0.01])
def test_predicted_cost_is_that_of_the_rewritten_model(
    kind: BasisKind, unit: Literal["macs", "params"], target: float
) -> None:
    _, network = make_network()
    bases, scores = find_bases(network, find_head(network.program), kind, stream, 16, 0, Silence())
    # The loss never sees `idle`: nothing is known of it, so it stays as it is.
    assert set(scores) == {"stem", "first", "second", "wide"}
    allocation = plan_ranks(network, scores, unit, target)
    model, names = rewrite_network(network, bases, allocation.plan)
    cost = measure_cost(model, {"x": (1, 3, 8, 8)})
    assert (cost.macs, cost.parameters) == predict_cost(network, allocation.plan)
    assert set(names) == set(allocation.plan.components)
    onnx.checker.check_model(model, full_check=True)
    whole = network.cost.macs if unit == "macs" else network.total_parameters
    found = cost.macs if unit == "macs" else cost.parameters
    assert allocation.reached == (found <= target * whole)


@pytest.mark.parametrize("kind", ["fisher", "svd", "literal"])
def test_full_rank_computes_the_same(kind: BasisKind) -> None:
    original, network = make_network()
    bases, scores = find_bases(network, find_head(network.program), kind, stream, 16, 0, Silence())
    plan = Plan({name: np.arange(len(item)) for name, item in scores.items()})
    model, _ = rewrite_network(network, bases, plan)
    for before, after in zip(
        Session(serialize_model(original)).run({"x": IMAGES}),
        Session(serialize_model(model)).run({"x": IMAGES}),
        strict=True,
    ):
        # float32: 1e-5 of the largest output.
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())


def test_centers_are_means_and_of_the_literal_variant_biases() -> None:
    _, network = make_network()
    head = find_head(network.program)
    bases, _ = find_bases(network, head, "svd", stream, 16, 0, Silence())
    literal, _ = find_bases(network, head, "literal", stream, 16, 0, Silence())
    for name, layer in network.eligible.items():
        if name in literal:
            np.testing.assert_array_equal(literal[name].center, network.bias(layer))
            assert np.abs(bases[name].center - network.bias(layer)).max() > 1e-3
