"""Where a CPU computes faster in bfloat16, at no cost in accuracy: the weights stay float32, only products are rounded.

Measured with AMX: a step of the recovery takes half the time on ResNet-20 and a third on VGG-16, with the same
accuracy. PyTorch's backward pass through depthwise convolutions is the exception, it takes half as long again: networks
with these (EfficientNet, MobileNet) are run forward in bfloat16, but trained in float32.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from onnx_basisprune.planning.types import Program

Precision = Literal["bfloat16", "float32"]


def find_fastest_precision() -> Precision:
    """Return what a forward pass is fastest in: bfloat16 only where the CPU has instructions for it."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return "bfloat16" if supported is not None and supported() else "float32"


def describe_arithmetic() -> dict[str, Any]:
    """Return on what the last bits of everything that PyTorch computes depend, beside its version and the CPU.

    Returns:
        `calibration_threads`, and `calibration_precision` as it is where no depthwise Conv is trained.
    """
    return {"calibration_threads": torch.get_num_threads(), "calibration_precision": find_fastest_precision()}


def choose_precision(program: Program) -> Precision:
    """Return what a graph is trained in."""
    return "float32" if _has_depthwise(program) else find_fastest_precision()


def round_products(precision: Precision) -> torch.autocast:
    """Return the context in which convolutions and matrix products have this precision."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16")


def _has_depthwise(program: Program) -> bool:
    """Return whether a convolution has one input channel in each of its groups."""
    return any(
        operation.op_type == "Conv"
        and operation.attributes.get("group", 1) > 1
        and operation.inputs[1] in program.initializers
        and program.initializers[operation.inputs[1]].shape[1] == 1
        for operation in program.operations
    )
