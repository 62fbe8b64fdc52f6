"""What a Conv's kernel sees: its product with the weight is the Conv itself, in any dimension and with any padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from onnx_basisprune.calibration.refit_rows import list_windows
from onnx_basisprune.calibration.torch_ops_conv import convolve

CASES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((7,), (3,), {}),
    ((7,), (3,), {"pads": [2, 1], "strides": [2]}),
    ((7, 9), (1, 1), {}),
    ((7, 9), (1, 1), {"strides": [2, 2]}),
    ((7, 9), (3, 2), {"pads": [1, 0, 1, 2], "strides": [2, 1]}),
    ((9, 9), (3, 3), {"dilations": [2, 3], "pads": [2, 2, 2, 2]}),
    ((8, 9), (3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((8, 9), (3, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ((8, 9), (3, 3), {"auto_pad": "VALID"}),
    ((5, 6, 7), (2, 3, 2), {"pads": [1, 0, 0, 0, 1, 1], "dilations": [1, 2, 1]}),
]


@pytest.mark.parametrize(("sizes", "kernel", "attributes"), CASES)
def test_windows_times_weight_is_the_conv(
    sizes: tuple[int, ...], kernel: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *sizes, generator=generator)
    weight = torch.randn(4, 3, *kernel, generator=generator)
    windows = list_windows(x, kernel, attributes)
    rank = len(sizes)
    taps = [1, *range(2 + rank, 2 + 2 * rank)]
    found = torch.tensordot(windows, weight, dims=(taps, list(range(1, 2 + rank)))).movedim(-1, 1)
    torch.testing.assert_close(found, convolve(x, weight, **attributes), rtol=1e-5, atol=1e-5)
