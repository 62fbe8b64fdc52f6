"""float16 becomes float32 and comes back."""

from __future__ import annotations

import numpy as np
import onnx.parser
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from onnx_basisprune.graph.half_precision import has_half, narrow_model, widen_model
from onnx_basisprune.graph.model_io import passes_full_check

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float16[N, 3] x, float[N, 3] z) => (float16[N, 3] y, float[N, 3] v)
{
    a = Mul (x, w)
    k = Constant <value = float16 {2}> ()
    b = Add (a, k)
    wide = Cast <to = 1> (b)
    v = Add (wide, z)
    narrow = Cast <to = 10> (v)
    y = If (yes) <
        then_branch = t () => (float16[N, 3] p) { c = Cast <to = 10> (z) p = Add (c, narrow) },
        else_branch = e () => (float16[N, 3] q) { q = Identity (narrow) }>
}
"""


def build() -> ModelProto:
    model = onnx.parser.parse_model(TEXT)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1e-7, 65504], np.float16), "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    assert passes_full_check(model)
    return model


def test_there_and_back_is_the_same() -> None:
    model = build()
    wide = widen_model(model)
    assert passes_full_check(wide)
    assert not has_half(wide)
    assert narrow_model(wide, model) == model


def test_a_model_without_half_is_handed_through() -> None:
    wide = widen_model(build())
    assert widen_model(wide) is wide
    assert narrow_model(wide, wide) is wide


def test_new_tensors_follow_what_their_node_reads() -> None:
    model = build()
    wide = widen_model(model)
    position = next(index for index, node in enumerate(wide.graph.node) if node.output[0] == "b")
    wide.graph.node.insert(position, onnx.helper.make_node("Mul", ["a", "new"], ["a2"]))
    wide.graph.node[position + 1].input[0] = "a2"
    wide.graph.node.insert(len(wide.graph.node) - 2, onnx.helper.make_node("Mul", ["wide", "other"], ["unused"]))
    for name, values in {"new": [1e6, -1e6, 1e-7], "other": [1, 2, 3]}.items():
        wide.graph.initializer.append(numpy_helper.from_array(np.array(values, np.float32), name))
    narrow = narrow_model(wide, model)
    assert passes_full_check(narrow)
    tensors = {tensor.name: tensor for tensor in narrow.graph.initializer}
    assert tensors["other"].data_type == TensorProto.FLOAT
    new: NDArray[np.float16] = numpy_helper.to_array(tensors["new"])
    # Too large becomes the largest; subnormals of float16 are kept, they are normal numbers in float32.
    np.testing.assert_array_equal(new, np.array([65504, -65504, 1e-7], np.float16))


def test_weights_stored_as_half_are_stored_so_again() -> None:
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3] x) => (float[N, 3] y)
        { f = Cast <to = 1> (w) y = Mul (x, f) }""")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3], np.float16), "w"))
    folded = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3] x) => (float[N, 3] y)
        { a = Mul (x, f_basis) b = Mul (a, f) y = Mul (b, free) }""")
    folded.graph.node[0].input[1] = "f.basis"
    for name in ("f", "f.basis", "free"):
        folded.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3], np.float32), name))
    narrow = narrow_model(folded, model)
    assert passes_full_check(narrow)
    types = {tensor.name: tensor.data_type for tensor in narrow.graph.initializer}
    assert types == {"f.half": TensorProto.FLOAT16, "f.basis.half": TensorProto.FLOAT16, "free": TensorProto.FLOAT}
    assert [node.op_type for node in narrow.graph.node] == ["Cast", "Cast", "Mul", "Mul", "Mul"]
