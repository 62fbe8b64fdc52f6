"""Prices from a table: what is measured, once only, and what a pinned table must hold."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_basisprune import latency
from onnx_basisprune.assessment import Assessment, Prune
from onnx_basisprune.budget import Budget, plan_cut
from onnx_basisprune.costing import Prices, sum_latency
from onnx_basisprune.errors import ConfigError, ModelError
from onnx_basisprune.graph.layer_models import FEED
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.latency import digest_model, price_network
from onnx_basisprune.network import Network, read_network
from onnx_basisprune.progress import Recorder, Silence
from onnx_basisprune.runtime.latency_table import LatencyTable
from onnx_basisprune.runtime.layer_timing import TimingSettings
from onnx_basisprune.runtime.profiling import NodeTime, profile_nodes

ReadNetwork = Callable[[str], Network]


class FakeClock:
    """Times layers by their names' lengths, and every node of a model the same."""

    def __init__(self) -> None:
        self.layers: list[str] = []
        self.models = 0
        self.node = 50.0

    def time_layers(
        self, models: Mapping[str, Callable[[], bytes]], _: TimingSettings, ignored: str, progress: Any
    ) -> dict[str, float]:
        assert ignored == FEED
        self.layers += models
        progress(len(models))
        onnx.checker.check_model(onnx.load_from_string(next(iter(models.values()))()), full_check=True)
        return {key: 100.0 + len(key) for key in models}

    def profile_nodes(
        self, model: Path, feeds: Mapping[str, Any], *, threads: int | None, provider: str
    ) -> tuple[NodeTime, ...]:
        self.models += 1
        assert (threads, provider) == (1, "cpu")
        proto = onnx.load(model)
        assert list(feeds) == [proto.graph.input[0].name]
        nodes = [NodeTime(node.name, node.op_type, self.node) for node in proto.graph.node]
        return (*nodes, NodeTime("ReorderOutput", "ReorderOutput", 9.0), NodeTime("ReorderInput", "ReorderInput", 9.0))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    fake = FakeClock()
    monkeypatch.setattr(latency, "time_layers", fake.time_layers)
    monkeypatch.setattr(latency, "profile_nodes", fake.profile_nodes)
    return fake


def make_table(overhead: float = 4.0) -> LatencyTable:
    return LatencyTable({"cpu": "made up"}, 16, overhead)


def price(
    network: Network, table: LatencyTable, batch_size: int = 1, prune: Prune = "double", align: int = 16
) -> Prices:
    return price_network(network, table, TimingSettings(1), batch_size, prune, align, Recorder(Silence()))


def test_every_form_is_measured_once(named_network: ReadNetwork, clock: FakeClock) -> None:
    network, table = named_network("digits"), make_table()
    prices = price(network, table)
    assert len(clock.layers) == len(set(clock.layers)) > 20
    assert clock.layers == list(table.layers)
    assert clock.models == len(table.models) == 1
    # The profiler's cost is taken off.
    assert table.layers == {key: 96.0 + len(key) for key in clock.layers}
    assert set(prices.layers) == set(network.eligible)
    assert set(prices.nodes) == set(network.operations) - set(network.eligible)
    assert set(prices.nodes.values()) == {46.0}
    # Of both reorders.
    assert (prices.fixed, prices.block) == (10.0, 16)
    again = price(network, table)
    assert (clock.models, len(clock.layers)) == (1, len(table.layers))
    assert sum_latency(network, again) == sum_latency(network, prices)


def test_only_what_is_new_is_measured(named_network: ReadNetwork, clock: FakeClock) -> None:
    network, table = named_network("digits"), make_table()
    price(network, table, align=32)
    before = list(clock.layers)
    price(network, table, align=16)
    assert len(clock.layers) == len(set(clock.layers)) > len(before)
    assert clock.models == 1
    # Another batch size is another model and other layers.
    price(network, table, batch_size=8)
    assert clock.models == len(table.models) == 2
    assert len(clock.layers) == len(set(clock.layers))


@pytest.mark.parametrize(("prune", "align"), [("basis", 16), ("channels", 16), ("double", 8), ("double", 1)])
def test_all_that_a_plan_can_choose_has_a_time(
    named_network: ReadNetwork,
    clock: FakeClock,
    invent_assessment: Callable[..., Assessment],
    prune: Prune,
    align: int,
) -> None:
    network = named_network("digits")
    prices = price(network, make_table(), prune=prune, align=align)
    for name, layer in network.eligible.items():
        outs, ins = network.program.initializers[layer.weight].shape[:2]
        ranks = np.arange(1, layer.full_rank + 1)
        assert np.isfinite(prices.layers[name].whole(ins, outs))
        pairs = prices.layers[name].pair(ins, ranks, outs)
        largest = 0 if prune == "channels" else layer.break_even_rank // align * align
        assert np.array_equal(np.isfinite(pairs), ranks <= largest), name
    planned = plan_cut(
        network, invent_assessment(network), prune, Budget("latency", 0.9 * sum_latency(network, prices)), prices, align
    )
    assert np.isfinite(planned.left)


def test_channels_that_stay_are_not_varied(clock: FakeClock, named_network: ReadNetwork) -> None:
    network = named_network("digits")
    counts = {
        prune: latency._choose_grid(network, name, prune, 16, 16)
        for name in list(network.eligible)[-1:]
        for prune in ("basis", "double", "channels")
    }
    layer = list(network.eligible.values())[-1]
    outs, ins = network.program.initializers[layer.weight].shape[:2]
    assert (counts["basis"].ins, counts["basis"].outs) == ((ins,), (outs,))
    assert counts["channels"].ranks == ()
    assert counts["basis"].ranks == counts["double"].ranks != ()
    assert len(counts["double"].ins) > 1
    assert counts["double"].ins[-1] == ins
    assert all(count % 16 == 0 for count in counts["double"].ins[:-1] + counts["double"].ranks)


def test_times_within_the_model_put_those_of_layers_right(named_network: ReadNetwork, clock: FakeClock) -> None:
    network = named_network("digits")
    name = next(iter(network.eligible))
    outs, ins = network.program.initializers[network.eligible[name].weight].shape[:2]
    key = latency.find_conv_shapes(
        network.program,
        latency.infer_shapes(network.model, {network.input_name: (1, *network.input_shape[1:])}),
        [name],
    )[name].key
    alone = 100.0 + len(key)
    # Half and double are the limits of what isn't noise.
    for within, expected in ((alone, alone), (1.5 * alone, 1.5 * alone), (5 * alone, 2 * alone), (1.0, 0.5 * alone)):
        clock.node = within
        prices = price(network, make_table(overhead=0.0))
        assert prices.layers[name].whole(ins, outs) == pytest.approx(expected, rel=1e-12)


def test_kernels_faster_than_the_profiler_take_some_time(named_network: ReadNetwork, clock: FakeClock) -> None:
    clock.node = 1.0
    table = make_table(overhead=500.0)
    prices = price(named_network("digits"), table)
    assert set(table.layers.values()) == {0.1}
    assert set(prices.nodes.values()) == {0.1}


def test_other_providers_have_no_times_of_nodes(
    named_network: ReadNetwork, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TimingSettings, "has_kernel_times", property(lambda _: False))
    prices = price(named_network("digits"), make_table(overhead=0.0))
    assert (prices.nodes, prices.fixed) == ({}, 0.0)
    assert set(prices.layers) == set(named_network("digits").eligible)


# -- pinned tables --------------------------------------------------------------------------------------------------


def test_a_pinned_table_answers_all_by_itself(
    named_network: ReadNetwork, clock: FakeClock, invent_assessment: Callable[..., Assessment]
) -> None:
    network, table = named_network("digits"), make_table()
    price(network, table)
    measured, pinned = len(clock.layers), replace(table, pinned=True)
    before = pinned.render()
    budget = Budget("latency", 0.6 * sum_latency(network, price(network, pinned)))
    first, second = (
        plan_cut(network, invent_assessment(network), "double", budget, price(network, pinned), 16).plan
        for _ in range(2)
    )
    assert first.components or first.channels
    np.testing.assert_equal(first.components, second.components)
    np.testing.assert_equal(first.channels, second.channels)
    assert (len(clock.layers), clock.models, pinned.render()) == (measured, 1, before)


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from onnx_basisprune.assessment import Assessment
from onnx_basisprune.budget import Budget, plan_cut
from onnx_basisprune.costing import sum_latency
from onnx_basisprune.graph.model_io import load_model
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.latency import price_network
from onnx_basisprune.network import read_network
from onnx_basisprune.progress import Recorder, Silence
from onnx_basisprune.runtime.latency_table import read_pinned_table
from onnx_basisprune.runtime.layer_timing import TimingSettings

network = read_network(normalize_model(load_model(Path(sys.argv[1]))), (1, 3, 16, 16), ())
table = read_pinned_table(Path(sys.argv[2]))
prices = price_network(network, table, TimingSettings(1), 1, "double", 8, Recorder(Silence()))
rng = np.random.default_rng(0)
components = {name: rng.exponential(size=layer.full_rank) for name, layer in network.eligible.items()}
channels = {int(c): 0.8 * float(rng.exponential()) for group in network.channels.groups for c in group.channels}
whole = sum_latency(network, prices)
planned = plan_cut(
    network, Assessment({}, components, channels, {}, ()), "double", Budget("latency", 0.5 * whole), prices, 8
)
for kept in (planned.plan.components, planned.plan.channels):
    print({name: values.tolist() for name, values in kept.items()})
print(planned.left.hex(), planned.reached)
"""


def test_the_same_table_gives_the_same_plan_in_every_process(
    named_network: ReadNetwork, fake_clock: Any, tmp_path: Path
) -> None:
    table = make_table()
    price(named_network("digits"), table, align=8)
    (tmp_path / "t.json").write_text(table.render(), encoding="utf-8")
    sample = Path(__file__).resolve().parents[1] / "sample_models" / "digits.onnx"
    runs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(sample), str(tmp_path / "t.json")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    components, channels, end = runs[0].splitlines()
    assert end.endswith("True")
    assert (components, channels) != ("{}", "{}")


def test_a_pinned_table_that_lacks_a_layer_is_refused(named_network: ReadNetwork, clock: FakeClock) -> None:
    network, table = named_network("digits"), make_table()
    price(network, table)
    gone = list(table.layers)[3]
    pinned = replace(table, pinned=True, layers={key: time for key, time in table.layers.items() if key != gone})
    with pytest.raises(ConfigError, match="--latency-table has no time for 1 layer") as caught:
        price(network, pinned)
    assert f"'{gone}'" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert clock.models == 1


def test_a_pinned_table_of_another_model_is_refused(named_network: ReadNetwork, clock: FakeClock) -> None:
    network, table = named_network("digits"), make_table()
    price(network, table)
    for wrong, batch_size in ((replace(table, models={}), 1), (table, 2)):
        with pytest.raises(ConfigError, match="--latency-table was not measured for this model"):
            price(network, replace(wrong, pinned=True), batch_size)
    assert clock.models == 1


# -- what a model is known by ---------------------------------------------------------------------------------------

TEXT = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[N, 3, 8, 8] x) => (float[N, 4] y)
    {
        [conv] a = Conv <pads = [1, 1, 1, 1]> (x, w, b)
        [act] r = Relu (a)
        [shape] s = Reshape (r, size)
        [conv2] c = Conv (s, w2)
        [pool] g = GlobalAveragePool (c)
        [flat] y = Flatten (g)
    }
"""


def build(seed: int = 0, activation: str = "Relu", batch: int = 0, outputs: int = 8) -> Network:
    model = onnx.parser.parse_model(TEXT.replace("Relu", activation))
    rng = np.random.default_rng(seed)
    for name, shape in (("w", (outputs, 3, 3, 3)), ("b", (outputs,)), ("w2", (4, outputs, 1, 1))):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(np.array([batch, outputs, 8, 8]), "size"))
    return read_network(normalize_model(model), (1, 3, 8, 8), ())


def test_a_model_is_known_by_all_but_its_weights_values() -> None:
    """Time doesn't depend on them, and rounds on another machine end with other last digits."""
    digest = digest_model(build(), 1)
    assert digest == digest_model(build(seed=1), 1)
    others = [
        digest_model(build(), 2),
        digest_model(build(activation="Tanh"), 1),
        digest_model(build(outputs=12), 1),
    ]
    assert len({digest, *others}) == 4


def test_a_batch_that_the_model_cannot_run_is_one_line_before_any_layer(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Reshape has the batch of 1 in it."""
    network = build(batch=1)
    price(network, make_table())
    measured = len(clock.layers)
    monkeypatch.setattr(latency, "profile_nodes", profile_nodes)
    with pytest.raises(ModelError, match="can't run it") as caught:
        price(network, make_table(), batch_size=4)
    assert len(str(caught.value).splitlines()) == 1
    assert len(clock.layers) == measured


def test_a_table_does_not_hide_shapes_that_are_not_known(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    network, table = build(), make_table()
    price(network, table)
    monkeypatch.setattr(latency, "_infer_batch", lambda *_: {})
    with pytest.raises(ModelError, match=r"'conv2?' reads isn't known for a batch of 1"):
        price(network, table)
