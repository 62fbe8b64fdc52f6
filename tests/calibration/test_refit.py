"""Re-fitting a graph: what can be recovered is, layer after layer; what is no better isn't kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import onnx_basisprune.calibration.refit as refit
import onnx_basisprune.calibration.refit_rows as refit_rows
from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.calibration.refit import RefitResult, RefitSettings, fit_layers, refit_program
from onnx_basisprune.planning.refit import RefitLayer
from onnx_basisprune.planning.types import Head, Operation, Program, TensorSpec

HEAD = Head("logits", "z", "z")
COUNT = 60
IMAGES = np.random.default_rng(0).standard_normal((COUNT, 3, 6, 6)).astype(np.float32)
CHUNKS = [torch.from_numpy(part) for part in np.array_split(IMAGES, 4)]
SETTINGS = RefitSettings(images=(30, 30, 40, COUNT), chunk_size=16, seed=0)


def step(op_type: str, inputs: list[str], output: str, **attributes: object) -> Operation:
    return Operation(output, op_type, "", 17, tuple(inputs), (output,), attributes)


def draw(seed: int, *shape: int) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
    return values.astype(np.float32)


# A pair, a residual sum of a Conv and a depthwise Conv, and a classifier.
WEIGHTS = {
    "p.basis": 2 * draw(1, 6, 3, 3, 3),
    "p.scaling": draw(2, 8, 6, 1, 1),
    "p.bias": draw(3, 8),
    "c.w": 2 * draw(4, 8, 8, 3, 3),
    "c.b": draw(5, 8),
    "d.w": draw(6, 8, 1, 3, 3),
    "d.b": draw(7, 8),
    "f.w": 3 * draw(8, 8, 5),
    "f.b": draw(9, 5),
}
TEACHER = Program(
    (
        step("Conv", ["x", "p.basis"], "p.in", pads=[1, 1, 1, 1]),
        step("Conv", ["p.in", "p.scaling", "p.bias"], "p"),
        step("Relu", ["p"], "a"),
        step("Conv", ["a", "d.w", "d.b"], "d", pads=[1, 1, 1, 1], group=8),
        step("Conv", ["a", "c.w", "c.b"], "c", pads=[1, 1, 1, 1]),
        step("Add", ["c", "d"], "s"),
        step("Relu", ["s"], "r"),
        step("GlobalAveragePool", ["r"], "g"),
        step("Flatten", ["g"], "h"),
        step("Gemm", ["h", "f.w", "f.b"], "z", beta=0.5),
    ),
    WEIGHTS,
    (TensorSpec("x", "float32", (None, 3, 6, 6)),),
    (),
)
ALL = np.arange(8)
LAYERS = {
    "p": RefitLayer("p", "weight", "p.in", "p", "", ALL, 1, "p.scaling", 0, "p.bias", 1.0, ((1, 1), {})),
    "d": RefitLayer("d", "output", "d", "d", "", ALL, 1, "d.w", 0, "d.b", groups=8),
    "c": RefitLayer("c", "output", "c", "s", "d", ALL, 1, "c.w", 0, "c.b"),
    "f": RefitLayer("f", "output", "z", "z", "", np.arange(5), 1, "f.w", 1, "f.b", 0.5),
}


def change(**arrays: NDArray[np.float32]) -> Program:
    return replace(TEACHER, initializers={**WEIGHTS, **{name.replace("_", "."): x for name, x in arrays.items()}})


def measure_miss(student: Program, arrays: dict[str, NDArray[np.float32]], name: str = "z") -> float:
    x = torch.from_numpy(IMAGES)
    overrides = {key: torch.from_numpy(array) for key, array in arrays.items()}
    found = Executor(student).run({"x": x}, [name], overrides=overrides)[name]
    expected = Executor(TEACHER).run({"x": x}, [name])[name]
    return float((found - expected).abs().max() / expected.abs().max())


def load(indices: NDArray[np.int64]) -> NDArray[np.float32]:
    return IMAGES[indices]


# What is multiplied from the output side by a matrix that can be inverted, and any bias, can be recovered.
MIX = np.eye(8, dtype=np.float32) + 0.3 * draw(10, 8, 8)
SPOILED = {
    "p": {"p_scaling": draw(11, 8, 6, 1, 1), "p_bias": draw(12, 8)},
    "d": {"d_w": WEIGHTS["d.w"] * np.linspace(0.5, 2.0, 8, dtype=np.float32).reshape(8, 1, 1, 1), "d_b": draw(13, 8)},
    "c": {"c_w": np.tensordot(MIX, WEIGHTS["c.w"], 1), "c_b": draw(14, 8)},
    "f": {"f_w": WEIGHTS["f.w"] @ (np.eye(5, dtype=np.float32) + 0.3 * draw(15, 5, 5)), "f_b": draw(16, 5)},
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_linear_loss_is_recovered(name: str) -> None:
    student = change(**SPOILED[name])
    arrays = fit_layers(TEACHER, student, [LAYERS[name]], CHUNKS, [4])
    layer = LAYERS[name]
    assert set(arrays) == {layer.weight, layer.bias}
    assert all(array.dtype == np.float32 and array.shape == WEIGHTS[key].shape for key, array in arrays.items())
    assert measure_miss(student, {}) > 0.1
    # The ridge of 1e-4.
    assert measure_miss(student, arrays, layer.target) < 3e-3


@pytest.mark.parametrize("bias", [True, False])
def test_basis_filters_are_recovered_through_their_scaling_conv(*, bias: bool) -> None:
    """Any filters come back, whatever the constant that is missing: the scaling conv's bias is fitted next."""
    layer = replace(LAYERS["p"], source="x", weight="p.basis", window=((3, 3), {"pads": [1, 1, 1, 1]}))
    layer = replace(layer, through="p.scaling")
    student = change(p_basis=draw(20, 6, 3, 3, 3), **({"p_bias": draw(12, 8)} if bias else {}))
    arrays = fit_layers(TEACHER, student, [layer, LAYERS["p"]], CHUNKS, [4, 4])
    assert set(arrays) == {"p.basis", "p.scaling", "p.bias"}
    assert measure_miss(student, {}, "p") > 0.1
    # 27 inputs at the ridge of 1e-4.
    assert measure_miss(student, arrays, "p") < 3e-3


def test_any_weight_of_a_whole_conv_is_recovered() -> None:
    layer = replace(LAYERS["c"], form="weight", source="a", window=((3, 3), {"pads": [1, 1, 1, 1]}))
    student = change(c_w=draw(21, 8, 8, 3, 3), c_b=draw(14, 8))
    assert measure_miss(student, fit_layers(TEACHER, student, [layer], CHUNKS, [4])) < 5e-3
    assert measure_miss(student, fit_layers(TEACHER, student, [LAYERS["c"]], CHUNKS, [4])) > 0.1


@pytest.mark.parametrize("group", [8, 2])
def test_any_weight_of_a_grouped_conv_is_recovered(group: int) -> None:
    shape, window = (8, 8 // group, 3, 3), ((3, 3), {"pads": [1, 1, 1, 1], "group": group})
    operations = tuple(
        replace(item, attributes={**item.attributes, "group": group}) if item.name == "d" else item
        for item in TEACHER.operations
    )
    teacher = replace(TEACHER, operations=operations, initializers={**WEIGHTS, "d.w": draw(22, *shape)})
    student = replace(teacher, initializers={**WEIGHTS, "d.w": draw(23, *shape), "d.b": draw(24, 8)})
    layer = replace(LAYERS["d"], form="weight", source="a", window=window, groups=group)
    arrays = fit_layers(teacher, student, [layer], CHUNKS, [4])
    x = {"x": torch.from_numpy(IMAGES)}
    expected = Executor(teacher).run(x, ["d"])["d"]
    before = Executor(student).run(x, ["d"])["d"]
    found = Executor(student).run(x, ["d"], overrides={k: torch.from_numpy(v) for k, v in arrays.items()})["d"]
    scale = float(expected.abs().max())
    assert float((before - expected).abs().max()) > 0.1 * scale
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3 * scale)


def test_some_positions_tell_the_same_as_all(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = replace(LAYERS["c"], form="weight", source="a", window=((3, 3), {"pads": [1, 1, 1, 1]}))
    student = change(c_w=draw(21, 8, 8, 3, 3), c_b=draw(14, 8))
    every = fit_layers(TEACHER, student, [layer], CHUNKS, [4])
    # 60 images of 36 positions: 20 positions of each.
    monkeypatch.setattr(refit_rows, "_MOST_PRODUCTS", 1)
    monkeypatch.setattr(refit_rows, "_FEWEST_ROWS", 60 * 20 / 72)
    some = fit_layers(TEACHER, student, [layer], CHUNKS, [4])
    assert not np.array_equal(some["c.w"], every["c.w"])
    assert measure_miss(student, some) < 1e-2


def test_layers_are_fitted_on_what_fitted_layers_give_them() -> None:
    """Every layer is spoiled: all come back only because each is fitted after those before it."""
    student = change(**{name: array for arrays in SPOILED.values() for name, array in arrays.items()})
    done: list[float] = []
    arrays = fit_layers(TEACHER, student, list(LAYERS.values()), CHUNKS, [2, 3, 3, 4], done.append)
    assert sum(done) == pytest.approx(1.0)
    assert measure_miss(student, {}) > 0.1
    assert measure_miss(student, arrays) < 1e-2
    apart: dict[str, NDArray[np.float32]] = {}
    for layer in LAYERS.values():
        apart |= fit_layers(TEACHER, student, [layer], CHUNKS, [4])
    assert measure_miss(student, apart) > 10 * measure_miss(student, arrays)


def test_a_layer_makes_up_for_what_it_is_added_to() -> None:
    """The depthwise Conv's bias is wrong; the Conv's can take that over."""
    student = change(d_b=WEIGHTS["d.b"] + 2.0)
    assert measure_miss(student, fit_layers(TEACHER, student, [LAYERS["c"]], CHUNKS, [4])) < 3e-3
    alone = replace(LAYERS["c"], target="c", skip="")
    assert measure_miss(student, fit_layers(TEACHER, student, [alone], CHUNKS, [4])) > 0.1


def test_removed_channels_are_left_out_of_the_target() -> None:
    """A Conv before the classifier that lost channels 1 and 6: the others and the classifier are fitted."""
    kept = np.delete(ALL, [1, 6])
    cut = {
        **{name: WEIGHTS[name][kept] for name in ("d.w", "d.b", "c.b", "p.bias")},
        "p.scaling": draw(17, 6, 6, 1, 1),
        "c.w": WEIGHTS["c.w"][kept][:, kept],
        "f.w": WEIGHTS["f.w"][kept],
    }
    operations = tuple(
        replace(item, attributes={**item.attributes, "group": 6}) if item.name == "d" else item
        for item in TEACHER.operations
    )
    student = replace(TEACHER, operations=operations, initializers={**WEIGHTS, **cut})
    layers = [replace(layer, kept=kept if layer.name != "f" else layer.kept) for layer in LAYERS.values()]
    layers[1] = replace(layers[1], groups=6)
    arrays = fit_layers(TEACHER, student, layers, CHUNKS, [4] * 4)
    x = torch.from_numpy(IMAGES)
    overrides = {key: torch.from_numpy(array) for key, array in arrays.items()}
    found = Executor(student).run({"x": x}, ["p"], overrides=overrides)["p"]
    expected = Executor(TEACHER).run({"x": x}, ["p"])["p"][:, torch.from_numpy(kept)]
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-3 * float(expected.abs().max()))
    assert measure_miss(student, arrays) < 0.5 * measure_miss(student, {})


def run(student: Program, settings: RefitSettings = SETTINGS, count: int = COUNT) -> RefitResult | None:
    return refit_program(TEACHER, student, list(LAYERS.values()), HEAD, load, count, settings)


def test_better_weights_are_kept() -> None:
    result = run(change(**SPOILED["c"]))
    assert result is not None
    assert result.loss_after < 0.1 * result.loss_before
    assert {"c.w", "c.b"} <= set(result.arrays)


@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_worse_weights_are_not_kept(monkeypatch: pytest.MonkeyPatch, fill: float) -> None:
    spoiled = {"f.w": np.full_like(WEIGHTS["f.w"], fill)}
    monkeypatch.setattr(refit, "fit_layers", lambda *_: spoiled)
    result = run(change(c_b=WEIGHTS["c.b"] + 0.01))
    assert result is not None
    assert result.arrays == {}
    assert not result.loss_after < result.loss_before


def test_layers_are_kept_from_the_input_on_as_far_as_they_help(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil_last(*arguments: Any) -> dict[str, Any]:
        return {**fit_layers(*arguments), "f.w": np.zeros_like(WEIGHTS["f.w"])}

    student = change(**SPOILED["c"])
    expected = run(student)
    monkeypatch.setattr(refit, "fit_layers", spoil_last)
    result = run(student)
    assert expected is not None
    assert result is not None
    assert list(LAYERS)[-1] == "f"
    assert result.arrays.keys() == expected.arrays.keys() - {"f.w", "f.b"}
    for name, array in result.arrays.items():
        np.testing.assert_array_equal(array, expected.arrays[name])
    assert result.loss_after < 0.1 * result.loss_before


def test_a_seed_repeats_it() -> None:
    student = change(**SPOILED["c"])
    first, again = run(student), run(student)
    assert first is not None
    assert again is not None
    assert first.loss_after == again.loss_after
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(array, again.arrays[name])


@pytest.mark.parametrize(("count", "fitted"), [(1, False), (2, False), (3, True), (11, True)])
def test_however_few_images(count: int, *, fitted: bool) -> None:
    assert (run(change(**SPOILED["c"]), count=count) is not None) == fitted


@pytest.mark.parametrize("count", [3, 4, 11, COUNT])
def test_what_is_kept_is_judged_on_images_that_nothing_was_fitted_on(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    fitted, judged = list[torch.Tensor](), list[torch.Tensor]()

    def watch(*arguments: Any) -> dict[str, Any]:
        fitted.extend(arguments[3])
        return fit_layers(*arguments)

    def judge(*arguments: Any) -> list[float]:
        judged.extend(arguments[4])
        return [1.0, 2.0, 2.0, 2.0, 2.0]

    monkeypatch.setattr(refit, "fit_layers", watch)
    monkeypatch.setattr(refit, "_measure_losses", judge)
    assert run(change(**SPOILED["c"]), count=count) is not None
    for x in torch.cat(judged):
        assert not any(torch.equal(x, other) for other in torch.cat(fitted))


def test_no_layer_no_result() -> None:
    assert refit_program(TEACHER, TEACHER, [], HEAD, load, COUNT, SETTINGS) is None


@pytest.mark.parametrize(("fixed", "fitted"), [(8, True), (25, True), (64, False)])
def test_a_fixed_batch_is_always_full(fixed: int, *, fitted: bool) -> None:
    """Reshape to a fixed batch fails on any other."""
    shape = np.array([fixed, 8], dtype=np.int64)
    operations = tuple(
        replace(item, op_type="Reshape", inputs=("g", "shape")) if item.name == "h" else item
        for item in TEACHER.operations
    )
    teacher, student = (
        replace(program, operations=operations, initializers={**program.initializers, "shape": shape})
        for program in (TEACHER, change(**SPOILED["c"]))
    )
    settings = replace(SETTINGS, fixed_batch=fixed)
    result = refit_program(teacher, student, list(LAYERS.values()), HEAD, load, COUNT, settings)
    assert (result is not None) == fitted
    if result is not None:
        assert result.loss_after < 0.1 * result.loss_before
