"""The values that steps hand over to each other: plain numpy, no graph, no model, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TensorSpec:
    """A graph input or output: its name, numpy dtype name and shape (`None` where dynamic).

    `shape` itself is `None` where the model doesn't even state the number of dimensions.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Operation:
    """One node of the graph as plain data.

    Attributes:
        name: Unique node name.
        op_type: ONNX operator.
        domain: Operator set's domain, `""` for ONNX's own.
        version: Version of that operator set in the model.
        inputs: Tensor names; `""` for an omitted optional input.
        outputs: Tensor names; `""` for an unused optional output.
        attributes: Attribute values by ONNX name: int, float, str, lists of these, or ndarray for tensors.
            Attributes that hold graphs are present with the value `None`.
    """

    name: str
    op_type: str
    domain: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Program:
    """A graph as plain data: nodes in topological order, weights by name.

    What `calibration` runs; `graph.program.extract_program` makes it.
    """

    operations: tuple[Operation, ...]
    initializers: Mapping[str, NDArray[Any]]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Head:
    """Where a classifier's scores come from.

    Attributes:
        kind: `softmax` (Softmax or LogSoftmax at the end), `sigmoid` (multi-label or one unit), `logits` (no such
            node), `probabilities` (no such node, but outputs are non-negative and sum to 1).
        logits: The tensor to differentiate from (the input of Softmax or Sigmoid, else the output itself).
        output: The graph output that holds the class scores.
    """

    kind: Literal["softmax", "sigmoid", "logits", "probabilities"]
    logits: str
    output: str
