"""ONNX's elementwise arithmetic, comparison, logic and activations as functions on tensors.

Each function takes a node's inputs positionally (`None` for an omitted one) and its attributes as keyword
arguments by their ONNX names with ONNX's defaults. A keyword-only `opset` receives the operator set's version
and `output_count` the number of outputs that the node names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch.nn import functional

Tensor = torch.Tensor


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Div: integers are divided towards zero, as C++ does."""
    if a.is_floating_point() or b.is_floating_point():
        return torch.div(a, b)
    return torch.div(a, b, rounding_mode="trunc")


def take_modulus(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """Mod: the sign follows the divisor (`fmod=0`) or the dividend (`fmod=1`)."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def raise_power(base: Tensor, exponent: Tensor) -> Tensor:
    """Pow: the result has the type of the base, whatever the exponent's type is."""
    if not base.is_floating_point() and not exponent.is_floating_point():
        # torch refuses negative integer exponents; integer bases are small here, float64 is exact enough.
        return torch.pow(base.double(), exponent.double()).to(base.dtype)
    power = torch.pow(base, exponent)
    return power if base.is_floating_point() else power.to(base.dtype)


def sum_all(*tensors: Tensor) -> Tensor:
    """Sum: adds any number of tensors with broadcasting."""
    return reduce(torch.add, tensors)


def average_all(*tensors: Tensor) -> Tensor:
    """Mean: averages any number of tensors with broadcasting."""
    return sum_all(*tensors) / len(tensors)


def take_maximum(*tensors: Tensor) -> Tensor:
    """Max: elementwise over any number of tensors with broadcasting."""
    return reduce(torch.maximum, tensors)


def take_minimum(*tensors: Tensor) -> Tensor:
    """Min: elementwise over any number of tensors with broadcasting."""
    return reduce(torch.minimum, tensors)


def shift_bits(a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    """BitShift: computed in int64, since torch can't shift its wider unsigned types."""
    wide, distance = a.to(torch.int64), b.to(torch.int64)
    shifted = wide << distance if direction == "LEFT" else wide >> distance
    return shifted.to(a.dtype)


def find_infinities(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """IsInf: of either sign, or of one only."""
    found = torch.zeros_like(x, dtype=torch.bool)
    if detect_negative:
        found = found | torch.isneginf(x)
    if detect_positive:
        found = found | torch.isposinf(x)
    return found


def clip(
    x: Tensor,
    lower: Tensor | None = None,
    upper: Tensor | None = None,
    *,
    min: float | None = None,  # noqa: A002 - ONNX's attribute names, up to opset 10
    max: float | None = None,  # noqa: A002
) -> Tensor:
    """Clip: bounds are attributes up to opset 10, optional inputs from 11 on."""
    if (lower is not None and lower.requires_grad) or (upper is not None and upper.requires_grad):
        return torch.clamp(x, lower, upper)
    low: Any = min if lower is None else lower.item()
    high: Any = max if upper is None else upper.item()
    if low is None and high is None:
        return x
    return torch.clamp(x, low, high)


def apply_leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """LeakyRelu."""
    return functional.leaky_relu(x, alpha)


def apply_prelu(x: Tensor, slope: Tensor) -> Tensor:
    """PRelu: the slope broadcasts to the input as in numpy (per channel it is `[C, 1, 1]`)."""
    return torch.where(x < 0, x * slope, x)


def apply_elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Elu."""
    return functional.elu(x, alpha)


def apply_selu(x: Tensor, *, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805) -> Tensor:
    """Selu with any alpha and gamma."""
    return gamma * functional.elu(x, alpha)


def apply_celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Celu."""
    return functional.celu(x, alpha)


def apply_hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """HardSigmoid."""
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


def apply_hard_swish(x: Tensor) -> Tensor:
    """HardSwish: `x * HardSigmoid(x)` with alpha 1/6 and beta 1/2."""
    return functional.hardswish(x)


def apply_swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Swish: `x * sigmoid(alpha * x)`."""
    return functional.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


def apply_gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """Gelu, exact or by its tanh approximation."""
    return functional.gelu(x, approximate=approximate)


def apply_thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """ThresholdedRelu: zero up to and including alpha."""
    return torch.where(x > alpha, x, torch.zeros_like(x))


def apply_shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """Shrink: towards zero by `bias` outside of `[-lambd, lambd]`, zero inside."""
    outside = torch.where(x < -lambd, x + bias, torch.zeros_like(x))
    return torch.where(x > lambd, x - bias, outside).to(x.dtype)


def apply_softplus(x: Tensor) -> Tensor:
    """Softplus without torch's switch to the identity above 20."""
    return torch.logaddexp(x, torch.zeros_like(x))


def _along_axis(function: Callable[[Tensor, int], Tensor], x: Tensor, axis: int | None, opset: int) -> Tensor:
    """Run a softmax-like function: on one axis from opset 13 on, on the flattened rest before."""
    if opset >= 13:
        return function(x, -1 if axis is None else axis)
    split = 1 if axis is None else axis
    split = split + x.dim() if split < 0 else split
    rows = math.prod(x.shape[:split])
    columns = math.prod(x.shape[split:])
    return function(x.reshape(rows, columns), 1).reshape(x.shape)


def apply_softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    """Softmax."""
    return _along_axis(torch.softmax, x, axis, opset)


def apply_log_softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    """LogSoftmax."""
    return _along_axis(torch.log_softmax, x, axis, opset)


def _mark_first_maximum(x: Tensor, axis: int) -> Tensor:
    best = x.argmax(dim=axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, best, 1)


def apply_hardmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    """Hardmax: one at the first maximum, else zero."""
    return _along_axis(_mark_first_maximum, x, axis, opset)


MATH_OPS: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Add": torch.add,
    "And": torch.logical_and,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitShift": shift_bits,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseNot": torch.bitwise_not,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Ceil": torch.ceil,
    "Celu": apply_celu,
    "Clip": clip,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Div": divide,
    "Elu": apply_elu,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Gelu": apply_gelu,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "HardSigmoid": apply_hard_sigmoid,
    "HardSwish": apply_hard_swish,
    "Hardmax": apply_hardmax,
    "IsInf": find_infinities,
    "IsNaN": torch.isnan,
    "LeakyRelu": apply_leaky_relu,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "LogSoftmax": apply_log_softmax,
    "Max": take_maximum,
    "Mean": average_all,
    "Min": take_minimum,
    "Mish": functional.mish,
    "Mod": take_modulus,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "PRelu": apply_prelu,
    "Pow": raise_power,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Selu": apply_selu,
    "Shrink": apply_shrink,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softmax": apply_softmax,
    "Softplus": apply_softplus,
    "Softsign": functional.softsign,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Sum": sum_all,
    "Swish": apply_swish,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
    "ThresholdedRelu": apply_thresholded_relu,
    "Where": torch.where,
    "Xor": torch.logical_xor,
}
