"""Trace the nodes that onnxruntime times back to the model's own.

onnxruntime times the nodes of its optimised graph: many have other names than the model's, some are several of the
model's in one, some it put in itself. Each is traced back to the node whose work it does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnx_basisprune.planning.types import Operation, Program
from onnx_basisprune.runtime.profiling import BLOCKED_SUFFIX, NodeTime

# What else the optimiser adds to a name: `fused conv1`, `fc/MatMulAddFusion`, `conv1_token_7`.
_DECORATION = re.compile(r"^fused |/\w*Fusion\w*$|_token_\d+$")
# What it fuses into the node before; a blocked node's tensor is then that of the last of these.
_FUSED_ARITHMETIC = frozenset({"Add", "BatchNormalization", "Div", "Dropout", "Identity", "Mul", "Sub", "Sum"})
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

    def find(self, time: NodeTime) -> Operation | None:
        """Return the node whose work was timed, `None` for what onnxruntime put in."""
        if time.name in self.nodes:
            return self.nodes[time.name]
        if time.name.endswith(BLOCKED_SUFFIX):
            tensor = time.name.removesuffix(BLOCKED_SUFFIX)
            # A lone BatchNormalization becomes a blocked Conv called `<tensor>_bn`.
            for output in (tensor, tensor.removesuffix("_bn")):
                if output in self.producers:
                    return self._find_leader(self.producers[output], time.op_type)
        return self.nodes.get(_DECORATION.sub("", time.name))

    def _find_leader(self, last: Operation, op_type: str) -> Operation:
        """Return the node of a type that `last` was fused into, `last` itself where there is none."""
        leader: Operation | None = last
        while leader is not None and leader.op_type != op_type:
            sources = (self.producers[tensor] for tensor in leader.inputs if tensor in self.producers)
            leader = next(sources, None) if leader.op_type in _FUSED_ARITHMETIC | _ACTIVATIONS else None
        return leader or last


def assign_times(program: Program, times: Iterable[NodeTime]) -> dict[str, float]:
    """Return the microseconds that each of a model's nodes takes.

    Args:
        program: The model's graph, each node of which has a name.
        times: What onnxruntime's profiler found.

    Returns:
        Node → microseconds, for nodes that weren't fused into others; `""` is what onnxruntime put in.
    """
    names = NodeNames.of(program)
    assigned = {"": 0.0}
    for time in times:
        operation = names.find(time)
        name = "" if operation is None else operation.name
        assigned[name] = assigned.get(name, 0.0) + time.microseconds
    return assigned
