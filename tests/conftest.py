"""A small network with all that planning must cope with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from onnx import ModelProto, numpy_helper

from onnx_basisprune.assessment import Assessment, BasisKind, Calibration, Prune, assess_network
from onnx_basisprune.data.batches import Batch
from onnx_basisprune.graph.head import find_head
from onnx_basisprune.graph.model_io import load_model
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.network import Network, read_network
from onnx_basisprune.progress import Silence
from onnx_basisprune.runtime.cache_folder import CACHE_VARIABLE

# One weight in two Convs, one bias in two Convs, batch normalisation, a depthwise Conv, an expansion, and a branch that
# the loss never sees.
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
ROOT = Path(__file__).resolve().parents[1]


def make_model() -> ModelProto:
    model = onnx.parser.parse_model(TEXT)
    generator = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        values = generator.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
        values = np.abs(values) + 0.5 if name == "var" else values
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return model


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache out of the tests; commands that run as processes of their own inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def branching() -> Callable[..., Network]:
    """Return a function that reads the small network without some nodes."""

    def read(exclude: tuple[str, ...] = ()) -> Network:
        return read_network(normalize_model(make_model()), (1, 3, 8, 8), exclude)

    return read


@pytest.fixture(scope="session")
def named_network(branching: Callable[..., Network]) -> Callable[[str], Network]:
    """Return a function that reads `branching`, the sample model `digits` or a shared model."""

    @cache
    def read(name: str) -> Network:
        if name == "branching":
            return branching()
        shared = ROOT.parent / "shared" / "models" / f"{name}.onnx"
        path = ROOT / "sample_models" / "digits.onnx" if name == "digits" else shared
        if not path.exists():
            pytest.skip("the shared models aren't beside the repository")
        shape = {"digits": (1, 3, 16, 16), "ppocr_cls": (1, 3, 48, 64)}.get(name, (1, 3, 32, 32))
        return read_network(normalize_model(load_model(path)), shape, ())

    return read


@pytest.fixture(scope="session")
def calibrate() -> Callable[..., Calibration]:
    """Return a function that gives a network random images, `count` in two batches, without labels."""

    def make(network: Network, count: int = 16) -> Calibration:
        x = np.random.default_rng(1).standard_normal((count, *network.input_shape[1:]), dtype=np.float32)
        parts = np.array_split(np.arange(count), 2)
        return Calibration(find_head(network.program), lambda: [Batch(i, x[i], None) for i in parts], count, 0)

    return make


@pytest.fixture(scope="session")
def assess(
    named_network: Callable[[str], Network], calibrate: Callable[..., Calibration]
) -> Callable[..., tuple[Network, Assessment]]:
    """Return a function that reads a network by name and assesses it on `count` images, once for the whole session."""

    @cache
    def find(
        name: str, prune: Prune, kind: BasisKind = "svd", *, compensate: bool = True, count: int = 4
    ) -> tuple[Network, Assessment]:
        network = named_network(name)
        calibration = calibrate(network, count)
        return network, assess_network(network, calibration, kind, prune, Silence(), compensate=compensate)

    return find
