"""Out of memory: the message says which batch size to try, whoever ran out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx.parser
import pytest
import torch

from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.errors import OutOfMemoryError
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.out_of_memory import suggest_batch_size
from onnx_basisprune.runtime.session import Session

# 2^60 bytes: more than any address space lends.
HUGE = 2**58
MODEL = onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 13]> g (float[1] x, int64[1] s) => (float[n] y) { y = Expand (x, s) }'
)


def allocate_in_numpy() -> None:
    np.ones(HUGE, dtype=np.float32)


def allocate_in_torch() -> None:
    torch.ones(HUGE)


def allocate_in_a_node() -> None:
    text = '<ir_version: 8, opset_import: ["" : 13]> g (float[1] x) => (float[n] y) { y = ConstantOfShape (s) }'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([HUGE]), "s"))
    Executor(extract_program(model)).compute({"x": np.ones(1, np.float32)}, ["y"])


def allocate_in_onnxruntime() -> None:
    Session(MODEL.SerializeToString()).run({"x": np.ones(1, np.float32), "s": np.array([2**50])})


@pytest.mark.parametrize(
    "allocate", [allocate_in_numpy, allocate_in_torch, allocate_in_a_node, allocate_in_onnxruntime]
)
def test_every_library_running_out_gives_the_same_advice(allocate: Callable[[], None]) -> None:
    advice = r"^Out of memory with batches of 32: try --batch-size 8\.$"
    with pytest.raises(OutOfMemoryError, match=advice), suggest_batch_size(32):
        allocate()


def test_the_least_batch_has_other_advice() -> None:
    with pytest.raises(OutOfMemoryError, match="a machine with more memory"), suggest_batch_size(1):
        raise MemoryError


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="unrelated"), suggest_batch_size(32):
        raise RuntimeError("unrelated")
