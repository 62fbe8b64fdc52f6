"""The state of tracing channels through a graph: labels by tensor, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from onnx_basisprune.graph.shapes import Shape
from onnx_basisprune.planning.channels import ChannelClasses, Labels, fixed_labels, read_axis, varying_axes
from onnx_basisprune.planning.types import Operation, Program


class UntraceableError(Exception):
    """A node doesn't let its channels be followed; the message is the reason that blocks them."""


CONTRADICTION = "the shapes around it contradict one another"
# A file of a few bytes can declare more elements than any memory holds.
_MOST_LABELS = 2**23

# Of a vector of sizes: the labels of the channels that each of its elements counts.
Sizes = list[Labels]


@dataclass(frozen=True)
class Coupling:
    """A weight axis that follows channels.

    Attributes:
        node: Name of the node that reads the weight.
        input_index: Which of its inputs the weight is.
        axis: The axis.
        labels: `[size]`, the label of each position.
    """

    node: str
    input_index: int
    axis: int
    labels: Labels


@dataclass(frozen=True)
class Read:
    """A place where channels are summed over: the input of a Conv, Gemm or MatMul.

    Attributes:
        node: Name of the reading node.
        input_index: The activation among its inputs.
        axis: Its channel axis.
        labels: `[size]`, the label of each position.
        weight_index: The input that holds the weights, -1 where both are activations.
        weight_axis: The weight's axis of the same channels.
    """

    node: str
    input_index: int
    axis: int
    labels: Labels
    weight_index: int
    weight_axis: int


class Tracer:
    """What rules read and write.

    Attributes:
        classes: The labels' classes.
        couplings: Weight axes, in graph order.
        reads: Where channels are read.
        traced: Labels by tensor.
        sizes: Which channels are counted, by tensor.
    """

    def __init__(self, program: Program, shapes: Mapping[str, Shape], overridable: frozenset[str]) -> None:
        self.classes = ChannelClasses()
        self.couplings: list[Coupling] = []
        self.reads: list[Read] = []
        self._program, self._shapes, self._overridable = program, shapes, overridable
        self.traced: dict[str, Labels] = {}
        self.sizes: dict[str, Sizes] = {}

    def shape(self, name: str) -> Shape:
        """Return a tensor's shape.

        Raises:
            UntraceableError: It isn't known.
        """
        if name not in self._shapes:
            raise UntraceableError("the shape of one of its tensors isn't known")
        return self._shapes[name]

    def constant(self, name: str) -> np.ndarray | None:
        """Return an initializer that no caller can override, else `None`."""
        return None if name in self._overridable else self._program.initializers.get(name)

    def labels(self, name: str) -> Labels:
        """Return a tensor's labels, all fixed where it has none."""
        if name in self.traced:
            return self.traced[name]
        return fixed_labels(len(self.shape(name)))

    def is_traced(self, name: str) -> bool:
        """Return whether a tensor's labels vary on some axis."""
        return name in self.traced and bool(varying_axes(self.traced[name]))

    def set(self, name: str, labels: Labels) -> None:
        """Give a tensor its labels.

        Raises:
            UntraceableError: They don't fit its shape: the model isn't what it says.
        """
        if not name:
            return
        labels, shape = np.asarray(labels), self._shapes.get(name, labels.shape)
        fits = labels.ndim == len(shape) and all(
            count in (1, size) for count, size in zip(labels.shape, shape, strict=True)
        )
        if not fits:
            raise UntraceableError(CONTRADICTION)
        if not labels.size:
            raise UntraceableError("it makes a tensor without elements")
        self.traced[name] = self.classes.simplify(labels)

    def materialize(self, name: str) -> Labels:
        """Return a tensor's labels at its full shape.

        Raises:
            UntraceableError: They don't fit it, or it is larger than anything that is followed.
        """
        self.limit(prod(self.shape(name)))
        return np.broadcast_to(self.labels(name), self.shape(name))

    def limit(self, count: int) -> None:
        """Refuse to make so many labels.

        Raises:
            UntraceableError: They are none, or more than the model of an image can have.
        """
        if not 0 < count <= _MOST_LABELS:
            raise UntraceableError("it makes none or more elements than are followed")

    def couple(self, operation: Operation, input_index: int, axis: int, labels: Labels) -> None:
        """Let a weight's axis follow labels `[size]`; an overridable or computed weight blocks them.

        Labels that don't vary, and an input that is omitted, need nothing.

        Raises:
            UntraceableError: The weight has no such axis, or one of another size.
        """
        name = operation.inputs[input_index] if input_index < len(operation.inputs) else ""
        if not name or len(labels) < 2:
            return
        values = self.constant(name)
        if values is not None and (values.ndim <= axis or values.shape[axis] != len(labels)):
            raise UntraceableError(CONTRADICTION)
        if values is None or values.dtype != np.float32:
            what = "isn't constant" if values is None else f"is {values.dtype}; only float32 is pruned"
            self.classes.block(labels, f"{operation.name} reads a weight that {what}")
            return
        self.couplings.append(Coupling(operation.name, input_index, axis, labels))

    def read(
        self, operation: Operation, input_index: int, axis: int, weight_index: int = -1, weight_axis: int = -1
    ) -> Labels:
        """Note that a node sums over an input's axis, and return the labels along it."""
        self.require_axes(operation.inputs[input_index], [axis])
        labels = read_axis(self.labels(operation.inputs[input_index]), axis)
        if len(labels) > 1:
            self.reads.append(Read(operation.name, input_index, axis, labels, weight_index, weight_axis))
        return labels

    def require_axes(self, name: str, axes: Iterable[int]) -> None:
        """Refuse a tensor that doesn't have all of these axes.

        Raises:
            UntraceableError: It hasn't.
        """
        rank = self.labels(name).ndim
        if not all(-rank <= axis < rank for axis in axes):
            raise UntraceableError(CONTRADICTION)

    def require_only(self, name: str, axis: int, what: str) -> None:
        """Refuse a tensor whose labels vary on another axis than the given one.

        Raises:
            UntraceableError: They do.
        """
        self.require_axes(name, [axis])
        if any(item != axis % len(self.shape(name)) for item in varying_axes(self.labels(name))):
            raise UntraceableError(what)

    def require_none(self, name: str, axes: Iterable[int], what: str) -> None:
        """Refuse a tensor whose labels vary on one of these axes.

        Raises:
            UntraceableError: They do.
        """
        axes, rank = list(axes), len(self.shape(name))
        self.require_axes(name, axes)
        if {axis % rank for axis in axes} & set(varying_axes(self.labels(name))):
            raise UntraceableError(what)
