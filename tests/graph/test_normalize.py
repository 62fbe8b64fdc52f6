"""Normalising keeps what a model computes, whatever dialect it is written in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_basisprune.graph.editing import list_overridable
from onnx_basisprune.graph.layers import list_conv_layers
from onnx_basisprune.graph.normalize import drop_constant_inputs, name_nodes, normalize_model

Compare = Callable[..., None]
RNG = np.random.default_rng(0)
IMAGE = np.random.default_rng(1).standard_normal((2, 3, 6, 6), dtype=np.float32)


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


def build(text: str, ir: int = 8, opset: int = 17, **arrays: np.ndarray) -> onnx.ModelProto:
    """Parse a graph's text and add initializers."""
    imports = f'opset_import: ["" : {opset}, "custom" : 1]' if "custom." in text else f'opset_import: ["" : {opset}]'
    model = onnx.parser.parse_model(f"<ir_version: {ir}, {imports}> {text}")
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


def list_ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def draw_batch_norm(channels: int) -> dict[str, np.ndarray]:
    return {"g": draw(channels), "b": draw(channels), "m": draw(channels), "v": np.abs(draw(channels)) + 0.1}


def test_folds_the_usual_chain_and_leaves_the_input_alone(assert_equivalent: Compare) -> None:
    model = build(
        """g (float[N, 3, 6, 6] x) => (float[N, 4, 6, 6] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w)
        n = BatchNormalization <epsilon = 0.01> (c, g, b, m, v)
        s = Mul (n, k)
        d = Dropout (s)
        i = Identity (d)
        y = Add (h, i) }""",
        w=draw(4, 3, 3, 3), k=draw(4, 1, 1), h=draw(1, 4, 1, 1), **draw_batch_norm(4),
    )  # fmt: skip
    before = model.SerializeToString()
    normal = normalize_model(model)
    assert model.SerializeToString() == before
    assert list_ops(normal) == ["Conv"]
    assert {tensor.name for tensor in normal.graph.initializer} == {"w", "w.bias"}
    assert_equivalent(model, normal, {"x": IMAGE}, 1e-5)
    again = normalize_model(normal)
    assert again.SerializeToString() == normal.SerializeToString()


@pytest.mark.parametrize(
    ("op", "first", "shape", "folds"),
    [
        ("Mul", False, (), True),
        ("Mul", True, (1,), True),
        ("Add", False, (4, 1, 1), True),
        ("Sub", False, (1, 4, 1, 1), True),
        ("Sub", True, (4, 1, 1), True),
        ("Div", False, (4, 1, 1), True),
        ("Div", True, (4, 1, 1), False),
        ("Add", False, (6,), False),
        ("Add", False, (1, 1, 6, 1), False),
        ("Mul", False, (2, 1, 1, 1), False),
        ("Mul", False, (1, 1, 1, 1, 1), False),
        ("Add", False, (3, 1, 4, 1, 1), False),
    ],
)
def test_folds_only_what_is_one_number_per_channel(
    op: str, first: bool, shape: tuple[int, ...], folds: bool, assert_equivalent: Compare
) -> None:
    model = build(
        f"""g (float[2, 3, 6, 6] x) => (float y) {{
        c = Conv (x, w, b)
        y = {op} ({"k, c" if first else "c, k"}) }}""",
        w=draw(4, 3, 1, 1), b=draw(4), k=np.abs(draw(*shape)) + 0.5,
    )  # fmt: skip
    model.graph.output[0].type.tensor_type.ClearField("shape")
    normal = normalize_model(model)
    assert (list_ops(normal) == ["Conv"]) == folds
    assert_equivalent(model, normal, {"x": IMAGE}, 1e-5)


def test_a_conv_of_one_channel_is_not_widened(assert_equivalent: Compare) -> None:
    model = build(
        "g (float[2, 3, 6, 6] x) => (float[2, 4, 6, 6] y) { c = Conv (x, w) y = Add (c, k) }",
        w=draw(1, 3, 1, 1), k=draw(4, 1, 1),
    )  # fmt: skip
    normal = normalize_model(model)
    assert list_ops(normal) == ["Conv", "Add"]
    assert_equivalent(model, normal, {"x": IMAGE}, 1e-6)


def test_a_divisor_of_zero_and_values_out_of_range_are_not_folded(assert_equivalent: Compare) -> None:
    text = "g (float[2, 3, 6, 6] x) => (float[2, 4, 6, 6] y) { c = Conv (x, w) y = %s (c, k) }"
    divided = build(text % "Div", w=draw(4, 3, 1, 1), k=np.array([1, 0, 2, 3], np.float32).reshape(4, 1, 1))
    assert list_ops(normalize_model(divided)) == ["Conv", "Div"]
    huge = build(text % "Mul", w=draw(4, 3, 1, 1) * 1e-30, k=np.full((1,), 3e38, np.float32))
    assert_equivalent(huge, normalize_model(huge), {"x": IMAGE}, 1e-5)
    larger = build(text % "Mul", w=np.full((4, 3, 1, 1), 1e10, np.float32), k=np.full((1,), 3e38, np.float32))
    assert list_ops(normalize_model(larger)) == ["Conv", "Mul"]


@pytest.mark.parametrize(
    ("body", "opset"),
    [
        ("n, a, z = BatchNormalization <training_mode = 1> (c, g, b, m, v)", 17),
        ("n = BatchNormalization <spatial = 0> (c, gs, bs, ms, vs)", 7),
        ("n, a, z, e, f = BatchNormalization (c, g, b, m, v)", 9),
    ],
)
def test_other_batch_normalizations_stay(body: str, opset: int) -> None:
    spatial = {name + "s": draw(4, 6, 6) for name in "gbmv"} if "spatial" in body else {}
    model = build(
        f"g (float[2, 3, 6, 6] x) => (float[2, 4, 6, 6] y) {{ c = Conv (x, w) {body} y = Relu (n) }}",
        opset=opset, w=draw(4, 3, 1, 1), **draw_batch_norm(4), **spatial,
    )  # fmt: skip
    assert list_ops(normalize_model(model)) == ["Conv", "BatchNormalization", "Relu"]


@pytest.mark.parametrize(
    "text",
    [
        # Read twice, by one node and by two.
        "g (float[N,3,6,6] x) => (float y) { c = Conv (x, w) y = Add (c, c) }",
        "g (float[N,3,6,6] x) => (float y) { c = Conv (x, w) s = Mul (c, k) r = Relu (c) y = Add (s, r) }",
        # An output of the graph.
        "g (float[N,3,6,6] x) => (float y, float c) { c = Conv (x, w) y = Mul (c, k) }",
    ],
)
def test_a_conv_that_is_read_elsewhere_is_not_folded(text: str, assert_equivalent: Compare) -> None:
    model = build(text, w=draw(4, 3, 1, 1), k=draw(4, 1, 1))
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    normal = normalize_model(model)
    assert list_ops(normal) == list_ops(model)
    assert_equivalent(model, normal, {"x": IMAGE}, 1e-6)


def build_with_branches(body: str, reads: str, **arrays: np.ndarray) -> onnx.ModelProto:
    """`y` is a branch's Relu of a tensor of the main graph, or its negative."""
    return build(
        f"""g (float[N, 3, 6, 6] x, bool flag) => (float[N, M, H, W] y, float[N, L, R, S] z) {{
        {body}
        y = If (flag) <
            then_branch = t () => (float[N, M, H, W] p) {{ p = Relu ({reads}) }},
            else_branch = e () => (float[N, M, H, W] q) {{ q = Neg ({reads}) }}> }}""",
        **arrays,
    )


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize(
    ("body", "reads"),
    [
        ("c = Conv (x, w) z = Mul (c, k)", "c"),
        ("c = Conv (x, w) i = Identity (c) z = Mul (i, k)", "i"),
        ("i = Identity (x) c = Conv (i, w) z = Mul (c, k)", "i"),
        ("c = Conv (x, w) n = Mul (c, k) z = Relu (n)", "n"),
        ("c = Conv (x, w) n = Mul (c, k) z = Relu (n)", "w"),
        ("i = Identity (w) c = Conv (x, i) n = Mul (c, k) z = Relu (n)", "i"),
        ("i = Constant <value = float[1, 1, 1, 2] {1, -2}> () c = Conv (x, w) z = Mul (c, k)", "i"),
        ("d, mask = Dropout (x) c = Conv (d, w) z = Mul (c, k)", "d"),
    ],
)
def test_what_an_inner_graph_reads_stays(body: str, reads: str, flag: bool, assert_equivalent: Compare) -> None:
    model = build_with_branches(body, reads, w=draw(4, 3, 1, 1), k=draw(4, 1, 1))
    normal = normalize_model(model)
    assert_equivalent(model, normal, {"x": IMAGE, "flag": np.array(flag)}, 1e-5)
    assert normal.graph.node[-1] == next(node for node in normal.graph.node if node.op_type == "If")


def test_an_outer_scope_in_nested_inner_graphs(assert_equivalent: Compare) -> None:
    model = build(
        """g (float[N, 3, 6, 6] x, bool flag) => (float[N, M, H, W] y) {
        c = Conv (x, w)
        i = Identity (c)
        s = Mul (c, k)
        r = Relu (s)
        y = If (flag) <
            then_branch = t () => (float[N, M, H, W] p) { p = If (flag) <
                then_branch = tt () => (float[N, M, H, W] pp) { pp = Relu (i) },
                else_branch = te () => (float[N, M, H, W] pq) { pq = Neg (r) }> },
            else_branch = e () => (float[N, M, H, W] q) { q = Identity (r) }> }""",
        w=draw(4, 3, 1, 1), k=draw(4, 1, 1),
    )  # fmt: skip
    normal = normalize_model(model)
    for flag in (True, False):
        assert_equivalent(model, normal, {"x": IMAGE, "flag": np.array(flag)}, 1e-5)


def test_below_ir_4_listed_initializers_are_constants(assert_equivalent: Compare) -> None:
    model = build(
        """g (float[N, 3, 6, 6] x, float[4, 3, 1, 1] w, float[4] g, float[4] b, float[4] m, float[4] v)
        => (float[N, 4, 6, 6] y) { c = Conv (x, w) y = BatchNormalization (c, g, b, m, v) }""",
        ir=3, opset=7, w=draw(4, 3, 1, 1), **draw_batch_norm(4),
    )  # fmt: skip
    normal = normalize_model(model)
    assert list_ops(normal) == ["Conv"]
    assert [value.name for value in normal.graph.input] == ["x"]
    assert normal.ir_version == 4
    assert_equivalent(model, normal, {"x": IMAGE}, 1e-5)
    untouched = build("g (float[1] x) => (float[1] y) { y = Relu (x) }", ir=8)
    drop_constant_inputs(untouched)
    assert untouched.ir_version == 8


def test_from_ir_4_on_initializers_stay_overridable(assert_equivalent: Compare) -> None:
    model = build(
        """g (float[N, 3, 6, 6] x, float[4, 3, 1, 1] w, float[4, 1, 1] k, float[2] unused)
        => (float[N, 5, 6, 6] y) {
        c = Conv (x, w) s = Mul (c, one) d = Conv (s, u, b) y = Add (d, shift) }""",
        w=draw(4, 3, 1, 1), k=draw(4, 1, 1), unused=draw(2), one=draw(4, 1, 1), u=draw(5, 4, 1, 1), b=draw(5),
        shift=draw(5, 1, 1),
    )  # fmt: skip
    model.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [5]))
    model.graph.input.append(helper.make_tensor_value_info("shift", TensorProto.FLOAT, [5, 1, 1]))
    normal = normalize_model(model)
    assert list_overridable(normal) == list_overridable(model) == {"w", "k", "unused", "b", "shift"}
    assert normal.graph.input == model.graph.input
    assert list_ops(normal) == list_ops(model)
    feeds = {"x": IMAGE, "w": draw(4, 3, 1, 1), "b": draw(5), "shift": draw(5, 1, 1)}
    assert_equivalent(model, normal, {"x": IMAGE}, 1e-6)
    assert_equivalent(model, normal, feeds, 1e-6)
    first, second = list_conv_layers(normal)
    assert first.reason == "its weight is a graph input that a caller may override"
    assert second.reason == "its bias is a graph input that a caller may override"


def test_shared_weights_and_biases_are_separated(assert_equivalent: Compare) -> None:
    model = build(
        """g (float[N, 3, 6, 6] x) => (float[N, 3, 6, 6] y, float[3] b) {
        i = Identity (w)
        c = Conv (x, w, b) d = Conv (c, i, b) e = Mul (d, k) f = Conv (e, w, b) h = Mul (f, k)
        y = Add (h, b2) }""",
        **{"w": draw(3, 3, 1, 1), "b": draw(3), "b2": draw(3, 1, 1), "k": draw(3, 1, 1), "w.1": draw(3)},
    )  # fmt: skip
    normal = normalize_model(model)
    assert list_ops(normal) == ["Conv", "Conv", "Conv"]
    read = [name for node in normal.graph.node for name in node.input[1:]]
    assert len(set(read)) == len(read) == 6
    assert "b" not in read  # an output of the graph
    assert_equivalent(model, normal, {"x": IMAGE}, 1e-5)


def test_node_names_become_unique_and_given_ones_stay() -> None:
    model = build(
        """g (float[N] x) => (float[N] y) {
        a = Relu (x) [same] b = Neg (a) [same] c = Abs (b) [Relu_3] d = Exp (c) e = Relu (d) y = Relu (e) }"""
    )
    name_nodes(model)
    names = [node.name for node in model.graph.node]
    assert names == ["Relu_0", "same", "same.1", "Relu_3", "Relu_4", "Relu_5"]


def test_dropout_with_masks(assert_equivalent: Compare) -> None:
    for mask, kept in (("", False), (", bool[N, 3, 6, 6] mask", True)):
        model = build(
            f"""g (float[N, 3, 6, 6] x) => (float[N, 3, 6, 6] y{mask}) {{
            a = Relu (x) d, mask = Dropout (a, ratio) y = Neg (d) }}""",
            ratio=np.array(0.5, np.float32),
        )  # fmt: skip
        normal = normalize_model(model)
        assert ("Dropout" in list_ops(normal)) == kept
        assert_equivalent(model, normal, {"x": IMAGE}, 0)
    training = build(
        "g (float[N, 3, 6, 6] x) => (float[N, 3, 6, 6] y) { d = Dropout (x, r, t) y = Neg (d) }",
        r=np.array(0.5, np.float32), t=np.array(True),
    )  # fmt: skip
    assert list_ops(normalize_model(training)) == ["Dropout", "Neg"]


def make_constant(name: str, **attribute: object) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], **attribute)


def test_constants_of_every_kind(assert_equivalent: Compare) -> None:
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("", TensorProto.FLOAT, [1], [2.0]), helper.make_tensor("", TensorProto.INT64, [1], [1]), [3]
    )
    text = helper.make_tensor("", TensorProto.STRING, [2], [b"a", b"\xff"])
    half = helper.make_tensor("", TensorProto.BFLOAT16, [2], [1.0, -2.0])
    nodes = [
        make_constant("float", value_float=2.0),
        make_constant("floats", value_floats=[1.0, 2.0, 3.0]),
        make_constant("int", value_int=3),
        make_constant("ints", value_ints=[1, 3]),
        make_constant("string", value_string="one"),
        make_constant("strings", value_strings=["one", "two"]),
        make_constant("text", value=text),
        make_constant("half", value=half),
        make_constant("sparse", sparse_value=sparse),
        make_constant("out", value_float=4.0),
        helper.make_node("Mul", ["x", "float"], ["a"]),
        helper.make_node("Add", ["a", "floats"], ["b"]),
        helper.make_node("Add", ["b", "sparse"], ["c"]),
        helper.make_node("Reshape", ["c", "ints"], ["y"]),
        helper.make_node("Identity", ["strings"], ["s"]),
        helper.make_node("Identity", ["string"], ["s0"]),
        helper.make_node("Identity", ["text"], ["t"]),
        helper.make_node("Cast", ["half"], ["h"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["int"], ["i"], to=TensorProto.INT32),
    ]
    empty = helper.make_node("Constant", [], ["none"])
    empty.attribute.append(onnx.AttributeProto(name="value_ints", type=onnx.AttributeProto.INTS))
    nodes += [empty, helper.make_node("ReduceSum", ["y", "none"], ["n"], noop_with_empty_axes=1)]
    info = helper.make_tensor_value_info
    outputs = [
        info("y", TensorProto.FLOAT, None), info("s", TensorProto.STRING, None), info("s0", TensorProto.STRING, None),
        info("h", TensorProto.FLOAT, None), info("i", TensorProto.INT32, None), info("out", TensorProto.FLOAT, None),
        info("n", TensorProto.FLOAT, None),
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "g", [info("x", TensorProto.FLOAT, [1, 3])], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    normal = normalize_model(model)
    constants = [node.output[0] for node in normal.graph.node if node.op_type == "Constant"]
    assert constants == ["sparse", "out"]
    assert_equivalent(model, normal, {"x": draw(1, 3)}, 0)


def test_string_and_odd_initializers_survive_verbatim() -> None:
    text = helper.make_tensor("text", TensorProto.STRING, [2], [b"a", b"\xff"])
    half = helper.make_tensor("half", TensorProto.BFLOAT16, [2], [1.0, -2.0])
    half.doc_string = "kept"
    float8 = helper.make_tensor("small", TensorProto.FLOAT8E4M3FN, [2], [1.0, -2.0])
    model = build(
        """g (float[N, 3, 6, 6] x) => (float y, string s, bfloat16 h, float8e4m3fn e) {
        c = Conv (x, w) y = Mul (c, k)
        s = Identity (text) h = Identity (half) e = Identity (small) }""",
        ir=10, opset=21, w=draw(4, 3, 1, 1), k=draw(4, 1, 1),
    )  # fmt: skip
    model.graph.initializer.extend([text, half, float8])
    kept = {tensor.name: tensor for tensor in normalize_model(model).graph.initializer}
    assert [kept["text"], kept["half"], kept["small"]] == [text, half, float8]


def test_sparse_initializers_and_empty_lists_survive(assert_equivalent: Compare) -> None:
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [2.0])
    sparse = helper.make_sparse_tensor(values, helper.make_tensor("", TensorProto.INT64, [1], [1]), [3])
    model = build(
        "g (float[1, 3] x) => (float[1, 3] y) { a = Add (x, s) q = Squeeze (one) y = Mul (a, q) }",
        opset=11, one=np.full((1, 1), 3.0, np.float32),
    )  # fmt: skip
    model.graph.sparse_initializer.append(sparse)
    squeeze = next(node for node in model.graph.node if node.op_type == "Squeeze")
    squeeze.attribute.append(onnx.AttributeProto(name="axes", type=onnx.AttributeProto.INTS))
    normal = normalize_model(model)
    assert normal.graph.sparse_initializer[0] == sparse
    assert squeeze.attribute[0] in next(node for node in normal.graph.node if node.op_type == "Squeeze").attribute
    assert_equivalent(model, normal, {"x": draw(1, 3)}, 0)


def test_a_conv_with_empty_lists_is_folded(assert_equivalent: Compare) -> None:
    model = build(
        "g (float[N, 3, 6, 6] x) => (float[N, 4, 6, 6] y) { c = Conv (x, w) y = Mul (c, k) }",
        w=draw(4, 3, 1, 1), k=draw(4, 1, 1),
    )  # fmt: skip
    empty = onnx.AttributeProto(name="dilations", type=onnx.AttributeProto.INTS)
    model.graph.node[0].attribute.append(empty)
    normal = normalize_model(model)
    assert list_ops(normal) == ["Conv"]
    assert normal.graph.node[0].attribute[0] == empty


def test_other_domains_and_functions_stay() -> None:
    model = build(
        """g (float[N, 3, 6, 6] x) => (float[N, 4, 6, 6] y) {
        c = Conv (x, w) d = custom.Identity <mode = "odd"> (c) e = custom.Twice (d) y = Mul (e, k) }""",
        w=draw(4, 3, 1, 1), k=draw(4, 1, 1),
    )  # fmt: skip
    twice = helper.make_function(
        "custom", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)], doc_string="doubles",
    )  # fmt: skip
    model.functions.append(twice)
    identity = model.graph.node[1]
    identity.overload, identity.doc_string = "v2", "odd"
    identity.attribute.append(helper.make_attribute("bytes", b"\xff\xfe"))
    identity.attribute.append(helper.make_attribute("type", helper.make_tensor_type_proto(1, [2])))
    normal = normalize_model(model)
    assert list_ops(normal) == ["Conv", "Identity", "Twice", "Mul"]
    assert list(normal.functions) == [twice]
    assert normal.opset_import == model.opset_import
    kept = onnx.NodeProto()
    kept.CopyFrom(normal.graph.node[1])
    kept.ClearField("name")
    assert kept == identity


def test_documentation_stays() -> None:
    model = build(
        """g (float[N, 3, H, W] x) => (float[N, 4, H, W] y) {
        [conv] c = Conv (x, w) i = Identity (c) [rest] y = Relu (i) }""",
        ir=10, opset=21, w=draw(4, 3, 1, 1),
    )  # fmt: skip
    model.doc_string, model.domain, model.model_version = "model", "org.example", 7
    model.producer_name, model.producer_version = "maker", "1.2"
    model.graph.doc_string, model.graph.name = "graph", "named"
    value = helper.make_tensor_value_info("c", TensorProto.FLOAT, ["N", 4, "H", "W"], "value")
    model.graph.value_info.append(value)
    for owner in (model, model.graph, *model.graph.node, model.graph.value_info[0], model.graph.input[0]):
        owner.metadata_props.add(key="who", value="me")
    model.graph.node[2].doc_string = "the rest"
    model.graph.quantization_annotation.add(tensor_name="c").quant_parameter_tensor_names.add(key="SCALE", value="w")
    model.graph.quantization_annotation.add(tensor_name="i")
    normal = normalize_model(model)
    assert list_ops(normal) == ["Conv", "Relu"]
    for field in ("doc_string", "domain", "model_version", "producer_name", "producer_version", "metadata_props",
                  "opset_import", "ir_version"):  # fmt: skip
        assert getattr(normal, field) == getattr(model, field), field
    for field in ("name", "doc_string", "metadata_props", "input", "output", "value_info"):
        assert getattr(normal.graph, field) == getattr(model.graph, field), field
    assert normal.graph.node[1].doc_string == "the rest"
    assert normal.graph.node[1].metadata_props == model.graph.node[2].metadata_props
    assert [item.tensor_name for item in normal.graph.quantization_annotation] == ["c"]


def test_nodes_keep_their_order_and_dead_ones_go() -> None:
    model = build(
        """g (float[N] x) => (float[N] y, float[N] z) {
        a = Relu (x) b = Neg (a) dead = Exp (b) y = Abs (b) c = Relu (x) z = Neg (c) }"""
    )
    assert list_ops(normalize_model(model)) == ["Relu", "Neg", "Abs", "Relu", "Neg"]


def test_a_very_deep_graph() -> None:
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(3000)]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [info("t0", TensorProto.FLOAT, [1])], [info("t3000", TensorProto.FLOAT, [1])])
    normal = normalize_model(helper.make_model(graph))
    assert len(normal.graph.node) == 3000


def test_a_graph_that_gives_back_its_input_and_a_weight(assert_equivalent: Compare) -> None:
    model = build(
        "g (float[N, 3, 6, 6] x) => (float[N, 3, 6, 6] x, float[4, 3, 1, 1] w, float[N, 4, 6, 6] y) {"
        "c = Conv (x, w) y = Mul (c, k) }",
        w=draw(4, 3, 1, 1), k=draw(4, 1, 1),
    )  # fmt: skip
    normal = normalize_model(model)
    assert list_ops(normal) == ["Conv"]
    assert_equivalent(model, normal, {"x": IMAGE}, 1e-5)


def test_the_domain_written_in_full(assert_equivalent: Compare) -> None:
    model = build(
        "g (float[N, 3, 6, 6] x) => (float[N, 4, 6, 6] y) { c = Conv (x, w) i = Identity (c) y = Mul (i, k) }",
        w=draw(4, 3, 1, 1), k=draw(4, 1, 1),
    )  # fmt: skip
    model.opset_import[0].domain = "ai.onnx"
    for node in model.graph.node:
        node.domain = "ai.onnx"
    normal = normalize_model(model)
    assert list_ops(normal) == ["Conv"]
    assert_equivalent(model, normal, {"x": IMAGE}, 1e-5)


def test_paddle_style(assert_equivalent: Compare) -> None:
    def constant(name: str, values: np.ndarray) -> onnx.NodeProto:
        return make_constant(name, value=numpy_helper.from_array(values))

    nodes = [
        constant("w", draw(4, 3, 3, 3)),
        *(constant(name, values) for name, values in draw_batch_norm(4).items()),
        constant("shape", np.array([1, 4, 1, 1], np.int64)),
        constant("bias", draw(4)),
        helper.make_node("Reshape", ["bias", "shape"], ["bias4"]),
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "bias4"], ["a"]),
        helper.make_node("BatchNormalization", ["a", *"gbmv"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Identity", ["p"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, [None, 3, None, None])],
        [info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    normal = normalize_model(model)
    assert list_ops(normal) == ["Conv", "Relu", "GlobalAveragePool", "Identity"]
    assert_equivalent(model, normal, {"x": IMAGE}, 1e-5)


def test_tf2onnx_style(assert_equivalent: Compare) -> None:
    model = build(
        """g (float[unk, 6, 6, 3] x) => (float[unk, 4] y) {
        [t] n = Transpose <perm = [0, 3, 1, 2]> (x)
        c = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (n, w)
        m = Mul (c, k)
        a = Add (m, s)
        r = Relu (a)
        l = Transpose <perm = [0, 2, 3, 1]> (r)
        shape = Shape (l)
        first = Slice (shape, zero, one, zero)
        target = Concat <axis = 0> (first, rest)
        f = Reshape (l, target)
        z = MatMul (f, d)
        logits = Add (z, e)
        y = Softmax <axis = 1> (logits) }""",
        opset=12, w=draw(5, 3, 3, 3), k=draw(1, 5, 1, 1), s=draw(1, 5, 1, 1), zero=np.array([0], np.int64),
        one=np.array([1], np.int64), rest=np.array([45], np.int64), d=draw(45, 4), e=draw(4),
    )  # fmt: skip
    normal = normalize_model(model)
    assert "Mul" not in list_ops(normal)
    assert list_ops(normal).count("Add") == 1
    assert_equivalent(model, normal, {"x": IMAGE.transpose(0, 2, 3, 1).copy()}, 1e-5)
