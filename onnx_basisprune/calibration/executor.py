"""Runs a `Program` in PyTorch: one loop over the nodes with a name → tensor dict.

The parameters are the graph's initializers, by name, so that whatever is learned about a weight (a gradient,
a tuned value) goes back to the graph without any mapping.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onnx_basisprune.calibration.control_flow import RunBody, bind_bodies
from onnx_basisprune.calibration.torch_ops import TORCH_OPS
from onnx_basisprune.errors import ModelError, UnsupportedOpError, is_out_of_memory, quote
from onnx_basisprune.planning.types import Operation, Program, RunNode, TensorSpec

Observer = Callable[[Operation, tuple[torch.Tensor, ...]], "Sequence[torch.Tensor] | None"]
Aliaser = Callable[[Operation, int, torch.Tensor], torch.Tensor]

# What PyTorch and the functions of the table raise where a node doesn't fit its inputs.
_NODE_FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    AttributeError,
)


@dataclass(frozen=True)
class _Step:
    """One node, ready to be called: attributes are bound already."""

    operation: Operation
    function: Callable[..., Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class _Schedule:
    """The steps that a set of fetched tensors needs, each with the tensors that nobody reads after it."""

    steps: tuple[tuple[_Step, tuple[str, ...]], ...]
    sources: tuple[str, ...]


class Executor:
    """Runs a graph forward, differentiably, under autocast or `no_grad`, at any batch size.

    Attributes:
        parameters: Every initializer by name, sharing memory with the program's arrays where these are
            writable. `requires_grad` is off; a caller may turn it on or hand replacements to `run`.
    """

    parameters: dict[str, torch.Tensor]

    def __init__(self, program: Program) -> None:
        """Check that every node can be run, and bind its attributes.

        Args:
            program: Nodes in topological order with the graph's initializers.

        Raises:
            UnsupportedOpError: A node has an operator or attribute that isn't in the table.
            ModelError: An initializer's type has no PyTorch counterpart.
        """
        self.parameters = {
            name: _convert_array(array, f"Initializer {quote(name)}") for name, array in program.initializers.items()
        }
        self._input_names = frozenset(spec.name for spec in program.inputs)
        self._steps = tuple(_bind_operation(operation) for operation in program.operations)
        self._produced = frozenset(name for step in self._steps for name in step.outputs)
        self._schedules: dict[frozenset[str], _Schedule] = {}

    def run(
        self,
        inputs: Mapping[str, torch.Tensor],
        fetch: Sequence[str],
        *,
        overrides: Mapping[str, torch.Tensor] | None = None,
        observe: Observer | None = None,
        alias: Aliaser | None = None,
    ) -> dict[str, torch.Tensor]:
        """Compute tensors by name; nodes that they don't depend on aren't run.

        Args:
            inputs: Graph inputs by name, on the parameters' device.
            fetch: Names of the tensors to return: graph inputs, initializers or outputs of any node.
            overrides: Replace initializers by name in this run.
            observe: Called after each node with its outputs; tensors that it returns replace them.
            alias: Called for each tensor that a node reads, with the input's index; what it returns is read
                in this place only.

        Returns:
            The fetched tensors by name.

        Raises:
            ModelError: A fetched tensor doesn't exist, a needed input is missing, or a node fails.
            UnsupportedOpError: A node names more outputs than can be computed.
        """
        schedule = self._find_schedule(frozenset(fetch))
        values: dict[str, torch.Tensor] = {**self.parameters, **(overrides or {}), **inputs}
        for name in schedule.sources:
            if name not in values:
                raise ModelError(f"Tensor {quote(name)} wasn't given; expected it among the inputs.")
        for step, unread in schedule.steps:
            arguments = [values[name] if name else None for name in step.inputs]
            if alias is not None:
                arguments = [
                    None if tensor is None else alias(step.operation, index, tensor)
                    for index, tensor in enumerate(arguments)
                ]
            try:
                result = step.function(*arguments)
            except _NODE_FAILURES as error:
                if is_out_of_memory(error):
                    raise MemoryError(str(error)) from error
                raise _describe_failure(step.operation, arguments, error) from error
            outputs: Sequence[torch.Tensor] = result if isinstance(result, tuple) else (result,)
            if len(outputs) < len(step.outputs):
                raise _describe_shortage(step.operation, len(outputs))
            if observe is not None:
                outputs = observe(step.operation, tuple(outputs)) or outputs
            values.update(zip(step.outputs, outputs, strict=False))
            for name in unread:
                values.pop(name, None)
            # The locals mustn't keep alive what the dict has let go.
            del arguments, result, outputs
        return {name: values[name] for name in fetch}

    def compute(self, inputs: Mapping[str, NDArray[Any]], fetch: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Compute tensors by name from arrays, as arrays and without gradients; see `run`."""
        with torch.no_grad():
            values = self.run({name: torch.from_numpy(array) for name, array in inputs.items()}, fetch)
        return {name: values[name].numpy() for name in fetch}

    def _find_schedule(self, fetch: frozenset[str]) -> _Schedule:
        if fetch not in self._schedules:
            self._schedules[fetch] = self._plan_schedule(fetch)
        return self._schedules[fetch]

    def _plan_schedule(self, fetch: frozenset[str]) -> _Schedule:
        for name in sorted(fetch):
            if not any(name in known for known in (self._produced, self.parameters, self._input_names)):
                raise ModelError(f"Tensor {quote(name)} isn't in the graph; expected a node's output or input.")
        needed = set(fetch)
        steps: list[tuple[_Step, tuple[str, ...]]] = []
        for step in reversed(self._steps):
            if needed.isdisjoint(step.outputs):
                continue
            # Walking backwards, the first reader met is the last to run. Outputs without a reader go at once.
            read = {name for name in step.inputs if name} - needed
            last = tuple(name for name in read if name in self._produced)
            idle = tuple(name for name in step.outputs if name not in needed)
            steps.append((step, last + idle))
            needed |= read
        return _Schedule(tuple(reversed(steps)), tuple(sorted(needed - self._produced)))


def _convert_array(array: NDArray[Any], owner: str) -> torch.Tensor:
    """Share an array with torch, or copy it where torch can't share it.

    Args:
        array: Weights or an attribute's tensor.
        owner: What has the array, for the error message.

    Raises:
        ModelError: torch has no such type.
    """
    if not array.flags.writeable or not array.flags.c_contiguous or not array.dtype.isnative:
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    try:
        if array.dtype.name == "bfloat16":  # numpy knows it only by an extension that torch doesn't
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)
    except TypeError as error:
        raise ModelError(
            f"{owner} has type {array.dtype.name}, which PyTorch can't compute with; expected a float, "
            "integer or bool tensor: convert the model to float32 first."
        ) from error


def _describe_node(operation: Operation) -> str:
    domain = operation.domain or "ai.onnx"
    kind = f"{operation.op_type}, domain {quote(domain)}, opset {operation.version}"
    return f"Node {quote(operation.name)} ({kind})"


def _bind_operation(operation: Operation) -> _Step:
    """Find a node's function and fix its attributes.

    Raises:
        UnsupportedOpError: The operator, or an attribute of it, isn't in the table.
    """
    outputs = operation.outputs
    while outputs and not outputs[-1]:  # trailing outputs without a name aren't asked for
        outputs = outputs[:-1]
    function = _find_function(operation)
    if operation.bodies or operation.fallback is not None:  # attributes are bound already
        return _Step(operation, function, operation.inputs, outputs)
    attributes = {name: _convert_attribute(value, operation, name) for name, value in operation.attributes.items()}
    try:
        signature = inspect.signature(function)
    except ValueError:  # torch's own functions take tensors and have no signature: no ONNX attribute fits them
        if attributes:
            raise _refuse_attributes(operation, f"got attributes {sorted(attributes)}") from None
        return _Step(operation, function, operation.inputs, outputs)
    context = {"opset": operation.version, "output_count": len(outputs)}
    attributes.update((name, value) for name, value in context.items() if name in signature.parameters)
    try:
        signature.bind(*operation.inputs, **attributes)
    except TypeError as error:
        raise _refuse_attributes(operation, str(error)) from error
    bound = partial(function, **attributes) if attributes else function
    return _Step(operation, bound, operation.inputs, outputs)


def _find_function(operation: Operation) -> Callable[..., Any]:
    """Return what computes a node's outputs from its inputs.

    Raises:
        UnsupportedOpError: Nothing does.
    """
    function: Callable[..., Any] | None = None
    graphs = [name for name, value in operation.attributes.items() if value is None]
    if operation.bodies:
        function = bind_bodies(
            operation, {name: _bind_body(body, operation) for name, body in operation.bodies.items()}
        )
    elif operation.fallback is not None:
        function = partial(_run_outside, operation.fallback)
    elif not operation.domain and not graphs:
        function = TORCH_OPS.get(operation.op_type)
    if function is None:
        what = "has an inner graph and" if graphs else "isn't among the known operators and"
        raise UnsupportedOpError(
            f"{_describe_node(operation)} {what} can't be run in PyTorch: --exclude doesn't help, since "
            "every node is run; replace the node by standard ONNX operators or simplify the model first."
        )
    return function


def _bind_body(program: Program, operation: Operation) -> RunBody:
    """Return what runs an inner graph of a node, which may read all that the node is given."""
    given = tuple(TensorSpec(name, "", None) for name in operation.inputs if name)
    executor = Executor(replace(program, inputs=(*program.inputs, *given)))
    inputs, outputs = [spec.name for spec in program.inputs], [spec.name for spec in program.outputs]

    def run(values: Sequence[torch.Tensor], outer: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        results = executor.run({**outer, **dict(zip(inputs, values, strict=False))}, outputs)
        return tuple(results[name] for name in outputs)

    return run


def _run_outside(run_node: RunNode, *arguments: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """Run a node outside of PyTorch, on arrays; gradients end here."""
    # Autocast's bfloat16 is unknown to numpy, and to most operators.
    wide = (item.detach().float() if item is not None and item.dtype == torch.bfloat16 else item for item in arguments)
    arrays = [None if item is None else np.ascontiguousarray(item.detach().numpy()) for item in wide]
    return tuple(torch.from_numpy(array) for array in run_node(arrays))


def _refuse_attributes(operation: Operation, cause: str) -> UnsupportedOpError:
    return UnsupportedOpError(
        f"{_describe_node(operation)} has inputs or attributes that aren't known ({cause}); expected "
        "those of opset 7 or newer: convert the model with onnx.version_converter."
    )


def _convert_attribute(value: object, operation: Operation, name: str) -> object:
    if isinstance(value, np.ndarray):
        return _convert_array(value, f"{_describe_node(operation)}: attribute {quote(name)}")
    return tuple(value) if isinstance(value, list) else value


def _describe_failure(operation: Operation, arguments: Sequence[torch.Tensor | None], error: Exception) -> ModelError:
    shapes = ", ".join("none" if tensor is None else str(list(tensor.shape)) for tensor in arguments)
    cause = " ".join(str(error).split()) or type(error).__name__
    return ModelError(
        f"{_describe_node(operation)} failed on inputs of shapes {shapes}: {cause[:300].rstrip('.')}. "
        "Check the images' size against the model's input and against shapes that are fixed in the model."
    )


def _describe_shortage(operation: Operation, count: int) -> UnsupportedOpError:
    return UnsupportedOpError(
        f"{_describe_node(operation)} names {len(operation.outputs)} outputs, of which {count} can be "
        "computed: export the model for inference, not for training."
    )
