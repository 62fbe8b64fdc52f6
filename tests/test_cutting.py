"""Carrying plans out: nothing removed changes nothing, removed channels are gates of zero, compensation helps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from onnx_basisprune.assessment import Assessment, BasisKind, Calibration
from onnx_basisprune.budget import Budget, list_removed, plan_cut
from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.cutting import cut_network
from onnx_basisprune.graph.model_io import serialize_model
from onnx_basisprune.network import Network
from onnx_basisprune.planning.types import Operation, Plan
from onnx_basisprune.runtime.session import Session

Assess = Callable[..., tuple[Network, Assessment]]
Calibrate = Callable[..., Calibration]
Outputs = list[NDArray[np.float32]]
NAMES = ["branching", "digits", "ppocr_cls"]


def draw_images(network: Network) -> NDArray[np.float32]:
    return np.random.default_rng(5).standard_normal((3, *network.input_shape[1:]), dtype=np.float32)


def run(model: ModelProto, x: NDArray[np.float32]) -> Outputs:
    session = Session(serialize_model(model))
    return session.run({session.inputs[0].name: x})


def run_gated(network: Network, x: NDArray[np.float32], removed: NDArray[np.int64]) -> Outputs:
    """Run the original with zeros wherever a node reads a removed channel."""
    reads = {(read.node, read.input_index): read for read in network.channels.reads}

    def gate(operation: Operation, index: int, tensor: torch.Tensor) -> torch.Tensor:
        read = reads.get((operation.name, index))
        if read is None:
            return tensor
        gates = torch.from_numpy(~np.isin(read.labels, removed)).to(tensor.dtype)
        return tensor * gates.view([-1 if axis == read.axis else 1 for axis in range(tensor.ndim)])

    names = [spec.name for spec in network.program.outputs]
    with torch.no_grad():
        values = Executor(network.program).run({network.input_name: torch.from_numpy(x)}, names, alias=gate)
    return [values[name].numpy() for name in names]


def assert_close(found: Outputs, expected: Outputs, tolerance: float) -> None:
    for after, before in zip(found, expected, strict=True):
        np.testing.assert_allclose(after, before, rtol=0, atol=tolerance * np.abs(before).max())


def draw_channels(network: Network, seed: int) -> dict[str, NDArray[np.int64]]:
    """Random channels to keep, of every free group."""
    rng = np.random.default_rng(seed)
    return {
        group.name: np.sort(rng.permutation(group.channels)[: rng.integers(1, len(group.channels) + 1)])
        for group in network.channels.groups
        if not group.blocked_by
    }


@pytest.mark.parametrize("kind", ["fisher", "svd", "literal"])
@pytest.mark.parametrize("name", NAMES)
def test_full_rank_and_all_channels_compute_the_same(assess: Assess, name: str, kind: BasisKind) -> None:
    network, assessment = assess(name, "double", kind, count=32 if name == "branching" else 4)
    everything = {group.name: group.channels for group in network.channels.groups}
    plan = Plan({conv: np.arange(len(item)) for conv, item in assessment.components.items()}, everything)
    model, names = cut_network(network, assessment, plan)
    assert len(names) == len(assessment.components) > 0
    x = draw_images(network)
    assert_close(run(model, x), run(network.model, x), 1e-4)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", NAMES)
def test_without_compensation_removed_channels_are_gates_of_zero(assess: Assess, name: str, seed: int) -> None:
    network, assessment = assess(name, "double", compensate=False)
    plan = Plan({}, draw_channels(network, seed))
    removed = list_removed(network, plan)
    assert len(removed)
    model, names = cut_network(network, assessment, plan)
    assert names == {}
    x = draw_images(network)
    assert_close(run(model, x), run_gated(network, x, removed), 1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_full_rank_pairs_follow_removed_channels(assess: Assess, name: str) -> None:
    """Pairs of full rank, and Convs as they were, compute the same of what is left, compensated or not."""
    for compensate in (False, True):
        network, assessment = assess(name, "double", compensate=compensate)
        channels = draw_channels(network, 7)
        components = {conv: np.arange(len(item)) for conv, item in assessment.components.items()}
        x = draw_images(network)
        plain, paired = (run(cut_network(network, assessment, Plan(kept, channels))[0], x) for kept in ({}, components))
        assert_close(paired, plain, 1e-4)


def test_compensation_helps(assess: Assess, calibrate: Calibrate) -> None:
    errors = []
    for compensate in (False, True):
        network, assessment = assess("digits", "channels", compensate=compensate, count=64)
        x = np.concatenate([batch.x for batch in calibrate(network, 64).batches()])
        planned = plan_cut(network, assessment, "channels", Budget("macs", 0.7 * network.cost.macs))
        found = run(cut_network(network, assessment, planned.plan)[0], x)[0]
        errors.append(np.square(found - run(network.model, x)[0]).mean())
    assert errors[1] < 0.7 * errors[0]
