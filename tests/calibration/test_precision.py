"""Which graphs are trained in bfloat16."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnx_basisprune.calibration.precision import Precision, choose_precision, find_fastest_precision, round_products
from onnx_basisprune.planning.types import Operation, Program, TensorSpec


def build(group: int, channels: int = 4, op_type: str = "Conv") -> Program:
    conv = Operation("y", op_type, "", 17, ("x", "w"), ("y",), {"group": group})
    weights = {"w": np.ones((4, channels // group, 3, 3), dtype=np.float32)}
    return Program((conv,), weights, (TensorSpec("x", "float32", (None, channels, 8, 8)),), ())


@pytest.mark.parametrize(("supported", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_bfloat16_only_where_the_cpu_has_it(
    monkeypatch: pytest.MonkeyPatch, supported: bool, expected: Precision
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported, raising=False)
    assert find_fastest_precision() == expected
    assert choose_precision(build(1)) == expected
    assert choose_precision(build(2)) == expected
    assert choose_precision(build(1, channels=1)) == expected
    assert choose_precision(build(4)) == "float32"


def test_a_pytorch_that_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    assert find_fastest_precision() == "float32"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_products_are_rounded(precision: Precision) -> None:
    a = torch.full((1, 1), 1.0 + 2**-12)
    with round_products(precision):
        product = a @ a
    assert product.dtype == getattr(torch, precision)
    assert (float(product) == 1.0) == (precision == "bfloat16")
