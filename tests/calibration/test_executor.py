"""The executor against onnxruntime on whole models, and its contract on small graphs."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch

from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.errors import ModelError, UnsupportedOpError
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.planning.types import Operation, Program, TensorSpec

MODELS = Path(__file__).resolve().parents[2].parent / "shared" / "models"
NAMES = [
    "efficientnet_lite0_imagenet",
    "ppocr_cls",
    "resnet20_cifar10",
    "resnet20_cifar10_dynamo",
    "vgg16_cifar10",
    "vgg16_mnist",
]

# x → double = 2x → out = relu(double) + offset; side = x * x isn't needed for out.
SMALL = """
<ir_version: 8, opset_import: ["" : 17]>
small (float[N, 3] x) => (float[N, 3] out, float[N, 3] side)
<float two = {2.0}, float[3] offset = {1.0, 2.0, 3.0}>
{
    [doubling] double = Mul (x, two)
    [rectifier] positive = Relu (double)
    [shift] out = Add (positive, offset)
    [square] side = Mul (x, x)
}
"""


def parse_program(text: str) -> Program:
    return extract_program(onnx.parser.parse_model(text))


def build_program(*operations: Operation, **initializers: np.ndarray) -> Program:
    return Program(operations, initializers, (TensorSpec("x", "float32", None),), ())


@pytest.fixture
def small() -> Executor:
    return Executor(parse_program(SMALL))


@pytest.mark.parametrize("name", NAMES)
def test_models_agree_with_onnxruntime(name: str) -> None:
    path = MODELS / f"{name}.onnx"
    if not path.exists():
        pytest.skip("the shared models aren't beside the repository")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (feed,) = session.get_inputs()
    (output,) = session.get_outputs()
    height, width = (48, 192) if name == "ppocr_cls" else feed.shape[2:]
    executor = Executor(extract_program(onnx.load(path)))
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 3, height, width), dtype=np.float32)
        (expected,) = session.run([output.name], {feed.name: x})
        with torch.no_grad():
            actual = executor.run({feed.name: torch.from_numpy(x)}, [output.name])[output.name].numpy()
        # float32 through 50 layers with other summation orders: relative to the largest score.
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_gradients_reach_parameters_and_inputs(small: Executor) -> None:
    x = torch.tensor([[1.0, -1.0, 2.0]], requires_grad=True)
    offset = small.parameters["offset"].requires_grad_()
    small.run({"x": x}, ["out"])["out"].sum().backward()
    assert x.grad is not None
    assert offset.grad is not None
    assert x.grad.tolist() == [[2.0, 0.0, 2.0]]
    assert offset.grad.tolist() == [1.0, 1.0, 1.0]


def test_only_ancestors_of_the_fetch_run(small: Executor) -> None:
    ran: list[str] = []
    x = torch.ones(2, 3)
    small.run({"x": x}, ["positive"], observe=lambda operation, _: ran.append(operation.name))
    assert ran == ["doubling", "rectifier"]
    ran.clear()
    small.run({"x": x}, ["side"], observe=lambda operation, _: ran.append(operation.name))
    assert ran == ["square"]


def test_fetch_may_name_inputs_and_parameters(small: Executor) -> None:
    x = torch.ones(1, 3)
    result = small.run({"x": x}, ["x", "two", "out"])
    assert list(result) == ["x", "two", "out"]
    assert result["x"] is x
    assert result["two"] is small.parameters["two"]
    assert result["out"].tolist() == [[3.0, 4.0, 5.0]]


def test_overrides_replace_parameters_for_one_run(small: Executor) -> None:
    x = torch.ones(1, 3)
    changed = small.run({"x": x}, ["out"], overrides={"offset": torch.zeros(3)})["out"]
    assert changed.tolist() == [[2.0, 2.0, 2.0]]
    assert small.run({"x": x}, ["out"])["out"].tolist() == [[3.0, 4.0, 5.0]]


def test_observe_replaces_outputs(small: Executor) -> None:
    def gate(operation: Operation, outputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor] | None:
        return [outputs[0] * 10] if operation.name == "rectifier" else None

    result = small.run({"x": torch.ones(1, 3)}, ["out"], observe=gate)["out"]
    assert result.tolist() == [[21.0, 22.0, 23.0]]


def test_alias_gives_one_gradient_per_read() -> None:
    executor = Executor(
        parse_program("""
        <ir_version: 8, opset_import: ["" : 17]>
        twice (float[N] x) => (float[N] y) { s = Exp (x) [product] y = Mul (s, s) }
        """)
    )
    reads: dict[tuple[str, int], torch.Tensor] = {}

    def alias(operation: Operation, index: int, tensor: torch.Tensor) -> torch.Tensor:
        reads[operation.name, index] = tensor.detach().requires_grad_()
        return reads[operation.name, index]

    executor.run({"x": torch.tensor([0.0, 1.0])}, ["y"], alias=alias)["y"].sum().backward()
    first, second = reads["product", 0].grad, reads["product", 1].grad
    expected = torch.exp(torch.tensor([0.0, 1.0]))
    assert first is not None
    assert second is not None
    # Each read edge has its own half of the derivative of s²; exact, since it is the other factor itself.
    torch.testing.assert_close(first, expected, rtol=0, atol=0)
    torch.testing.assert_close(second, expected, rtol=0, atol=0)


def test_intermediates_are_freed_after_their_last_reader() -> None:
    chain = "x0 = Relu (x)\n" + "\n".join(f"x{i + 1} = Relu (x{i})" for i in range(5))
    executor = Executor(
        parse_program(
            '<ir_version: 8, opset_import: ["" : 17]>\nchain (float[N] x) => (float[N] x5) {\n' + chain + "\n}"
        )
    )
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def count(_: Operation, outputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal most
        alive.append(weakref.ref(outputs[0]))
        most = max(most, sum(reference() is not None for reference in alive))

    with torch.no_grad():
        executor.run({"x": torch.ones(4)}, ["x5"], observe=count)
    assert len(alive) == 6
    assert most == 2  # the output just made and the input that made it


def test_runs_under_autocast() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3), dtype=np.float32)
    operation = Operation("conv", "Conv", "", 17, ("x", "w"), ("y",), {"pads": [1, 1, 1, 1]})
    executor = Executor(build_program(operation, w=weight))
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 3, 8, 8), dtype=np.float32))
    exact = executor.run({"x": x}, ["y"])["y"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = executor.run({"x": x}, ["y"])["y"]
    assert rough.dtype is torch.bfloat16
    # bfloat16 has 8 bits of mantissa, so 27 products of size 1 are off by some hundredths.
    torch.testing.assert_close(rough.float(), exact, rtol=0, atol=0.1)


def test_writable_initializers_share_memory() -> None:
    weight = np.ones(3, dtype=np.float32)
    operation = Operation("add", "Add", "", 17, ("x", "w"), ("y",), {})
    executor = Executor(build_program(operation, w=weight))
    weight[0] = 5.0
    assert executor.parameters["w"].tolist() == [5.0, 1.0, 1.0]


def test_read_only_and_strided_initializers_are_copied() -> None:
    frozen = np.arange(3, dtype=np.float32)
    frozen.flags.writeable = False
    strided = np.arange(6, dtype=np.float32)[::-2]
    executor = Executor(build_program(frozen=frozen, strided=strided, scalar=np.array(2, dtype=np.int64)))
    assert executor.parameters["frozen"].tolist() == [0.0, 1.0, 2.0]
    assert executor.parameters["strided"].tolist() == [5.0, 3.0, 1.0]
    assert executor.parameters["scalar"].shape == ()


def test_initializer_of_unknown_type_is_named() -> None:
    with pytest.raises(ModelError, match=r"Initializer 'names' has type .* convert the model to float32"):
        Executor(build_program(names=np.array(["a", "b"], dtype=object)))


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (
            Operation("odd", "Frobnicate", "", 17, ("x",), ("y",), {}),
            r"Node 'odd' \(Frobnicate, domain 'ai.onnx', opset 17\).*--exclude doesn't help",
        ),
        (
            Operation("fused", "Relu", "com.microsoft", 1, ("x",), ("y",), {}),
            r"Node 'fused' \(Relu, domain 'com.microsoft', opset 1\).*replace the node",
        ),
        (
            Operation("branch", "If", "", 17, ("x",), ("y",), {"then_branch": None, "else_branch": None}),
            r"Node 'branch' \(If, .*inner graph",
        ),
        (
            Operation("old", "Add", "", 6, ("x", "x"), ("y",), {"axis": 1}),
            r"Node 'old' \(Add, .*\['axis'\].*version_converter",
        ),
        (
            Operation("strange", "Conv", "", 17, ("x", "x"), ("y",), {"padding": [1]}),
            r"Node 'strange' \(Conv, .*padding.*version_converter",
        ),
    ],
)
def test_unsupported_nodes_are_named(operation: Operation, message: str) -> None:
    with pytest.raises(UnsupportedOpError, match=message) as caught:
        Executor(build_program(operation))
    assert "\n" not in str(caught.value)


def test_failing_node_is_named_with_shapes_and_cause(small: Executor) -> None:
    with pytest.raises(ModelError, match=r"Node 'shift' \(Add.*\[2, 4\], \[3\]: .*size of tensor") as caught:
        small.run({"x": torch.ones(2, 4)}, ["out"])
    assert "\n" not in str(caught.value)


def test_outputs_without_a_name_are_skipped() -> None:
    attributes = {"kernel_shape": [2, 2]}
    operation = Operation("pool", "MaxPool", "", 17, ("x",), ("y", ""), attributes)
    seen: list[int] = []
    executor = Executor(build_program(operation))
    x = torch.arange(4.0).reshape(1, 1, 2, 2)
    result = executor.run({"x": x}, ["y"], observe=lambda _, outputs: seen.append(len(outputs)))
    assert result["y"].item() == 3.0
    assert seen == [1]


def test_outputs_of_training_are_refused() -> None:
    statistics = {name: np.ones(2, dtype=np.float32) for name in ("s", "b", "m", "v")}
    outputs = ("y", "mean", "var")
    operation = Operation("norm", "BatchNormalization", "", 9, ("x", *statistics), outputs, {})
    executor = Executor(build_program(operation, **statistics))
    with pytest.raises(UnsupportedOpError, match=r"Node 'norm' .* names 3 outputs, of which 1 .*inference"):
        executor.run({"x": torch.ones(1, 2, 3, 3)}, ["y"])


def test_errors_of_callbacks_pass_unchanged(small: Executor) -> None:
    def fail(_: Operation, __: tuple[torch.Tensor, ...]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        small.run({"x": torch.ones(1, 3)}, ["out"], observe=fail)


def test_missing_input_and_unknown_fetch_are_named(small: Executor) -> None:
    with pytest.raises(ModelError, match="Tensor 'x' wasn't given"):
        small.run({}, ["out"])
    with pytest.raises(ModelError, match="Tensor 'nothing' isn't in the graph"):
        small.run({"x": torch.ones(1, 3)}, ["nothing"])
