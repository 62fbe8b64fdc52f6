"""The two passes: what each kind of pruning asks of them, and what they find."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from onnx_basisprune.assessment import Assessment, BasisKind, Calibration, Prune, assess_network, list_places
from onnx_basisprune.network import Network
from onnx_basisprune.progress import Silence

ReadNetwork = Callable[..., Network]
Calibrate = Callable[..., Calibration]


class Stages(Silence):
    """Keeps what has been done of each stage, beside what was announced."""

    def __init__(self) -> None:
        self.stages: list[list[object]] = []

    def start(self, stage: str, total: float | None = None) -> None:
        self.stages.append([stage, total, 0.0])

    def advance(self, amount: float) -> None:
        self.stages[-1][2] += amount  # type: ignore[operator]


def assess(network: Network, calibration: Calibration, kind: BasisKind, prune: Prune) -> Assessment:
    return assess_network(network, calibration, kind, prune, Silence())


@pytest.mark.parametrize("prune", ["basis", "channels", "double"])
def test_only_what_is_to_be_pruned_is_looked_at(branching: ReadNetwork, calibrate: Calibrate, prune: Prune) -> None:
    network = branching()
    found = assess(network, calibrate(network), "fisher", prune)
    # The loss never sees `idle`: nothing is known of it, so it stays as it is.
    convs = set() if prune == "channels" else {"stem", "first", "second", "wide"}
    assert set(found.bases) == set(found.components) == convs
    free = {c for group in network.channels.groups if not group.blocked_by for c in group.channels.tolist()}
    assert free <= set(found.channels) if prune != "basis" else found.channels == {}
    assert bool(found.reads) == bool(found.compensated) == (prune != "basis")
    for scores in found.components.values():
        assert (scores >= 0).all()
        assert scores.max() > 0
    assert all(score >= 0 for score in found.channels.values())


def test_both_kinds_of_scores_are_the_same_alone_and_together(branching: ReadNetwork, calibrate: Calibrate) -> None:
    network = branching()
    basis, channels, double = (
        assess(network, calibrate(network), "fisher", prune) for prune in ("basis", "channels", "double")
    )
    for name, scores in basis.components.items():
        # float32 sums; watching more leaves adds nothing.
        np.testing.assert_allclose(double.components[name], scores, rtol=1e-3, atol=1e-6 * scores.max())
    largest = max(channels.channels.values())
    for channel, score in channels.channels.items():
        assert double.channels[channel] == pytest.approx(score, rel=1e-3, abs=1e-6 * largest)


def test_centers_are_means_and_of_the_literal_variant_biases(branching: ReadNetwork, calibrate: Calibrate) -> None:
    network = branching()
    bases = assess(network, calibrate(network), "svd", "basis").bases
    literal = assess(network, calibrate(network), "literal", "basis").bases
    assert set(bases) == set(literal)
    for name, basis in literal.items():
        bias = network.bias(network.eligible[name])
        np.testing.assert_array_equal(basis.center, bias)
        assert np.abs(bases[name].center - bias).max() > 1e-3


def test_gates_are_centred_only_where_consumers_are_compensated(branching: ReadNetwork, calibrate: Calibrate) -> None:
    network = branching()
    with_it = assess(network, calibrate(network), "fisher", "channels")
    without = assess_network(network, calibrate(network), "fisher", "channels", Silence(), compensate=False)
    assert without.compensated == ()
    places = {place.edge: place for place in list_places(network)}
    assert {item.edge for item in with_it.compensated} <= set(places)
    centred = {c for item in with_it.compensated for c in item.read.labels.tolist()}
    for channel, score in without.channels.items():
        if channel not in centred:
            assert with_it.channels[channel] == pytest.approx(score, rel=1e-4)
    assert any(with_it.channels[c] != pytest.approx(without.channels[c], rel=1e-2) for c in centred)


@pytest.mark.parametrize("prune", ["basis", "double"])
def test_progress_goes_to_the_end_of_each_pass(branching: ReadNetwork, calibrate: Calibrate, prune: Prune) -> None:
    network = branching()
    stages = Stages()
    assess_network(network, calibrate(network, 11), "fisher", prune, stages)
    assert stages.stages == [["moments", 11, 11], ["bases", None, 0], ["scores", 11, 11]]
