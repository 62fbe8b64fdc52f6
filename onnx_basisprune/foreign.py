"""Operators of other domains: onnxruntime runs them where PyTorch can't, as black boxes that gradients don't pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.graph.node_model import make_node_model
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.graph.shapes import infer_shapes, record_shapes
from onnx_basisprune.planning.types import Operation, Program
from onnx_basisprune.runtime.session import Session

if TYPE_CHECKING:
    from onnx import ModelProto


def read_program(model: ModelProto) -> Program:
    """Return a model's graph as plain data that can be run, whatever domains its nodes are of.

    Args:
        model: A checked model.
    """
    return _add_fallbacks(extract_program(model))


def record_opaque_shapes(model: ModelProto, images: NDArray[Any], fixed_batch: int | None) -> None:
    """Run a model, and write down in it the shapes of what other domains' nodes and inner graphs give.

    ONNX can't infer them, nor then what comes after. A tensor whose first axis isn't the batch is left out.

    Args:
        model: A normalised model; changed in place, where anything is unknown.
        images: Model input, at least one.
        fixed_batch: The batch that the model insists on; `None` where it takes any.

    Raises:
        ModelError: The model doesn't run.
    """
    sizes = (1, 2) if fixed_batch is None else (fixed_batch,)
    program = read_program(model)
    name = program.inputs[0].name
    known = infer_shapes(model, {name: (sizes[0], *images.shape[1:])})
    opaque = [operation for operation in program.operations if operation.domain or operation.bodies]
    unknown = [output for operation in opaque for output in operation.outputs if output and output not in known]
    if not unknown:
        return
    from onnx_basisprune.calibration.executor import Executor  # loads torch

    runs = [Executor(program).compute({name: np.resize(images, (n, *images.shape[1:]))}, unknown) for n in sizes]
    arrays = {
        output: array
        for output, array in runs[0].items()
        if all(run[output].shape == (n, *array.shape[1:]) for n, run in zip(sizes, runs, strict=True))
    }
    record_shapes(model, arrays, is_batch_fixed=fixed_batch is not None)


def list_black_boxes(program: Program, target: str) -> list[Operation]:
    """Return the nodes on the way to a tensor that no gradient passes, in the graph's order."""
    needed, found = {target}, []
    for operation in reversed(program.operations):
        if needed.intersection(operation.outputs):
            needed.update(operation.inputs)
            if operation.fallback is not None:
                found.append(operation)
    return found[::-1]


def _add_fallbacks(program: Program) -> Program:
    """Give every node of another domain a way to be run, in inner graphs too."""
    return replace(program, operations=tuple(_add_fallback(operation) for operation in program.operations))


def _add_fallback(operation: Operation) -> Operation:
    if operation.bodies:
        return replace(operation, bodies={name: _add_fallbacks(body) for name, body in operation.bodies.items()})
    return replace(operation, fallback=_ForeignNode(operation)) if operation.domain else operation


class _ForeignNode:
    """Runs one node in onnxruntime, in a session for each combination of input types."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self._sessions: dict[tuple[tuple[str, int], ...], Session] = {}

    def __call__(self, inputs: Sequence[NDArray[Any] | None]) -> list[NDArray[Any]]:
        key = tuple(("", 0) if array is None else (array.dtype.name, array.ndim) for array in inputs)
        if key not in self._sessions:
            self._sessions[key] = Session(make_node_model(self._operation, inputs))
        feeds = {name: array for name, array in zip(self._operation.inputs, inputs, strict=True) if array is not None}
        results = dict(zip(self._names, self._sessions[key].run(feeds, self._names), strict=True))
        # Outputs without a name aren't asked for; they stand where they would be.
        return [results.get(name, np.zeros(0, np.float32)) for name in self._operation.outputs]

    @property
    def _names(self) -> list[str]:
        return [name for name in self._operation.outputs if name]
