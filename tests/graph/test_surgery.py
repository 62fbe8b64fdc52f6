"""What surgery leaves alone, copies and refuses; the equality of removal and gates on real models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_basisprune.graph.dependency import ChannelMap, map_channels
from onnx_basisprune.graph.model_io import load_model, passes_full_check
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.graph.shapes import infer_shapes
from onnx_basisprune.graph.surgery import SurgeryError, find_unfit_groups, remove_channels
from onnx_basisprune.graph.tensors import drop_weights

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "models"
STEM = "h = Conv <pads = [1, 1, 1, 1]> (x, W1, b1) "
HEAD = "p = GlobalAveragePool (c) y = Flatten (p)"
CONV = {"W1": (6, 3, 3, 3), "b1": (6,)}


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    for node in model.graph.node:
        node.name = node.output[0]
    return normalize_model(model)


def list_removable(channel_map: ChannelMap) -> list[int]:
    """Return all but one channel of each free group."""
    return [int(c) for group in channel_map.groups if not group.blocked_by for c in group.channels[1:]]


def read_weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_removing_nothing_changes_nothing(build: Any) -> None:
    model = prepare(build(STEM + "c = Conv (h, W2)" + HEAD, **CONV, W2=(5, 6, 1, 1)))
    before = model.SerializeToString(deterministic=True)
    pruned = remove_channels(model, map_channels(model), [])
    assert pruned.SerializeToString(deterministic=True) == before
    assert model.SerializeToString(deterministic=True) == before


def test_weights_are_sliced_where_they_belong(build: Any) -> None:
    model = prepare(build(STEM + "r = Relu (h) c = Conv (r, W2)" + HEAD, **CONV, W2=(5, 6, 3, 3)))
    model.doc_string, model.metadata_props.add().key = "kept", "key"
    channel_map = map_channels(model)
    (group,) = (item for item in channel_map.groups if not item.blocked_by)
    pruned = remove_channels(model, channel_map, [int(group.channels[1]), int(group.channels[4])])
    before, after = read_weights(model), read_weights(pruned)
    np.testing.assert_array_equal(after["W1"], before["W1"][[0, 2, 3, 5]])
    np.testing.assert_array_equal(after["b1"], before["b1"][[0, 2, 3, 5]])
    np.testing.assert_array_equal(after["W2"], before["W2"][:, [0, 2, 3, 5]])
    assert (pruned.doc_string, pruned.metadata_props, pruned.graph.input, pruned.graph.output) == (
        model.doc_string, model.metadata_props, model.graph.input, model.graph.output)  # fmt: skip


def test_one_channel_of_each_group_may_be_all_that_stays(build: Any, run: Any) -> None:
    nodes = (
        STEM + "a, b = Split <axis = 1> (h) d = Conv <group = 3> (a, D) j = Concat <axis = 1> (d, b, b) "
        "g = Conv <group = 3> (j, G) c = Conv (g, W2)" + HEAD
    )
    model = prepare(build(nodes, **CONV, D=(3, 1, 1, 1), G=(6, 3, 1, 1), W2=(5, 6, 1, 1)))
    channel_map = map_channels(model)
    removed = list_removable(channel_map)
    pruned = remove_channels(model, channel_map, removed)
    assert removed
    assert run(pruned, {"x": np.ones((2, 3, 8, 8), np.float32)})[0].shape == (2, 5)
    assert all(0 not in shape for shape in infer_shapes(pruned).values())


def test_depthwise_convs_lose_groups(build: Any) -> None:
    model = prepare(build(STEM + "d = Conv <group = 6> (h, D) c = Conv (d, W2)" + HEAD, **CONV, D=(12, 1, 1, 1),
                          W2=(5, 12, 1, 1)))  # fmt: skip
    channel_map = map_channels(model)
    pruned = remove_channels(model, channel_map, list_removable(channel_map)[:2])
    (group,) = (onnx.helper.get_node_attr_value(node, "group") for node in pruned.graph.node if node.name == "d")
    assert group == 4
    assert read_weights(pruned)["D"].shape == (8, 1, 1, 1)


def test_shared_weights_are_copied_for_readers_that_are_cut_otherwise(build: Any, check_removal: Any) -> None:
    nodes = STEM + "a = Mul (h, s) r = Relu (a) e = Conv (r, W2) b = Mul (e, s) q = Relu (b) c = Conv (q, W3)" + HEAD
    # Not normalised: two Muls share a constant, and the product isn't folded into the Convs.
    model = build(nodes, **CONV, s=(6, 1, 1), W2=(6, 6, 1, 1), W3=(5, 6, 1, 1))
    for node in model.graph.node:
        node.name = node.output[0]
    for choice in range(3):
        check_removal(model, choice)
    channel_map = map_channels(model)
    first = next(group for group in channel_map.groups if group.name == "h")
    weights = read_weights(remove_channels(model, channel_map, first.channels[:2].tolist()))
    assert sorted(values.size for name, values in weights.items() if name.startswith("s")) == [4, 6]


def test_convs_that_share_a_weight_lose_channels_apart(build: Any, check_removal: Any) -> None:
    nodes = STEM + "a = Conv (h, W2) r = Relu (a) b = Conv (r, W2) q = Relu (b) c = Conv (q, W3)" + HEAD
    model = prepare(build(nodes, **CONV, W2=(6, 6, 1, 1), W3=(5, 6, 1, 1)))
    for choice in range(3):
        check_removal(model, choice)


def test_what_an_inner_graph_reads_too_is_copied(build: Any, check_removal: Any) -> None:
    nodes = (
        STEM
        + """t = ReduceMax <keepdims = 0> (x) a = Mul (h, s) r = Relu (a)
        k = Greater (t, t0)
        z = If (k) <
            then_branch = g1 () => (float[6, 1, 1] u) { u = Relu (s) },
            else_branch = g2 () => (float[6, 1, 1] v) { v = Neg (s) }>
        m = ReduceMean <keepdims = 0> (z) e = Mul (r, m) c = Conv (e, W2)"""
        + HEAD
    )
    model = build(nodes, **CONV, s=(6, 1, 1), W2=(5, 6, 1, 1), t0=())
    for node in model.graph.node:
        node.name = node.output[0]
    channel_map = map_channels(model)
    removed = list_removable(channel_map)
    pruned = remove_channels(model, channel_map, removed)
    weights = read_weights(pruned)
    assert len(removed) == 5
    assert weights["s"].size == 6
    assert [values.size for name, values in weights.items() if name.startswith("s") and name != "s"] == [1]
    assert passes_full_check(pruned)


def test_losing_all_channels_is_refused(build: Any) -> None:
    model = prepare(build(STEM + "c = Conv (h, W2)" + HEAD, **CONV, W2=(5, 6, 1, 1)))
    channel_map = map_channels(model)
    with pytest.raises(SurgeryError, match="node 'h' would lose all channels of an axis"):
        remove_channels(model, channel_map, channel_map.groups[0].channels.tolist())


def test_losing_all_of_a_part_is_refused(build: Any) -> None:
    nodes = STEM + "a, b = Split <axis = 1> (h) d = Relu (a) e = Sigmoid (b) "
    nodes += "j = Concat <axis = 1> (d, e) c = Conv (j, W2)"
    model = prepare(build(nodes + HEAD, **CONV, W2=(5, 6, 1, 1)))
    channel_map = map_channels(model)
    with pytest.raises(SurgeryError, match="tensor 'a' would lose all its channels"):
        remove_channels(model, channel_map, channel_map.groups[0].channels.tolist())


def test_groups_whose_sizes_cannot_follow_are_found_with_the_reason(build: Any) -> None:
    nodes = (
        STEM
        + "r = Reshape (h, to) t = Relu (r) q = Reshape (t, back) g = Conv (q, W2) m = Relu (g) c = Conv (m, W3)"
        + HEAD
    )
    model = build(nodes, **CONV, W2=(4, 6, 1, 1), W3=(5, 4, 1, 1), to=ints(0, 6, 64), back=ints(0, 6, 8, 8))
    # A caller may override the target: it can't be changed.
    model.graph.input.append(onnx.helper.make_tensor_value_info("to", onnx.TensorProto.INT64, [3]))
    model = prepare(model)
    channel_map = map_channels(model)
    unfit = find_unfit_groups(model, channel_map)
    assert list(unfit) == ["h"]
    assert "isn't followed" in unfit["h"]
    free = next(group for group in channel_map.groups if group.name == "g")
    pruned = remove_channels(model, channel_map, free.channels[:2].tolist())
    assert read_weights(pruned)["W2"].shape == (2, 6, 1, 1)


# Name → shape of an image, and how often channels are drawn.
MODELS = {
    "efficientnet_lite0_imagenet": ((3, 224, 224), 1),
    "ppocr_cls": ((3, 48, 192), 2),
    "resnet20_cifar10": ((3, 32, 32), 4),
    "resnet20_cifar10_dynamo": ((3, 32, 32), 4),
    "vgg16_cifar10": ((3, 32, 32), 1),
}


@pytest.mark.parametrize("name", MODELS)
def test_removal_equals_gates_on_real_models(name: str, check_removal: Any) -> None:
    path = SHARED / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"needs {path.name} in ../shared/models")
    model = normalize_model(load_model(path))
    shape, draws = MODELS[name]
    for choice in range(draws):
        channel_map = check_removal(model, choice, shape=shape)
    (blocked,) = (group for group in channel_map.groups if group.blocked_by)
    assert len(blocked.channels) == infer_shapes(model)[model.graph.output[0].name][-1]  # the classes


@pytest.mark.parametrize("is_raw", [True, False])
def test_a_model_without_its_weights_is_cut_to_the_same_shapes(build: Any, is_raw: bool) -> None:
    shapes = {"W1": (70, 3, 5, 5), "b1": (70,), "W2": (80, 70, 1, 1)}
    model = prepare(build("h = Conv (x, W1, b1) r = Relu (h) c = Conv (r, W2)" + HEAD, **shapes))
    if not is_raw:
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.helper.make_tensor(tensor.name, tensor.data_type, tensor.dims, values.ravel()))
    channel_map = map_channels(model)
    pruned = remove_channels(model, channel_map, list_removable(channel_map)[:3])
    light = remove_channels(drop_weights(model), channel_map, list_removable(channel_map)[:3])
    kept = {tensor.name: tensor for tensor in light.graph.initializer}
    assert {name: tuple(tensor.dims) for name, tensor in kept.items()} == {
        name: array.shape for name, array in read_weights(pruned).items()
    }
    assert (tuple(kept["W1"].dims), tuple(kept["W2"].dims)) == ((67, 3, 5, 5), (80, 67, 1, 1))
    assert not kept["W1"].raw_data
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(kept["b1"]), read_weights(pruned)["b1"])
