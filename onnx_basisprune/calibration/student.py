"""The compressed graph with the tensors that the recovery trains (METHOD section 6).

`scale` trains one factor per basis channel, the biases and the final classifier, no other weight. `full` trains every
weight. What an initializer is, the nodes that read it tell: a convolution's second input is a weight, the bounds of a
Clip and the table of a Gather are not. An initializer is trained only where each of its readers takes it for a weight:
exporters share equal constants between nodes that mean different things.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.calibration.gradient_pass import to_channels_last
from onnx_basisprune.planning.types import Operation, Program

RecoveryMode = Literal["scale", "full"]

# op_type → the inputs that are added per channel; of elementwise operators only vectors are, not grids or masks.
_BIASES: Mapping[str, tuple[int, ...]] = {
    "Add": (0, 1),
    "BatchNormalization": (2,),
    "Conv": (2,),
    "ConvTranspose": (2,),
    "Gemm": (2,),
    "GroupNormalization": (2,),
    "InstanceNormalization": (2,),
    "LayerNormalization": (2,),
}
# op_type → all other inputs that are weights.
_WEIGHTS: Mapping[str, tuple[int, ...]] = {
    "BatchNormalization": (1,),
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (0, 1),
    "GroupNormalization": (1,),
    "InstanceNormalization": (1,),
    "LayerNormalization": (1,),
    "MatMul": (0, 1),
    "Mul": (0, 1),
    "PRelu": (1,),
    "RMSNormalization": (1,),
}
_ELEMENTWISE = frozenset({"Add", "Mul"})
# A weight may be laid out anew before it is read.
_LAYOUT_OPS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})

# To work on the singular values of larger matrices would outlast the step itself.
_LARGEST_RANK = 1024


@dataclass(frozen=True)
class Student:
    """The compressed graph with what is trained of it: changes of its weights, each in its tensor's own unit.

    A weight is computed as `w = w0 + unit · change` with changes that start at 0. One step of Adam then moves every
    tensor by the same fraction of its size, however large folded batch normalisation has left it, so that one learning
    rate fits all tensors of a network.

    Attributes:
        executor: Runs the graph; its parameters are the `w0`.
        units: By initializer: its root mean square, or for a scaling weight that weight itself, so that a change is
            that of a basis channel's factor.
        changes: By initializer: the trainable tensor, shaped as the weight, or `[1, r, ...]` for a scaling weight.
    """

    executor: Executor
    units: dict[str, torch.Tensor]
    changes: dict[str, torch.Tensor]

    def compute_weights(self) -> dict[str, torch.Tensor]:
        """Return what the graph computes with instead of its initializers."""
        parameters = self.executor.parameters
        return {
            name: torch.addcmul(parameters[name], self.units[name], change) for name, change in self.changes.items()
        }

    def read_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the trained initializers as arrays of their own, float32."""
        with torch.no_grad():
            return {name: weight.contiguous().numpy() for name, weight in self.compute_weights().items()}


def prepare_executor(program: Program) -> Executor:
    """Return what runs a graph, with its weights laid out for convolutions on channels-last images."""
    executor = Executor(program)
    executor.parameters = {name: to_channels_last(tensor) for name, tensor in executor.parameters.items()}
    return executor


def make_student(executor: Executor, free: set[str], scaling: tuple[str, ...]) -> Student:
    """Return a compressed graph with fresh trainable tensors; the executor's own stay as they are.

    Args:
        executor: Runs the graph.
        free: Initializers that are trained themselves.
        scaling: Scaling weights `[C_out, r, ...]` that are trained by one factor per basis channel.
    """
    parameters = executor.parameters
    sizes = {name: parameters[name].square().mean().sqrt() for name in sorted(free)}
    # A tensor of zeros (a bias that was never used) has no size of its own.
    usual = torch.stack([size for size in sizes.values() if size > 0] or [torch.tensor(1.0)]).median()
    units = {name: size if size > 0 else usual for name, size in sizes.items()}
    changes = {name: torch.zeros_like(parameters[name]) for name in units}
    for name in scaling:
        units[name] = parameters[name]
        changes[name] = torch.zeros_like(parameters[name][:1])
    for change in changes.values():
        change.requires_grad_()
    return Student(executor, units, changes)


def list_trained(program: Program, mode: RecoveryMode, classifier: Operation | None) -> set[str]:
    """Return the initializers that a recovery trains themselves.

    Args:
        program: The compressed graph.
        mode: `scale` for biases and the final classifier, `full` for every weight.
        classifier: The graph's last operation with weights, `None` where there isn't one.
    """
    wanted = set(classifier.inputs) if classifier is not None else set()
    refused = set(program.defaults)
    for name, is_bias, is_weight in _list_readings(program):
        if is_bias or (is_weight and mode == "full"):
            wanted.add(name)
        if not is_bias and not is_weight:
            refused.add(name)
    trainable = {
        name for name, array in program.initializers.items() if array.dtype == np.float32 and array.ndim and array.size
    }
    return (wanted & trainable) - refused


def list_matrices(program: Program) -> frozenset[str]:
    """Return the initializers whose rows all read the same inputs: kernels of plain Convs, and matrices."""
    weights = program.initializers
    readings = ((operation, operation.inputs[1]) for operation in program.operations if len(operation.inputs) > 1)
    return frozenset(name for operation, name in readings if _is_map(operation, weights.get(name)))


def _list_readings(program: Program) -> Iterator[tuple[str, bool, bool]]:
    """Yield each reading of an initializer: its name, and whether it is read as a bias and as another weight."""
    sources = {name: name for name in program.initializers}
    for operation in program.operations:
        onnx_op = operation.op_type if operation.domain == "" else ""
        if onnx_op in _LAYOUT_OPS and operation.inputs[0] in sources:
            sources[operation.outputs[0]] = sources[operation.inputs[0]]
            continue
        for index, name in enumerate(operation.inputs):
            if name in sources:
                source = sources[name]
                if onnx_op in _ELEMENTWISE and not _is_vector(program.initializers[source]):
                    yield source, False, False
                else:
                    yield source, index in _BIASES.get(onnx_op, ()), index in _WEIGHTS.get(onnx_op, ())
    for spec in program.outputs:
        if spec.name in sources:
            yield sources[spec.name], False, False


def _is_map(operation: Operation, weight: NDArray[Any] | None) -> bool:
    """Return whether a node's weight is a matrix, or a kernel that stands for one, of a size that can be worked on."""
    if operation.domain != "" or operation.attributes.get("group", 1) != 1 or weight is None or not weight.size:
        return False
    if operation.op_type != "Conv" and (operation.op_type not in {"Gemm", "MatMul"} or weight.ndim != 2):
        return False
    return 1 < min(len(weight), weight.size // len(weight)) <= _LARGEST_RANK


def _is_vector(array: NDArray[Any]) -> bool:
    """Return whether an array has at most one axis that is longer than 1, and that axis."""
    return array.size > 1 and array.size == max(array.shape)
