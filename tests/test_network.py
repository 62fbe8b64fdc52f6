"""Reading real graphs for planning: what can be decomposed, which channels can go."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from onnx_basisprune.errors import ConfigError
from onnx_basisprune.graph.surgery import remove_channels
from onnx_basisprune.network import Network, match_channels, read_channels, read_network

ReadNetwork = Callable[..., Network]


def test_eligible_convs_and_reasons(branching: ReadNetwork) -> None:
    network = branching(("second",))
    assert list(network.eligible) == ["stem", "first", "wide", "idle"]
    reasons = {layer.name: layer.reason for layer in network.layers if layer.reason}
    assert reasons.keys() == {"second", "deep"}
    assert "--exclude" in reasons["second"]
    assert reasons["deep"] == "depthwise"


def test_unknown_exclusions_are_refused(branching: ReadNetwork) -> None:
    with pytest.raises(ConfigError, match="nobody"):
        branching(("nobody",))


def test_free_groups(branching: ReadNetwork) -> None:
    groups = {group.name: group for group in branching().channels.groups}
    free = {name: len(group.channels) for name, group in groups.items() if not group.blocked_by}
    # The depthwise Conv's channels are those of the second Conv.
    assert free == {"stem": 6, "first": 6, "second": 6, "wide": 20}
    assert "side" in groups["idle"].blocked_by
    assert "z" in groups["fc"].blocked_by


@pytest.mark.parametrize(("excluded", "kept"), [("stem", {"stem"}), ("first", {"stem", "first"}), ("fc", {"wide"})])
def test_groups_of_excluded_nodes_stay(branching: ReadNetwork, excluded: str, kept: set[str]) -> None:
    groups = {group.name: group.blocked_by for group in branching((excluded,)).channels.groups}
    assert {name for name, reason in groups.items() if "--exclude" in reason} == kept


def test_weights_as_matrices(branching: ReadNetwork) -> None:
    network = branching()
    layer = network.eligible["wide"]
    assert network.weight(layer).shape == (20, 6)
    assert network.weight(layer).dtype == np.float64
    assert not network.bias(layer).any()
    assert network.bias(network.eligible["first"]).any()


def test_channels_are_found_again_after_a_cut(branching: ReadNetwork) -> None:
    network = branching()
    groups = {group.name: group for group in network.channels.groups}
    removed = [*groups["stem"].channels[[0, 2]].tolist(), *groups["wide"].channels[:15].tolist()]
    model = remove_channels(network.model, network.channels, removed, network.input_shapes)
    left = read_network(model, network.input_shape, ())
    origins = match_channels(network.channels, left.channels, removed)
    for group in left.channels.groups:
        old = groups[group.name]
        expected = old.channels[~np.isin(old.channels, removed)]
        assert [origins[channel] for channel in group.channels.tolist()] == expected.tolist()


def test_channels_need_no_input_shape(branching: ReadNetwork) -> None:
    network = branching()
    groups = read_channels(network.model, None, ("stem",)).groups
    assert [group.name for group in groups] == [group.name for group in network.channels.groups]
    assert "--exclude" in groups[0].blocked_by


def test_channels_that_pass_an_excluded_node_stay(branching: ReadNetwork) -> None:
    network = branching()
    (relu, *_) = (node for node in network.model.graph.node if node.op_type == "Relu")
    read = read_channels(network.model, network.input_shapes, (relu.name,))
    blocked = {label for group in read.groups if "--exclude" in group.blocked_by for label in group.channels.tolist()}
    assert blocked == set(np.unique(read.labels[relu.output[0]]).tolist())
