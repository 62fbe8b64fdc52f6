"""A small network with all that planning must cope with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from onnx_basisprune import choosing, frontier, latency, pipeline, table_file
from onnx_basisprune.assessment import Assessment, BasisKind, Calibration, Prune, assess_network
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.costing import Prices
from onnx_basisprune.data.batches import Batch
from onnx_basisprune.graph.cost import measure_cost
from onnx_basisprune.graph.fed_inputs import feed_inputs
from onnx_basisprune.graph.head import find_head
from onnx_basisprune.graph.model_io import load_model
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.graph.working_form import take_working_form
from onnx_basisprune.network import Network, read_network
from onnx_basisprune.progress import Progress, Silence
from onnx_basisprune.results import Latency, Speedup
from onnx_basisprune.runtime.benchmark import PairedLatency
from onnx_basisprune.runtime.cache_folder import CACHE_VARIABLE
from onnx_basisprune.runtime.fed_inputs import list_free, resolve_feeds
from onnx_basisprune.runtime.layer_timing import TimingSettings
from onnx_basisprune.runtime.profiling import NodeTime

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


@pytest.fixture(autouse=True)
def _keep_denormals() -> Iterator[None]:
    """Undo what onnxruntime does to the thread that runs a session: a test mustn't depend on those before it."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache out of the tests; commands that run as processes of their own inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_memory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test go on from what another one worked out, perhaps with steps that it has put in the place of ours."""
    folder = tmp_path_factory.mktemp("memory")
    monkeypatch.setattr("onnx_basisprune.cache.find_cache_folder", lambda: folder)


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
        shapes = {"digits": (16, 16), "ppocr_cls": (48, 64), "efficientnet_lite0_imagenet": (224, 224)}
        shape = (1, 3, *shapes.get(name, (32, 32)))
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


@dataclass(frozen=True)
class StairPrice:
    """Time that goes with the multiply-adds of counts filled up to a block; a pair costs a little on top.

    Attributes:
        unit: Time per weight element.
        kernel: Weight elements per input channel.
        block: What counts are filled up to.
        slowness: What pairs take more than their multiply-adds, as a factor.
    """

    unit: float
    kernel: int
    block: int
    slowness: float = 1.0

    def fill(self, counts: NDArray[np.int64] | int) -> NDArray[np.float64]:
        filled: NDArray[np.float64] = np.ceil(np.asarray(counts) / self.block) * self.block
        return filled

    def whole(self, in_channels: int, out_channels: int) -> float:
        return self.unit * self.kernel * float(self.fill(in_channels) * self.fill(out_channels))

    def pair(self, in_channels: int, ranks: NDArray[np.int64], out_channels: int) -> NDArray[np.float64]:
        elements = self.kernel * self.fill(in_channels) + self.fill(out_channels)
        return self.slowness * self.unit * self.fill(ranks) * elements


@pytest.fixture(scope="session")
def invent_prices() -> Callable[..., Prices]:
    """Return a function that makes up times for a network; pairs of Convs in `slow` are never faster."""

    def invent(network: Network, block: int = 16, slow: Collection[str] = ()) -> Prices:
        macs = {row.name: row.macs or 0 for row in network.cost.nodes}
        layers = {}
        for name, layer in network.eligible.items():
            shape = network.program.initializers[layer.weight].shape
            unit = 1e-3 * macs[name] / prod(shape)
            layers[name] = StairPrice(unit, prod(shape[2:]), block, 1000.0 if name in slow else 1.05)
        rng = np.random.default_rng(0)
        others = [operation.name for operation in network.program.operations if operation.name not in layers]
        nodes = {name: 1e-3 * macs.get(name, 0) + 10 * float(rng.random()) for name in others}
        return Prices(layers, nodes, 5.0, block)

    return invent


@pytest.fixture(scope="session")
def invent_assessment() -> Callable[..., Assessment]:
    """Return a function that makes up scores for a network, enough to plan with."""

    def invent(network: Network, seed: int = 0) -> Assessment:
        rng = np.random.default_rng(seed)
        components = {name: rng.exponential(size=layer.full_rank) for name, layer in network.eligible.items()}
        channels = {int(c): float(rng.exponential()) for group in network.channels.groups for c in group.channels}
        return Assessment({}, components, channels, {}, ())

    return invent


class FakeClock:
    """A machine on which time goes with multiply-adds, whatever else it is doing.

    Attributes:
        layers: Names of the layers that were timed, in order.
        models: How many models were profiled.
        pairs: How many models were timed against their original.
    """

    def __init__(self) -> None:
        self.layers: list[str] = []
        self.models = 0
        self.pairs = 0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put it in the place of whatever looks at a clock in a compression run."""
        patch.setattr(latency, "time_layers", self.time_layers)
        patch.setattr(latency, "profile_nodes", self.profile_nodes)
        patch.setattr(table_file, "detect_block", lambda *_: 4)
        patch.setattr(table_file, "measure_overhead", lambda *_: 0.25)
        for module in (choosing, frontier, pipeline):
            patch.setattr(module, "time_pair", self.time_pair)

    def time_layers(
        self, models: Mapping[str, Callable[[], bytes]], _: TimingSettings, __: str, progress: Callable[[int], None]
    ) -> dict[str, float]:
        self.layers += models
        progress(len(models))
        return {name: 1.25 + 1e-3 * measure_cost(onnx.load_from_string(make())).macs for name, make in models.items()}

    def profile_nodes(self, model: Path, feeds: Mapping[str, NDArray[np.float32]], **_: Any) -> tuple[NodeTime, ...]:
        self.models += 1
        shapes = {name: values.shape for name, values in feeds.items()}
        rows = measure_cost(onnx.load(model), shapes).nodes
        return tuple(NodeTime(row.name, row.op_type, 1.25 + 1e-3 * (row.macs or 0)) for row in rows)

    def time_pair(
        self,
        compressed: Path,
        image_shape: Sequence[int],
        config: CompressionConfig,
        *_: float,
        **__: Progress,
    ) -> PairedLatency:
        self.pairs += 1
        a, b = (self._time_model(path, image_shape, config.feed) for path in (config.model, compressed))
        return PairedLatency(
            Latency(a, a, 1, 30), Latency(b, b, 1, 30), Speedup(a / b, a / b, a / b), 1.0, 1.0, np.ones(30), np.ones(30)
        )

    def _time_model(self, path: Path, image_shape: Sequence[int], feed: Sequence[str]) -> float:
        model = onnx.load(path)
        inputs = extract_program(model).inputs
        fed = resolve_feeds(feed, inputs)
        image = list_free(inputs, fed)[0].name
        cost = measure_cost(take_working_form(feed_inputs(model, fed, image)), {image: (1, *image_shape)})
        return 1e-3 * (0.5 * len(cost.nodes) + 1e-3 * cost.macs)


@pytest.fixture
def fake_clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeClock:
    """Put a made-up machine in the place of this one, with a cache folder of its own."""
    clock = FakeClock()
    clock.install(monkeypatch)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return clock
