"""Models run in onnxruntime, before and after a change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import pytest

from onnx_basisprune.graph.model_io import passes_full_check

Feeds = Mapping[str, np.ndarray]
Run = Callable[..., list[np.ndarray]]
Compare = Callable[..., None]


@pytest.fixture
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
