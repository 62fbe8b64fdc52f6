"""The operator table against the ONNX project's own node tests."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.calibration.torch_ops import TORCH_OPS
from onnx_basisprune.graph.program import extract_program

# Only cases of these types are run: strings, sequences, complex numbers, narrow floats and wider unsigned
# types don't occur inside of image classifiers, or PyTorch can't compute with them.
TYPES = frozenset(["float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"])

TRAINING = "training's random zeros: refused, since a calibration run must be reproducible"
ROUNDED = "the expected values are written with four digits in the test"
EXCLUSIONS = {
    "test_training_dropout": TRAINING,
    "test_training_dropout_default": TRAINING,
    "test_training_dropout_default_mask": TRAINING,
    "test_training_dropout_mask": TRAINING,
    "test_averagepool_2d_ceil_last_window_starts_on_pad": ROUNDED,
    "test_gridsample_bicubic": ROUNDED,
}


def is_in_scope(case: Any) -> bool:
    if case.model is None:
        return False
    if any(node.domain or node.op_type not in TORCH_OPS for node in case.model.graph.node):
        return False
    values = [value for inputs, outputs in case.data_sets for value in (*inputs, *outputs)]
    return all(
        isinstance(value, (np.ndarray, np.generic)) and np.asarray(value).dtype.name in TYPES for value in values
    )


@functools.cache
def collect_cases() -> dict[str, Any]:
    with warnings.catch_warnings():
        # ONNX computes its expected infinities and saturated casts with numpy, which warns about them.
        warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"onnx\.backend\.test\.case")
        warnings.filterwarnings("ignore", "(overflow|invalid value|divide by zero)", RuntimeWarning)
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)  # type: ignore[arg-type] # None: of every operator
    return {case.name: case for case in cases if is_in_scope(case)}


def check_case(case: Any) -> None:
    """Run one node test; sums in another order differ by a few ulp: 1e-4 relative, 1e-5 absolute."""
    executor = Executor(extract_program(case.model))
    names = [output.name for output in case.model.graph.output]
    for inputs, expected in case.data_sets:
        feeds = {
            value.name: torch.from_numpy(np.array(array))
            for value, array in zip(case.model.graph.input, inputs, strict=True)
        }
        results = executor.run(feeds, names)
        for name, reference in zip(names, expected, strict=True):
            actual, reference = results[name].numpy(), np.asarray(reference)
            assert (actual.shape, actual.dtype) == (reference.shape, reference.dtype), name
            np.testing.assert_allclose(actual, reference, rtol=1e-4, atol=1e-5, err_msg=name)


def test_node_tests_agree_with_the_reference() -> None:
    failures: dict[str, str] = {}
    cases = collect_cases()
    for name, case in cases.items():
        if name not in EXCLUSIONS:
            try:
                check_case(case)
            except Exception as error:  # noqa: BLE001 - every failing case is wanted in one list
                failures[name] = " ".join(str(error).split())[:200]
    assert failures == {}
    assert len(cases) > 900  # a silent loss of cases would make this test easy


@pytest.mark.parametrize("name", sorted(EXCLUSIONS))
def test_exclusions_are_not_stale(name: str) -> None:
    cases = collect_cases()
    assert name in cases, f"{name} isn't among the node tests any more"
    with pytest.raises(Exception, match=r"training_mode is set|Not equal to tolerance"):
        check_case(cases[name])


def test_every_op_is_an_operator_of_onnx() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert set(TORCH_OPS) <= known


def test_most_ops_have_node_tests() -> None:
    tested = {node.op_type for case in collect_cases().values() for node in case.model.graph.node}
    # ONNX has no node test of this one; like all others it is compared with onnxruntime elsewhere.
    assert set(TORCH_OPS) - tested == {"GlobalLpPool"}
