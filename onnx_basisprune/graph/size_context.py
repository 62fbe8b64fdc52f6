"""What fixes of stated sizes work with: the sizes before and after a removal, and the graph that is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_basisprune.graph.editing import make_unique
from onnx_basisprune.graph.shapes import Shape
from onnx_basisprune.planning.channels import Labels, varying_axes


@dataclass(frozen=True)
class SizeContext:
    """Sizes before and after.

    Attributes:
        shapes: Before, by tensor.
        labels: Labels of traced tensors.
        gone: Removed classes.
        opset: Of the model.
    """

    shapes: Mapping[str, Shape]
    labels: Mapping[str, Labels]
    gone: NDArray[np.int64]
    opset: int

    @cached_property
    def _kept(self) -> NDArray[np.bool_]:
        """Whether each class stays, by its label; the last one stands for all that are higher."""
        kept = np.ones(int(self.gone.max(initial=0)) + 2, dtype=np.bool_)
        kept[self.gone] = False
        return kept

    def stays(self, name: str) -> NDArray[np.bool_]:
        """Return which positions of a traced tensor stay, in the shape of its labels."""
        return self._kept[np.minimum(self.labels[name], len(self._kept) - 1)]

    def is_cut(self, name: str) -> bool:
        """Return whether a tensor loses channels."""
        return name in self.labels and not bool(self.stays(name).all())

    def cut_axis(self, name: str) -> int | None:
        """Return the axis on which a tensor loses channels."""
        return varying_axes(self.labels[name])[0] if self.is_cut(name) else None

    def new_shape(self, name: str) -> Shape:
        """Return a tensor's shape afterwards; without labels, it keeps the one it has."""
        shape = list(self.shapes[name])
        axis = self.cut_axis(name)
        if axis is not None:
            shape[axis] = int(self.stays(name).sum())
        return tuple(shape)


class Site:
    """The graph that is changed.

    Attributes:
        graph: Its nodes are in topological order, and stay so.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self._taken = {*graph.tensors(), *(node.name for node in graph.nodes)}

    def name(self, base: str) -> str:
        """Return a name for a new tensor or node."""
        name = make_unique(base, self._taken)
        self._taken.add(name)
        return name

    def copy_node(self, node: gs.Node, inputs: list[gs.Tensor]) -> gs.Tensor:
        """Put a copy of a node with one output behind it, with other inputs, and return the copy's output."""
        output = gs.Variable(self.name(node.outputs[0].name))
        copy = gs.Node(node.op, self.name(node.name), dict(node.attrs), inputs, [output])
        self.graph.nodes.insert(next(at for at, item in enumerate(self.graph.nodes) if item is node) + 1, copy)
        return output
