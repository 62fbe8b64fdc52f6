"""Costs as terms: they add up to the network's time, and plans keep to blocks and to what is faster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

import numpy as np
import pytest

from onnx_basisprune.assessment import Assessment
from onnx_basisprune.budget import Budget, PlannedCut, list_removed, plan_cut, predict_times
from onnx_basisprune.costing import Prices, TermBuilder, Unit, find_main_weight, sum_latency
from onnx_basisprune.graph.shapes import infer_shapes
from onnx_basisprune.graph.surgery import remove_channels
from onnx_basisprune.network import Network
from onnx_basisprune.planning.types import Plan

ReadNetwork = Callable[[str], Network]
InventPrices = Callable[..., Prices]
InventAssessment = Callable[..., Assessment]
GRAPHS = ["branching", "digits", "ppocr_cls", "resnet20_cifar10", "vgg16_cifar10", "efficientnet_lite0_imagenet"]


@pytest.fixture(scope="session")
def read(named_network: ReadNetwork) -> ReadNetwork:
    return named_network


def count_whole(network: Network, unit: Unit, prices: Prices) -> float:
    if unit == "latency":
        return sum_latency(network, prices)
    return network.cost.macs if unit == "macs" else network.cost.parameters


def price_cut(network: Network, planned: PlannedCut, prices: Prices) -> float:
    """Price a cut network from the shapes of its tensors, without axes or terms."""
    removed = list_removed(network, planned.plan)
    model = remove_channels(network.model, network.channels, removed, network.input_shapes)
    before = infer_shapes(network.model, network.input_shapes)
    after = infer_shapes(model, network.input_shapes)
    total = prices.fixed
    for name, price in prices.layers.items():
        outs, ins = after[network.eligible[name].weight][:2]
        rank = planned.plan.components.get(name)
        total += price.whole(ins, outs) if rank is None else float(price.pair(ins, np.array([len(rank)]), outs)[0])
    for name, time in prices.nodes.items():
        operation = network.operations[name]
        grows_with = find_main_weight(operation, network) or operation.outputs[0]
        total += time * prod(after[grows_with]) / prod(before[grows_with])
    return total


@pytest.mark.parametrize("name", GRAPHS)
def test_terms_add_up_to_the_networks_time(
    read: ReadNetwork, invent_prices: InventPrices, invent_assessment: InventAssessment, name: str
) -> None:
    network = read(name)
    prices = invent_prices(network)
    walk = TermBuilder(network, "latency", prices, 1).start(invent_assessment(network), "double")
    whole = sum_latency(network, prices)
    # Sums of some hundred float64 numbers.
    assert walk.cost == pytest.approx(whole, rel=1e-9)
    assert whole == pytest.approx(price_cut(network, plan(network, prices, invent_assessment, 1.0), prices), rel=1e-9)


def plan(
    network: Network,
    prices: Prices,
    invent_assessment: InventAssessment,
    target: float,
    unit: Unit = "latency",
    align: int = 16,
) -> PlannedCut:
    budget = Budget(unit, target * count_whole(network, unit, prices))
    return plan_cut(network, invent_assessment(network), "double", budget, prices, align)


@pytest.mark.parametrize("target", [0.7, 0.4, 0.01])
@pytest.mark.parametrize("name", GRAPHS[:5])
def test_what_is_left_is_what_the_cut_network_takes(
    read: ReadNetwork, invent_prices: InventPrices, invent_assessment: InventAssessment, name: str, target: float
) -> None:
    network = read(name)
    for block, align in ((16, 16), (8, 1)):
        prices = invent_prices(network, block)
        planned = plan(network, prices, invent_assessment, target, align=align)
        assert planned.left == pytest.approx(price_cut(network, planned, prices), rel=1e-9)
        assert planned.reached == (planned.left <= target * sum_latency(network, prices))


@pytest.mark.parametrize("target", [1.0, 0.7, 0.4])
@pytest.mark.parametrize("name", GRAPHS)
def test_the_convs_times_add_up_to_what_is_left(
    read: ReadNetwork, invent_prices: InventPrices, invent_assessment: InventAssessment, name: str, target: float
) -> None:
    network = read(name)
    invented = invent_prices(network)
    convs = {layer.name for layer in network.layers}
    # With no time but the Convs', theirs must be the forecast's.
    prices = replace(invented, nodes={name: time for name, time in invented.nodes.items() if name in convs}, fixed=0.0)
    planned = plan(network, prices, invent_assessment, target, align=8)
    times = predict_times(network, prices, planned.plan)
    assert set(times) == convs
    assert 1000 * sum(times.values()) == pytest.approx(planned.left, rel=1e-9)
    if target < 1:
        assert planned.plan.channels
        assert sum(times.values()) < sum(predict_times(network, prices, Plan({}, {})).values())


@pytest.mark.parametrize("unit", ["latency", "macs", "params"])
@pytest.mark.parametrize(
    ("name", "align"),
    # 64 isn't a multiple of 12: the first block is a smaller one.
    [("resnet20_cifar10", 8), ("resnet20_cifar10", 16), ("vgg16_cifar10", 8), ("vgg16_cifar10", 12)],
)
def test_ranks_and_kept_channels_are_multiples(
    read: ReadNetwork,
    invent_prices: InventPrices,
    invent_assessment: InventAssessment,
    name: str,
    unit: Unit,
    align: int,
) -> None:
    network = read(name)
    prices = invent_prices(network, align)
    seen = []
    for target in (0.8, 0.5, 0.2):
        planned = plan(network, prices, invent_assessment, target, unit, align)
        assert all(len(kept) % align == 0 for kept in planned.plan.components.values())
        model = remove_channels(
            network.model, network.channels, list_removed(network, planned.plan), network.input_shapes
        )
        after = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        for layer in network.layers:
            sizes = zip(after[layer.weight][:2], network.program.initializers[layer.weight].shape[:2], strict=True)
            assert all(new % align == 0 or new == old for new, old in sizes), layer.name
        seen += [*planned.plan.components, *planned.plan.channels]
        # Groups of 16 channels can't lose 16.
        assert planned.reached or target < 0.8
    assert seen


@pytest.mark.parametrize("unit", ["latency", "macs", "params"])
@pytest.mark.parametrize("name", ["digits", "resnet20_cifar10"])
def test_no_pair_where_it_is_slower(
    read: ReadNetwork,
    invent_prices: InventPrices,
    invent_assessment: InventAssessment,
    name: str,
    unit: Unit,
) -> None:
    network = read(name)
    slow = list(network.eligible)[::2]
    prices = invent_prices(network, 4, slow)
    budget, assessment = Budget(unit, 0.5 * count_whole(network, unit, prices)), invent_assessment(network)
    planned = plan_cut(network, assessment, "basis", budget, prices, 4)
    assert planned.plan.components
    assert not set(slow) & set(planned.plan.components)
    removed = list_removed(network, planned.plan)
    model = remove_channels(network.model, network.channels, removed, network.input_shapes)
    after = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for conv, kept in planned.plan.components.items():
        outs, ins = after[network.eligible[conv].weight][:2]
        price = prices.layers[conv]
        assert price.pair(ins, np.array([len(kept)]), outs)[0] < price.whole(ins, outs)
    if unit != "latency":
        blind = plan_cut(network, assessment, "basis", budget, None, 1)
        assert set(slow) & set(blind.plan.components), "the guard made no difference"


def test_a_network_of_slow_pairs_keeps_its_convs(
    read: ReadNetwork, invent_prices: InventPrices, invent_assessment: InventAssessment
) -> None:
    network = read("digits")
    prices = invent_prices(network, 4, list(network.eligible))
    assessment = invent_assessment(network)
    planned = plan_cut(network, assessment, "basis", Budget("macs", 0.5 * network.cost.macs), prices, 4)
    assert (planned.plan.components, planned.plan.channels, planned.reached) == ({}, {}, False)


def test_an_alignment_larger_than_a_group_keeps_it_whole(
    read: ReadNetwork, invent_prices: InventPrices, invent_assessment: InventAssessment
) -> None:
    network = read("digits")
    planned = plan(network, invent_prices(network), invent_assessment, 0.1, "macs", 4096)
    assert (planned.plan.components, planned.plan.channels, planned.reached) == ({}, {}, False)


def test_time_without_prices_is_refused(read: ReadNetwork, invent_assessment: InventAssessment) -> None:
    network = read("branching")
    with pytest.raises(ValueError, match="needs measured prices"):
        plan_cut(network, invent_assessment(network), "double", Budget("latency", 1.0), None)
