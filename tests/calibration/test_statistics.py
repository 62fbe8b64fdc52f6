"""Moments and scores against naive float64 computation and finite differences, on nets written out by hand."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.calibration.gradient_pass import GradientPass
from onnx_basisprune.calibration.loss import fisher_gradient
from onnx_basisprune.calibration.statistics import collect_statistics, score_components
from onnx_basisprune.errors import ModelError
from onnx_basisprune.planning.basis import expand_mean, find_reduced_space, make_fisher_basis, make_svd_basis
from onnx_basisprune.planning.types import Basis, ConvStatistics, Head, Operation, Program, ReducedSpace, TensorSpec

HEAD = Head("logits", "z", "z")
CLASSES = 3
CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


@dataclass(frozen=True, eq=False)
class Images:
    """A batch as the data room hands it out."""

    indices: NDArray[np.int64]
    x: NDArray[np.float32]
    y: NDArray[np.int64] | None


def step(op_type: str, inputs: list[str], output: str, **attributes: object) -> Operation:
    return Operation(output, op_type, "", 17, tuple(inputs), (output,), attributes)


class Net:
    """A graph with its float64 twin: `forward` takes gates that replace a Conv's output, and returns the logits."""

    def __init__(self, operations: list[Operation], weights: Mapping[str, NDArray[np.float64]]) -> None:
        arrays = {k: v if v.dtype == np.int64 else v.astype(np.float32) for k, v in weights.items()}
        self.program = Program(tuple(operations), arrays, (TensorSpec("x", "float32", None),), ())
        self.exact = {k: torch.from_numpy(v.astype(np.float64)) for k, v in arrays.items() if v.dtype == np.float32}
        self.convs = [o.name for o in operations if o.op_type == "Conv" and o.attributes.get("group", 1) == 1]
        self.operations = operations

    def weight(self, name: str) -> NDArray[np.float64]:
        w = self.exact[f"{name}.w"]
        return w.reshape(len(w), -1).numpy()

    def bias(self, name: str) -> NDArray[np.float64]:
        return self.exact[f"{name}.b"].numpy()

    def spaces(self) -> dict[str, ReducedSpace | None]:
        return {name: find_reduced_space(self.weight(name)) for name in self.convs}

    def biases(self) -> dict[str, NDArray[np.float64]]:
        return {name: self.bias(name) for name in self.convs}

    def make_pass(self, seed: int = 0) -> GradientPass:
        return GradientPass(Executor(self.program), "x", HEAD, seed)

    def forward(self, x: torch.Tensor, gate: Callable[[str, torch.Tensor], torch.Tensor] | None = None) -> torch.Tensor:
        values = {"x": x, **self.exact}
        for operation in self.operations:
            inputs = [values[name] for name in operation.inputs if name in values]
            values[operation.outputs[0]] = self._compute(operation, inputs)
            if gate is not None and operation.name in self.convs:
                values[operation.outputs[0]] = gate(operation.name, values[operation.outputs[0]])
        return values["z"]

    @staticmethod
    def _compute(operation: Operation, inputs: list[torch.Tensor]) -> torch.Tensor:
        x = inputs[0]
        if operation.op_type == "Conv":
            attributes = operation.attributes
            return CONVOLVE[x.ndim - 2](
                x,
                inputs[1],
                inputs[2],
                stride=attributes.get("strides", 1),
                padding=attributes.get("pads", [0])[0],
                groups=attributes.get("group", 1),
            )
        if operation.op_type == "Gemm":
            return x @ inputs[1] + inputs[2]
        simple: dict[str, Callable[[], torch.Tensor]] = {
            "Relu": x.relu,
            "Tanh": x.tanh,
            "Add": lambda: x + inputs[1],
            "Mul": lambda: x * inputs[1],
            "GlobalAveragePool": lambda: x.flatten(2).mean(dim=2),
            "Flatten": lambda: x.flatten(1),
        }
        return simple[operation.op_type]()


def draw(generator: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    return generator.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))


def make_plain_net(dims: int = 2, offset: float = 0.0, act: str = "Tanh") -> Net:
    """Strided Conv → activation → 1×1 expansion (C_out > K) → activation → strided Conv → pooling → Gemm."""
    g = np.random.default_rng(dims)
    ones = (1,) * dims
    return Net(
        [
            step("Conv", ["x", "c1.w", "c1.b"], "c1", strides=[2] * dims, pads=[1] * 2 * dims),
            step(act, ["c1"], "a1"),
            step("Conv", ["a1", "c2.w", "c2.b"], "c2"),
            step(act, ["c2"], "a2"),
            step("Conv", ["a2", "c3.w", "c3.b"], "c3"),
            step("GlobalAveragePool", ["c3"], "p"),
            step("Flatten", ["p"], "f"),
            step("Gemm", ["f", "fc.w", "fc.b"], "z"),
        ],
        {
            "c1.w": 2 * draw(g, 4, 2, *(3,) * dims),
            "c1.b": draw(g, 4),
            "c2.w": 2 * draw(g, 7, 4, *ones),
            "c2.b": draw(g, 7),
            "c3.w": 2 * draw(g, 5, 7, *ones),
            "c3.b": draw(g, 5) + offset,
            "fc.w": 3 * draw(g, 5, CLASSES),
            "fc.b": draw(g, CLASSES) * 0,
        },
    )


def make_branching_net() -> Net:
    """Two root Convs, one with two readers, a depthwise Conv before an eligible one, one that the loss never sees."""
    g = np.random.default_rng(20)
    return Net(
        [
            step("Conv", ["x", "left.w", "left.b"], "left"),
            step("Conv", ["x", "right.w", "right.b"], "right"),
            step("Mul", ["left", "right"], "m"),
            step("Conv", ["m", "deep.w", "deep.b"], "deep", group=4, pads=[1, 1, 1, 1]),
            step("Conv", ["deep", "after.w", "after.b"], "after"),
            step("Add", ["after", "left"], "s"),
            step("Conv", ["s", "idle.w", "idle.b"], "idle"),
            step("GlobalAveragePool", ["s"], "p"),
            step("Flatten", ["p"], "f"),
            step("Gemm", ["f", "fc.w", "fc.b"], "z"),
        ],
        {
            "left.w": 2 * draw(g, 4, 2, 3, 3),
            "left.b": draw(g, 4),
            "right.w": 2 * draw(g, 4, 2, 3, 3),
            "right.b": draw(g, 4),
            "deep.w": 2 * draw(g, 4, 1, 3, 3),
            "deep.b": draw(g, 4),
            "after.w": 2 * draw(g, 4, 4, 3, 3)[:, :, :1, :1],
            "after.b": draw(g, 4),
            "idle.w": draw(g, 3, 4, 1, 1),
            "idle.b": draw(g, 3),
            "fc.w": 3 * draw(g, 4, CLASSES),
            "fc.b": draw(g, CLASSES),
        },
    )


def draw_images(count: int, shape: tuple[int, ...], *, labelled: bool = True) -> Images:
    g = np.random.default_rng(count)
    x = g.standard_normal((count, *shape)).astype(np.float32)
    return Images(np.arange(count), x, g.integers(0, CLASSES, count) if labelled else None)


def split(images: Images, size: int) -> Iterator[Images]:
    for start in range(0, len(images.x), size):
        part = slice(start, start + size)
        yield Images(images.indices[part], images.x[part], None if images.y is None else images.y[part])


def find_naively(net: Net, images: Images, seed: int = 0) -> dict[str, tuple[NDArray[np.float64], ...]]:
    """Return (mu, Sigma, Gamma) of every Conv's output, one image at a time, in float64."""
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in net.convs}
    gammas: dict[str, list[torch.Tensor]] = {name: [] for name in net.convs}
    for index, x in zip(images.indices, images.x, strict=True):
        outputs: dict[str, torch.Tensor] = {}

        def keep(name: str, y: torch.Tensor, outputs: dict[str, torch.Tensor] = outputs) -> torch.Tensor:
            outputs[name] = y if y.requires_grad else y.requires_grad_()
            return y

        z = net.forward(torch.from_numpy(x[None].astype(np.float64)), keep)
        loss = (fisher_gradient(z.detach(), HEAD, np.array([index]), seed) * z).sum()
        if images.y is not None:
            loss = loss + functional.cross_entropy(z, torch.from_numpy(images.y[index : index + 1]))
        gradients = torch.autograd.grad(loss, list(outputs.values()), allow_unused=True)
        for (name, y), g in zip(outputs.items(), gradients, strict=True):
            rows[name].append(y.detach()[0].flatten(1).T)
            g = torch.zeros_like(y) if g is None else g
            gammas[name].append(g[0].flatten(1) @ g[0].flatten(1).T)
    result = {}
    for name, parts in rows.items():
        y = torch.cat(parts)
        centered = y - y.mean(dim=0)
        sigma = centered.T @ centered / len(y)
        result[name] = (y.mean(dim=0).numpy(), sigma.numpy(), torch.stack(gammas[name]).mean(dim=0).numpy())
    return result


def assert_moments(
    found: Mapping[str, ConvStatistics], net: Net, images: Images, rtol: float = 1e-4, seed: int = 0
) -> None:
    expected = find_naively(net, images, seed)
    for name, statistics in found.items():
        mu, sigma, gamma = expected[name]
        space = net.spaces()[name]
        if space is not None:
            mu, sigma, gamma = (
                space.U.T @ (mu - net.bias(name)),
                space.U.T @ sigma @ space.U,
                space.U.T @ gamma @ space.U,
            )
        # float32 products: relative to the largest entry.
        np.testing.assert_allclose(statistics.mu, mu, rtol=0, atol=rtol * np.abs(mu).max())
        np.testing.assert_allclose(statistics.sigma, sigma, rtol=0, atol=rtol * np.abs(sigma).max())
        np.testing.assert_allclose(statistics.gamma, gamma, rtol=0, atol=rtol * max(np.abs(gamma).max(), 1e-12))
        assert statistics.images == len(images.x)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_moments(dims: int, *, labelled: bool) -> None:
    net, images = make_plain_net(dims), draw_images(7, (2, *(7,) * dims), labelled=labelled)
    found = collect_statistics(net.make_pass(3), split(images, 3), net.biases(), net.spaces())
    assert set(found) == set(net.convs)
    assert found["c1"].positions == 7 * 4**dims
    assert_moments(found, net, images, seed=3)


def test_moments_of_branches_and_of_readers_of_a_depthwise_conv() -> None:
    net, images = make_branching_net(), draw_images(6, (2, 6, 6))
    found = collect_statistics(net.make_pass(), split(images, 4), net.biases(), net.spaces())
    # No node that the loss doesn't depend on is run.
    assert set(found) == {"left", "right", "after"}
    assert_moments(found, net, images)


def test_a_large_mean_does_not_drown_the_covariance() -> None:
    net, images = make_plain_net(2, offset=1e4), draw_images(8, (2, 9, 9))
    found = collect_statistics(net.make_pass(), split(images, 2), {"c3": net.bias("c3")}, {"c3": None})
    # float32 outputs around 10,000 are rounded to 1e-3, their deviation is about 1.
    assert np.diag(found["c3"].sigma).max() < 10.0
    assert_moments(found, net, images, rtol=1e-2)


def test_first_batch_may_be_unlike_the_others() -> None:
    net, images = make_plain_net(), draw_images(8, (2, 9, 9))
    images.x[:2] *= 100.0
    found = collect_statistics(net.make_pass(), split(images, 2), net.biases(), net.spaces())
    assert_moments(found, net, images)


@pytest.mark.parametrize("labelled", [True, False])
def test_shards_merge_to_the_whole_and_batches_do_not_matter(*, labelled: bool) -> None:
    net, images = make_plain_net(), draw_images(9, (2, 7, 7), labelled=labelled)

    def collect(part: Images, size: int) -> dict[str, ConvStatistics]:
        return collect_statistics(net.make_pass(), split(part, size), net.biases(), net.spaces())

    whole = collect(images, 9)
    first, second = split(images, 5)
    merged = {name: item + collect(second, 2)[name] for name, item in collect(first, 3).items()}
    single = collect(images, 1)
    for name, expected in whole.items():
        for found in (merged[name], single[name]):
            assert (found.positions, found.images) == (expected.positions, expected.images)
            for attribute in ("mu", "sigma", "gamma"):
                value = getattr(expected, attribute)
                atol = 1e-5 * np.abs(value).max()  # float32 products
                np.testing.assert_allclose(getattr(found, attribute), value, rtol=0, atol=atol)


def make_bases(net: Net, images: Images, kind: str) -> dict[str, Basis]:
    spaces = net.spaces()
    statistics = collect_statistics(net.make_pass(), [images], net.biases(), spaces)
    bases = {}
    for name, item in statistics.items():
        center = expand_mean(item, spaces[name], net.bias(name))
        if kind == "svd":
            bases[name] = make_svd_basis(net.weight(name), center)
        else:
            bases[name] = make_fisher_basis(net.weight(name), item, spaces[name], center)
    return bases


def find_scores_by_difference(net: Net, images: Images, bases: Mapping[str, Basis]) -> dict[str, NDArray[np.float64]]:
    """Return mean_n (dL_n/ds_i)² for gates s_i on the centred components, by central differences in float64."""
    eps = 1e-4
    x = torch.from_numpy(images.x.astype(np.float64))
    assert images.y is not None
    target = torch.from_numpy(images.y)
    drawn = fisher_gradient(net.forward(x), HEAD, images.indices, 0)
    scores = {}
    for name, basis in bases.items():
        R, A, center = (torch.from_numpy(array) for array in (basis.R, basis.A, basis.center))
        values = []
        for i in range(len(R)):

            def measure(
                change: float,
                i: int = i,
                name: str = name,
                parts: tuple[torch.Tensor, ...] = (R, A, center),
            ) -> torch.Tensor:
                R, A, center = parts

                def gate(conv: str, y: torch.Tensor) -> torch.Tensor:
                    if conv != name:
                        return y
                    component = torch.einsum("c,nc...->n...", R[i], y - center.view(-1, *(1,) * (y.ndim - 2)))
                    return y + change * torch.einsum("n...,c->nc...", component, A[:, i])

                z = net.forward(x, gate)
                return functional.cross_entropy(z, target, reduction="none") + (drawn * z).sum(dim=1)

            slope = (measure(eps) - measure(-eps)) / (2 * eps)
            values.append(float(slope.square().mean()))
        scores[name] = np.array(values)
    return scores


# With 4 to 7 channels, 16 positions take one branch of the scores, 4 the other.
@pytest.mark.parametrize("kind", ["fisher", "svd"])
@pytest.mark.parametrize(("dims", "side"), [(1, 7), (2, 3), (2, 7), (3, 7)])
def test_scores_are_those_of_gates(kind: str, dims: int, side: int) -> None:
    net, images = make_plain_net(dims), draw_images(6, (2, *(side,) * dims))
    bases = make_bases(net, images, kind)
    found = score_components(net.make_pass(), split(images, 4), bases)
    expected = find_scores_by_difference(net, images, bases)
    for name, scores in expected.items():
        # float32 gradients; differences of step 1e-4 are good to 1e-7.
        np.testing.assert_allclose(found[name], scores, rtol=2e-3, atol=1e-5 * scores.max())


def test_scores_of_branches() -> None:
    net, images = make_branching_net(), draw_images(5, (2, 6, 6))
    bases = make_bases(net, images, "fisher")
    found = score_components(net.make_pass(), split(images, 2), bases)
    assert set(found) == {"left", "right", "after"}
    for name, scores in find_scores_by_difference(net, images, bases).items():
        np.testing.assert_allclose(found[name], scores, rtol=2e-3, atol=1e-5 * scores.max())


@pytest.mark.parametrize("side", [3, 9])
def test_scores_do_not_depend_on_batches(side: int) -> None:
    net, images = make_plain_net(), draw_images(9, (2, side, side), labelled=False)
    bases = make_bases(net, images, "fisher")
    whole = score_components(net.make_pass(), [images], bases)
    for name, scores in score_components(net.make_pass(), split(images, 2), bases).items():
        np.testing.assert_allclose(scores, whole[name], rtol=1e-4, atol=1e-6 * whole[name].max())


def test_outputs_are_let_go_after_each_batch() -> None:
    net = make_plain_net()
    alive: list[weakref.ref[torch.Tensor]] = []
    counts: list[int] = []

    def watch(y: torch.Tensor) -> Callable[[torch.Tensor], None]:
        alive.append(weakref.ref(y))
        return lambda gradient: alive.append(weakref.ref(gradient))

    def stream() -> Iterator[Images]:
        for _ in range(8):
            counts.append(sum(reference() is not None for reference in alive))
            yield draw_images(3, (2, 7, 7))

    gc.disable()  # reference counting alone must do
    try:
        net.make_pass().run(stream(), dict.fromkeys(net.convs, watch))
    finally:
        gc.enable()
    assert len(alive) == 8 * 6
    # At most what the batch just done still holds.
    assert max(counts) <= 6


def test_progress_counts_images() -> None:
    net, images = make_plain_net(), draw_images(7, (2, 7, 7))
    told: list[int] = []
    collect_statistics(net.make_pass(), split(images, 3), net.biases(), net.spaces(), told.append)
    assert told == [3, 3, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_overflow_are_told(value: float) -> None:
    net, images = make_plain_net(), draw_images(2, (2, 7, 7))
    net.program.initializers["c2.b"][1] = value
    with pytest.raises(ModelError, match="'c2'") as caught:
        collect_statistics(net.make_pass(), [images], net.biases(), net.spaces())
    assert "finite" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_gradients_that_are_not_finite_are_told() -> None:
    net, images = make_plain_net(act="Relu"), draw_images(2, (2, 7, 7))
    operations = list(net.program.operations)
    # The derivative of the square root at 0 is infinite, times 0 is NaN.
    operations[3:4] = [step("Mul", ["c2", "zero"], "m"), step("Sqrt", ["m"], "a2")]
    initializers = {**net.program.initializers, "zero": np.zeros(1, np.float32)}
    program = Program(tuple(operations), initializers, net.program.inputs, ())
    with pytest.raises(ModelError, match="gradient at node 'c2'"):
        collect_statistics(GradientPass(Executor(program), "x", HEAD, 0), [images], net.biases(), net.spaces())


@pytest.mark.parametrize("labelled", [True, False])
def test_fillers_of_a_fixed_batch_do_not_count(*, labelled: bool) -> None:
    net, images = make_plain_net(), draw_images(7, (2, 7, 7), labelled=labelled)
    free, fixed = net.make_pass(), replace(net.make_pass(), fixed_batch=5)
    first, second = (collect_statistics(run, split(images, 5), net.biases(), net.spaces()) for run in (free, fixed))
    bases = make_bases(net, images, "fisher")
    scores = [score_components(run, split(images, 5), bases) for run in (free, fixed)]
    for name, expected in first.items():
        assert (second[name].positions, second[name].images) == (expected.positions, expected.images)
        pairs = [(getattr(item[name], a) for item in (first, second)) for a in ("total", "mu", "sigma", "gamma")]
        for one, other in [*pairs, (scores[0][name], scores[1][name])]:
            # float32: relative to the largest entry.
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * np.abs(one).max())
