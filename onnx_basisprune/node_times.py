"""Trace the nodes that onnxruntime times back to the model's own.

onnxruntime times the nodes of its optimised graph: many have other names than the model's, some are several of the
model's in one, some it put in itself. Each is traced back to the node whose work it does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from onnx_basisprune.planning.types import Operation, Program
from onnx_basisprune.runtime.profiling import BLOCKED_SUFFIX, NodeTime

# What else the optimiser adds to a name: `fused conv1`, `fc/MatMulAddFusion`, `conv1_token_7`.
_DECORATION = re.compile(r"^fused |/\w*Fusion\w*$|_token_\d+$")
# What it fuses into the node before; a blocked node's tensor is then that of the last of these.
_FUSED_ARITHMETIC = frozenset({"Add", "BatchNormalization", "Div", "Dropout", "Identity", "Mul", "Sub", "Sum"})
# What it puts in to change the layout.
_INSERTED = ("Reorder", "Transpose")
_ACTIVATIONS = frozenset({"Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Sigmoid", "Tanh"})


@dataclass(frozen=True)
class NodeNames:
    """The names that a model's nodes go by in onnxruntime.

    Attributes:
        nodes: onnxruntime's name → node, for nodes that it left as they were.
        producers: Tensor → the node that computes it.
    """

    nodes: Mapping[str, Operation]
    producers: Mapping[str, Operation]

    @classmethod
    def of(cls, program: Program, names: Sequence[str] | None = None) -> NodeNames:
        """Read a model's names.

        Args:
            program: The model's graph.
            names: Its nodes' names as the file has them, empty for a node without; `None` where all have one.
        """
        nodes, index = {}, 0
        for position, operation in enumerate(program.operations):
            name = operation.name if names is None else names[position]
            # onnxruntime makes Constants initializers before it counts the nodes.
            nodes[name or f"{operation.op_type}_{index}"] = operation
            index += operation.op_type != "Constant"
        return cls(nodes, {tensor: operation for operation in program.operations for tensor in operation.outputs})

    def trace(self, times: Sequence[NodeTime]) -> list[Operation | None]:
        """Return for each timed node the model's node whose work it does, `None` for what onnxruntime put in.

        A node of an unknown name came out of a fusion: it does the work of the first node without a name in the list
        that reads what the one before it wrote.

        Args:
            times: In the order in which they ran.
        """
        named = [self._find_named(time) for time in times]
        taken = {operation.name for operation in named if operation is not None}
        found: list[Operation | None] = []
        before: Operation | None = None
        for time, operation in zip(times, named, strict=True):
            if operation is not None and time.name.endswith(BLOCKED_SUFFIX):
                operation = self._find_leader(operation, time.op_type, taken)
            elif operation is None and before is not None and not time.op_type.startswith(_INSERTED):
                operation = self._find_reader(before, taken)
            found.append(operation)
            before = operation or before
        return found

    def _find_named(self, time: NodeTime) -> Operation | None:
        """Return the node that a timed one is named after, in the blocked layout the last one fused into it."""
        if time.name in self.nodes:
            return self.nodes[time.name]
        if time.name.endswith(BLOCKED_SUFFIX):
            tensor = time.name.removesuffix(BLOCKED_SUFFIX)
            # A lone BatchNormalization becomes a blocked Conv called `<tensor>_bn`.
            for output in (tensor, tensor.removesuffix("_bn")):
                if output in self.producers:
                    return self.producers[output]
        return self.nodes.get(_DECORATION.sub("", time.name))

    def _find_reader(self, before: Operation, taken: Collection[str]) -> Operation | None:
        """Return the first node that no timed one is named after and that reads what a node wrote."""
        written = set(before.outputs)
        readers = (item for item in self.nodes.values() if written.intersection(item.inputs))
        return next((item for item in readers if item.name not in taken), None)

    def _find_leader(self, last: Operation, op_type: str, taken: Collection[str]) -> Operation:
        """Return the nearest node of a type that `last` was fused into, `last` itself where there is none.

        Of two Convs whose sum is taken, one runs under its own name: it is among `taken`.
        """
        queue = [last]
        for operation in queue:
            if operation.op_type == op_type and operation.name not in taken:
                return operation
            if operation.op_type in _FUSED_ARITHMETIC | _ACTIVATIONS:
                sources = [self.producers[tensor] for tensor in operation.inputs if tensor in self.producers]
                queue += [source for source in sources if source not in queue]
        return last


def assign_times(program: Program, times: Sequence[NodeTime]) -> dict[str, float]:
    """Return the microseconds that each of a model's nodes takes.

    Args:
        program: The model's graph, each node of which has a name.
        times: What onnxruntime's profiler found.

    Returns:
        Node → microseconds, for nodes that weren't fused into others; `""` is what onnxruntime put in.
    """
    assigned = {"": 0.0}
    for time, operation in zip(times, NodeNames.of(program).trace(times), strict=True):
        name = "" if operation is None else operation.name
        assigned[name] = assigned.get(name, 0.0) + time.microseconds
    return assigned
