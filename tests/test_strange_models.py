"""Strange but valid models: each goes through the real `compress` and is held against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.errors import BasispruneError, ModelError
from onnx_basisprune.graph.model_io import passes_full_check
from onnx_basisprune.inspection import inspect_model
from onnx_basisprune.pipeline import compress
from onnx_basisprune.results import CompressionReport

CLASSES, COUNT, TARGET = 4, 60, 0.6
Array = NDArray[Any]


@pytest.fixture(autouse=True)
def _same_clock_everywhere(fake_clock: Any) -> None:
    """Times are made up: what can be cut mustn't depend on the machine."""


@dataclass(frozen=True)
class Strange:
    """A model as ONNX text, what its weights are, and what it is fed.

    Attributes:
        text: The graph; functions may follow it.
        shapes: Of the weights by name, drawn at random.
        image: Shape of one image.
        constants: Further initializers.
    """

    text: str
    shapes: dict[str, tuple[int, ...]]
    image: tuple[int, ...] = (3, 8, 8)
    constants: dict[str, Array] = field(default_factory=dict)

    def make_model(self) -> ModelProto:
        """Return the model, its classes balanced by nothing but chance."""
        model = onnx.parser.parse_model(self.text)
        rng = np.random.default_rng(0)
        for name, shape in self.shapes.items():
            values = rng.standard_normal(shape) / np.sqrt(max(1, prod(shape[1:]) / 2))
            model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        for name, values in self.constants.items():
            model.graph.initializer.append(numpy_helper.from_array(values, name))
        return model

    def draw_images(self) -> Array:
        """Return float32 images `[COUNT, *image]` of a few directions and some noise."""
        rng = np.random.default_rng(1)
        directions = rng.standard_normal((6, prod(self.image)))
        noise = 0.1 * rng.standard_normal((COUNT, prod(self.image)))
        x = rng.standard_normal((COUNT, 6)) @ directions / 2 + noise
        return np.ascontiguousarray(x.reshape(COUNT, *self.image).astype(np.float32))


BODY = """
    a = Conv <pads = [1, 1, 1, 1]> (x, w0)
    b = Relu (a)
    c = Conv <pads = [1, 1, 1, 1]> (b, w1, b1)
    d = Relu (c)
    e = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (d, w2)
    f = Relu (e)
"""
TAIL = """
    g = GlobalAveragePool (f)
    h = Flatten (g)
    y = Gemm <transB = 1> (h, fc, fcb)
"""
SHAPES: dict[str, tuple[int, ...]] = {
    "w0": (12, 3, 3, 3), "w1": (16, 12, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "fc": (CLASSES, 16), "fcb": (CLASSES,),
}  # fmt: skip


def write_text(
    body: str = BODY + TAIL,
    inputs: str = "float[N, 3, 8, 8] x",
    outputs: str = f"float[N, {CLASSES}] y",
    opsets: str = '"" : 17',
) -> str:
    return f"<ir_version: 8, opset_import: [{opsets}]>\nnet ({inputs}) => ({outputs})\n{{{body}}}\n"
