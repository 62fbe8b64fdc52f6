"""Which layers of a compressed network can be re-fitted to the original, and by what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.graph.rewrite import PairNames
from onnx_basisprune.graph.shapes import infer_shapes
from onnx_basisprune.network import Network
from onnx_basisprune.planning.refit import RefitLayer
from onnx_basisprune.planning.types import Operation, Program

# Wider layers aren't re-fitted: their moments would take over 128 MiB, and more images than there are. Weights of more
# inputs are fitted from their output side: eigenvectors take the cube of the width, here some seconds.
_WIDEST, _MOST_INPUTS = 4096, 2304
# So many rows must tell each input's share.
_ROWS_PER_INPUT = 2


def list_refit_layers(
    network: Network,
    student: Program,
    pairs: Mapping[str, PairNames],
    removed: Collection[int],
    images: Mapping[str, int],
    locked: Collection[str] = (),
    exclude: Collection[str] = (),
) -> tuple[RefitLayer, ...]:
    """Return the layers that a cut changed and that can be re-fitted, in the order of their nodes.

    Not those whose weight or bias is computed, shared, locked, or an input's default, and no grouped ConvTranspose.

    Args:
        network: The original.
        student: What is left of it.
        pairs: Initializers of its pairs by the Conv that they replace.
        removed: Classes of the original's channels that are gone.
        images: On how many images each of the original's nodes can be fitted.
        locked: Initializers that mustn't change.
        exclude: Nodes that stay as they are.
    """
    finder = _LayerFinder(network, student, pairs, removed, images, locked)
    changed = list_changed(network.program, student)
    return tuple(
        layer
        for position, operation in enumerate(student.operations)
        if changed.intersection(operation.outputs) and operation.name not in exclude
        for layer in finder.find(position, operation)
    )


def list_changed(original: Program, compressed: Program) -> set[str]:
    """Return the compressed graph's tensors that aren't computed as in the original."""
    same = {
        name
        for name, array in compressed.initializers.items()
        if name in original.initializers and np.array_equal(array, original.initializers[name])
    }
    changed = set(compressed.initializers) - same
    for operation in compressed.operations:
        if changed.intersection(operation.inputs):
            changed.update(filter(None, operation.outputs))
    return changed


class _LayerFinder:
    """Tells for single nodes whether and how they can be re-fitted."""

    def __init__(
        self,
        network: Network,
        student: Program,
        pairs: Mapping[str, PairNames],
        removed: Collection[int],
        images: Mapping[str, int],
        locked: Collection[str],
    ) -> None:
        self._network, self._student, self._images = network, student, images
        self._pairs = {names.scaling: name for name, names in pairs.items()}
        self._basis = {names.basis for names in pairs.values()}
        self._removed = np.fromiter(removed, dtype=np.int64)
        self._labels = {(item.node, item.input_index, item.axis): item.labels for item in network.channels.couplings}
        self._shapes = infer_shapes(network.model, network.input_shapes)
        self._producers = {
            name: index for index, operation in enumerate(student.operations) for name in operation.outputs
        }
        self._readers: dict[str, list[Operation]] = {}
        for operation in student.operations:
            for name in operation.inputs:
                self._readers.setdefault(name, []).append(operation)
        counts = Counter(name for operation in student.operations for name in operation.inputs)
        counts.update(spec.name for spec in student.outputs)
        self._free = {
            name
            for name, array in student.initializers.items()
            if counts[name] == 1 and name not in {*locked, *student.defaults} and array.dtype == np.float32
        }
        self._outputs = {spec.name for spec in student.outputs} | set(locked)

    def find(self, position: int, operation: Operation) -> Iterator[RefitLayer]:
        """Yield the layer that a node is, if it can be re-fitted."""
        weight = operation.inputs[1] if len(operation.inputs) > 1 else ""
        if weight not in self._free:
            return
        if weight not in self._basis:
            layer = self._describe(operation, weight)
            if layer is not None:
                yield self._follow_sum(position, operation.outputs[0], layer)
            return
        (scaling,) = self._readers[operation.outputs[0]]
        layer = self._describe(scaling, scaling.inputs[1]) if scaling.inputs[1] in self._free else None
        if layer is not None and self._can_tell_inputs(operation, layer):
            layer = self._fit_weight(operation, replace(layer, weight=weight, through=scaling.inputs[1]))
            yield self._follow_sum(position, scaling.outputs[0], layer)

    def _describe(self, operation: Operation, weight: str) -> RefitLayer | None:
        """Return how a node is re-fitted that stands in the original, too, or is the scaling conv of a pair."""
        owner = self._network.operations.get(self._pairs.get(weight, operation.name))
        axis = find_output_axis(operation)
        if operation.domain or owner is None or axis is None:
            return None
        shape = self._student.initializers[weight].shape
        kept = self._find_kept(owner, axis)
        place = self._find_bias(operation, shape[axis]) if axis < len(shape) else None
        if place is None or len(kept) != shape[axis] or place[2] not in self._shapes or shape[axis] > _WIDEST:
            return None
        bias, factor, output = place
        layer = RefitLayer(
            name=owner.name,
            form="output",
            source=output,
            target=output,
            skip="",
            kept=kept,
            axis=-1 if operation.op_type == "MatMul" else 1,
            weight=weight,
            weight_axis=axis,
            bias=bias,
            bias_factor=factor,
            groups=shape[axis] if int(operation.attributes.get("group", 1)) > 1 else 1,
            rows=self._find_rows(output) if operation.op_type == "MatMul" else None,
        )
        can_fit = has_plain_weight(operation, shape) and (
            weight in self._pairs or self._can_tell_inputs(operation, layer)
        )
        return self._fit_weight(operation, layer) if can_fit else layer

    def _fit_weight(self, operation: Operation, layer: RefitLayer) -> RefitLayer:
        """Return the same layer with its weight fitted to its inputs."""
        kernel = self._student.initializers[layer.weight].shape[2:]
        window = (kernel, operation.attributes) if operation.op_type == "Conv" else None
        groups = int(operation.attributes.get("group", 1))
        return replace(layer, form="weight", source=operation.inputs[0], window=window, groups=groups)

    def _can_tell_inputs(self, operation: Operation, layer: RefitLayer) -> bool:
        """Return whether rows tell what each input adds, or a map of the outputs has even more to fit."""
        if operation.inputs[0] in self._student.initializers:  # a table of positions, say: no image runs through it
            return False
        # A pair's basis filters are a Conv like its scaling conv, which the layer is of: their axes are the same.
        weight, axis = self._student.initializers[operation.inputs[1]], layer.weight_axis
        outputs: int = weight.shape[axis] // int(operation.attributes.get("group", 1))
        inputs: int = weight.size // weight.shape[axis]
        shape = self._shapes[layer.target]
        positions = int(np.prod(shape)) // shape[layer.axis] // self._network.input_shape[0]
        if layer.rows is not None:
            positions = positions // shape[layer.rows[0]] * len(layer.rows[1])
        rows = self._images.get(layer.name, 0) * positions
        return inputs <= _MOST_INPUTS and (rows >= _ROWS_PER_INPUT * inputs or inputs <= outputs)

    def _find_kept(self, owner: Operation, axis: int) -> NDArray[np.int64]:
        """Return which output channels of an original's node stay."""
        labels = self._labels.get((owner.name, 1, axis))
        if labels is None:
            return np.arange(self._network.program.initializers[owner.inputs[1]].shape[axis])
        return np.flatnonzero(~np.isin(labels, self._removed))

    def _find_rows(self, output: str) -> tuple[int, NDArray[np.int64]] | None:
        """Return the axis before a MatMul's last one on which its output's channels lie, and which of them stay."""
        found = self._network.channels.find_kept(output, self._removed)
        return None if found is None or found[0] == len(self._shapes[output]) - 1 else found

    def _find_bias(self, operation: Operation, channels: int) -> tuple[str, float, str] | None:
        """Return a node's bias, its factor and the tensor that has it added; `None` where it can't be set."""
        output = operation.outputs[0]
        if operation.op_type == "MatMul":
            readers = [] if output in self._outputs else self._readers.get(output, [])
            if len(readers) == 1 and readers[0].op_type == "Add":
                (name,) = [name for name in readers[0].inputs if name != output] or [""]
                if name in self._free and self._student.initializers[name].shape == (channels,):
                    return name, 1.0, readers[0].outputs[0]
            return "", 1.0, output
        name = operation.inputs[2] if len(operation.inputs) > 2 else ""
        if not name:
            return "", 1.0, output
        factor = float(operation.attributes.get("beta", 1.0))
        if name not in self._free or self._student.initializers[name].size != channels or factor == 0.0:
            return None
        return name, factor, output

    def _follow_sum(self, position: int, output: str, layer: RefitLayer) -> RefitLayer:
        """Aim at the sum instead, where a layer's output is only added to something that was computed before."""
        readers = [] if output in self._outputs else self._readers.get(output, [])
        if len(readers) != 1 or readers[0].op_type != "Add":
            return layer
        others = [name for name in readers[0].inputs if name != output]
        total = readers[0].outputs[0]
        same = self._network.operations.get(readers[0].name)
        if (
            len(others) != 1
            or others[0] in self._student.initializers
            or self._has_later_layers(others[0], position)
            or same is None
            or same.outputs[0] != total
            or output not in self._shapes
            or self._shapes.get(total) != self._shapes[output]
        ):
            return layer
        return replace(layer, target=total, skip=others[0])

    def _has_later_layers(self, name: str, position: int) -> bool:
        """Return whether a tensor depends on layers behind a position, which are fitted later."""
        waiting, seen = [name], set[str]()
        while waiting:
            index = self._producers.get(waiting.pop(), -1)
            if index <= position:
                continue
            operation = self._student.operations[index]
            if find_output_axis(operation) is not None:
                return True
            waiting.extend(set(operation.inputs) - seen)
            seen.update(operation.inputs)
        return False


def has_plain_weight(operation: Operation, shape: Sequence[int]) -> bool:
    """Return whether a node multiplies rows of its inputs by its weight and by nothing else.

    Args:
        operation: A node that is re-fitted.
        shape: Its weight's.
    """
    attributes = operation.attributes
    if operation.op_type == "Gemm":
        return not attributes.get("transA", 0) and float(attributes.get("alpha", 1.0)) == 1.0
    return operation.op_type == "Conv" or (operation.op_type == "MatMul" and len(shape) == 2)


def find_output_axis(operation: Operation) -> int | None:
    """Return the axis of output channels in a node's second input, `None` for nodes that aren't re-fitted."""
    if operation.op_type == "Conv":
        return 0
    if operation.op_type == "ConvTranspose" and int(operation.attributes.get("group", 1)) == 1:
        return 1
    if operation.op_type == "Gemm":
        return 0 if operation.attributes.get("transB", 0) else 1
    return 1 if operation.op_type == "MatMul" else None
