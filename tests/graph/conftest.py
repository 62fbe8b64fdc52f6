"""Models run in onnxruntime, before and after a change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.graph.dependency import ChannelMap, map_channels
from onnx_basisprune.graph.model_io import passes_full_check
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.graph.surgery import find_unfit_groups, remove_channels
from onnx_basisprune.planning.types import Operation

Feeds = Mapping[str, np.ndarray]
Run = Callable[..., list[np.ndarray]]
Compare = Callable[..., None]
Build = Callable[..., onnx.ModelProto]
CheckRemoval = Callable[..., ChannelMap]


@pytest.fixture(scope="session")
def run() -> Run:
    """Return a function that runs a model as it is, without onnxruntime's own simplifications."""

    def run_model(model: onnx.ModelProto, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[np.ndarray]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(outputs, dict(feeds))

    return run_model


@pytest.fixture
def assert_equivalent(run: Run) -> Compare:
    """Return a function that compares two models' outputs, relative to the largest value of each."""

    def compare(before: onnx.ModelProto, after: onnx.ModelProto, feeds: Feeds, tolerance: float) -> None:
        if passes_full_check(before):  # some fragments don't state the shapes of their outputs
            onnx.checker.check_model(after, full_check=True)
        expected, found = run(before, feeds), run(after, feeds)
        assert len(expected) == len(found) > 0
        for old, new in zip(expected, found, strict=True):
            assert (old.shape, old.dtype) == (new.shape, new.dtype)
            if old.dtype.kind == "f":
                scale = float(np.abs(old).max(initial=0.0))
                np.testing.assert_allclose(new, old, rtol=0, atol=tolerance * max(scale, 1e-6))
            else:
                np.testing.assert_array_equal(new, old)

    return compare


@pytest.fixture(scope="session")
def build() -> Build:
    """Return a function that makes a model from nodes in ONNX text and the constants that they read.

    A constant is given as its shape, to be filled with seeded random numbers, or as an array.
    """

    def build_model(
        nodes: str,
        *,
        opset: int = 17,
        x: str = "N, 3, 8, 8",
        y: str = "N, K",
        domains: str = "",
        **constants: tuple[int, ...] | np.ndarray,
    ) -> onnx.ModelProto:
        header = f'<ir_version: 8, opset_import: ["": {opset}{domains}]>'
        model = onnx.parser.parse_model(f"{header} g (float[{x}] x) => (float[{y}] y) {{ {nodes} }}")
        rng = np.random.default_rng(0)
        for name, value in constants.items():
            # Positive, away from zero: they serve as variances and divisors, too.
            array = rng.uniform(0.5, 1.5, value) * rng.choice([-1, 1], value) if isinstance(value, tuple) else value
            if isinstance(value, tuple):
                array = np.abs(array).astype(np.float32) if name.startswith("positive") else array.astype(np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        return model

    return build_model


@pytest.fixture(scope="session")
def check_removal(run: Run) -> CheckRemoval:
    """Return a function that removes random channels of every free group and holds the result to the gated original.

    Gates of zero stand at every read of the removed channels. The function returns the channel map.
    """

    def check(
        model: onnx.ModelProto,
        seed: int,
        *,
        shape: Sequence[int] = (3, 8, 8),
        tolerance: float = 1e-4,
        batches: Sequence[int] = (1, 3),
    ) -> ChannelMap:
        rng = np.random.default_rng(seed)
        name = model.graph.input[0].name
        shapes = {name: (1, *shape)}
        channel_map = map_channels(model, shapes)
        assert find_unfit_groups(model, channel_map, shapes) == {}
        removed = [
            int(channel)
            for group in channel_map.groups
            if not group.blocked_by
            for channel in rng.permutation(group.channels)[: rng.integers(0, len(group.channels))]
        ]
        pruned = remove_channels(model, channel_map, removed, shapes)
        if passes_full_check(model):
            onnx.checker.check_model(pruned, full_check=True)
        reads = {(read.node, read.input_index): read for read in channel_map.reads}

        def gate(operation: Operation, index: int, tensor: torch.Tensor) -> torch.Tensor:
            read = reads.get((operation.name, index))
            if read is None:
                return tensor
            gates = torch.from_numpy(~np.isin(read.labels, removed)).to(tensor.dtype)
            return tensor * gates.view([-1 if axis == read.axis else 1 for axis in range(tensor.ndim)])

        program = extract_program(model)
        fetch = program.outputs[0].name
        for batch in batches:
            x = rng.standard_normal((batch, *shape)).astype(np.float32)
            with torch.no_grad():
                values = Executor(program).run({name: torch.from_numpy(x)}, [fetch], alias=gate)
            expected, found = values[fetch].numpy(), run(pruned, {name: x})[0]
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())
        return channel_map

    return check
