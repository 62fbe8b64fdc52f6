"""Weights as graph-surgeon is handed them: read from the original where their values are asked for, and no sooner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import TensorProto
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnx_basisprune.graph.tensors import is_shape_operand, sketch_tensor

_TYPED_DATA = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


class OriginalValues(LazyValues):  # type: ignore[misc]
    """A weight of the original; exported without its values."""

    def __init__(self, original: TensorProto) -> None:
        super().__init__(sketch_tensor(original))
        self._original = original

    def load(self) -> NDArray[Any]:
        """Return the values."""
        return np.array(onnx.numpy_helper.to_array(self._original))

    def sketch(self, keep: Mapping[int, Sequence[int]]) -> SketchedValues | None:
        """Return what a cut leaves of a weight without data (see `drop_weights`), `None` for one that has them."""
        original = self._original
        if is_shape_operand(original) or original.HasField("raw_data"):
            return None
        if any(len(getattr(original, field)) for field in _TYPED_DATA):
            return None
        dims = [len(keep.get(axis, range(size))) for axis, size in enumerate(original.dims)]
        return SketchedValues(TensorProto(data_type=original.data_type, dims=dims))


class SketchedValues(LazyValues):  # type: ignore[misc]
    """A weight that was cut and never had data: nothing but its shape and type is known."""

    def __init__(self, tensor: TensorProto) -> None:
        super().__init__(tensor)
        self.tensor = tensor


def cut_constant(constant: gs.Constant, keep: Mapping[int, Sequence[int]]) -> NDArray[Any] | LazyValues:
    """Return what is left of a weight, as values for a new constant.

    Args:
        constant: The weight.
        keep: The positions that stay, by axis.
    """
    lazy = constant._values  # noqa: SLF001  # asked for values, it would load them
    sketched = lazy.sketch(keep) if isinstance(lazy, OriginalValues) else None
    if sketched is not None:
        return sketched
    values = constant.values
    for axis, positions in keep.items():
        values = values.take(positions, axis=axis)
    return np.ascontiguousarray(values)


def read_edited(constant: gs.Constant) -> NDArray[Any] | TensorProto | None:
    """Return a constant's new values, or its new shape and type; `None` where it is the original's."""
    values = constant._values  # noqa: SLF001
    if isinstance(values, SketchedValues):
        return values.tensor
    return None if isinstance(values, LazyValues) else values
