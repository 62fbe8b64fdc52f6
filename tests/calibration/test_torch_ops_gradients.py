"""Gradients of the operators that aren't a single PyTorch function, against finite differences in float64."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.planning.types import Operation, Program

# op_type, opset, shapes of the differentiated inputs, the constant inputs after them, attributes
CASES: dict[str, tuple[str, int, list[tuple[int, ...]], list[Any], dict[str, Any]]] = {
    "attention with a query that sees nothing": (
        "Attention",
        23,
        [(1, 2, 3, 4), (1, 1, 2, 4), (1, 1, 2, 3)],
        [np.array([[True, False], [False, False], [True, True]])],
        {"softcap": 2.0},
    ),
    "lstm with peepholes": (
        "LSTM",
        14,
        [(3, 2, 4), (2, 12, 4), (2, 12, 3), (2, 24)],
        [None, np.ones((2, 2, 3)), np.ones((2, 2, 3)), np.ones((2, 9))],
        {"direction": "bidirectional", "hidden_size": 3},
    ),
    "conv with uneven pads": ("Conv", 17, [(1, 2, 4, 5), (2, 2, 3, 2), (2,)], [], {"pads": [1, 0, 0, 2]}),
    "conv same upper": ("Conv", 17, [(1, 2, 5, 5), (2, 1, 2, 2)], [], {"auto_pad": "SAME_UPPER", "group": 2}),
    "transposed conv": (
        "ConvTranspose",
        17,
        [(1, 2, 3, 3), (2, 2, 3, 3), (2,)],
        [],
        {"strides": [2, 2], "pads": [1, 0, 0, 1], "output_padding": [1, 1]},
    ),
    "average pool ceil": (
        "AveragePool",
        19,
        [(1, 2, 5, 6)],
        [],
        {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 0, 1], "ceil_mode": 1},
    ),
    "max pool uneven": (
        "MaxPool",
        17,
        [(1, 2, 5, 6)],
        [],
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 2]},
    ),
    "lp pool": ("LpPool", 18, [(1, 2, 4, 4)], [], {"kernel_shape": [2, 2], "p": 3, "strides": [2, 2]}),
    "global max pool": ("GlobalMaxPool", 17, [(2, 2, 3, 3)], [], {}),
    "pad reflect": ("Pad", 17, [(1, 2, 4, 4)], [np.array([0, 0, 2, 1, 0, 0, 1, -1])], {"mode": "reflect"}),
    "pad edge": ("Pad", 17, [(1, 1, 3, 3)], [np.array([0, 0, 2, 1, 0, 0, 1, 2])], {"mode": "edge"}),
    "slice backwards": (
        "Slice",
        17,
        [(3, 5)],
        [np.array([-1]), np.array([-5]), np.array([1]), np.array([-2])],
        {},
    ),
    "resize linear": (
        "Resize",
        19,
        [(1, 1, 4, 3)],
        [None, None, np.array([1, 1, 6, 5])],
        {"mode": "linear"},
    ),
    "resize cubic antialias": (
        "Resize",
        19,
        [(1, 1, 6, 5)],
        [None, None, np.array([1, 1, 3, 4])],
        {"mode": "cubic", "antialias": 1},
    ),
    "local response": ("LRN", 17, [(1, 4, 2, 2)], [], {"size": 3, "alpha": 0.5, "bias": 2.0}),
    "layer norm with mean": ("LayerNormalization", 17, [(2, 3, 4), (4,), (4,)], [], {}),
    "group norm per group": ("GroupNormalization", 18, [(2, 4, 3), (2,), (2,)], [], {"num_groups": 2}),
    "batch norm of everything": ("BatchNormalization", 17, [(2, 3, 2, 2), (3,), (3,), (3,), (3,)], [], {}),
    "reduce product": ("ReduceProd", 17, [(2, 3)], [], {"axes": [1]}),
    "reduce l2": ("ReduceL2", 17, [(2, 3)], [], {"axes": [0, 1]}),
    "prelu": ("PRelu", 17, [(1, 2, 3), (2, 1)], [], {}),
    "softmax flattened": ("Softmax", 11, [(2, 2, 3)], [], {}),
    "gather": ("Gather", 17, [(4, 3)], [np.array([[0, -1], [2, 0]])], {"axis": 0}),
    "scatter add": (
        "ScatterND",
        16,
        [(4, 2)],
        [np.array([[1], [1]]), np.ones((2, 2))],
        {"reduction": "add"},
    ),
    "depth to space": ("DepthToSpace", 13, [(1, 8, 2, 2)], [], {"blocksize": 2, "mode": "CRD"}),
    "clip between tensors": ("Clip", 13, [(5,), (), ()], [], {}),
    "gemm transposed": (
        "Gemm",
        13,
        [(3, 2), (4, 3), (2, 4)],
        [],
        {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0},
    ),
}


def make_input(name: str, index: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Well separated positive values: finite differences fail at ties of a maximum and at kinks."""
    if name == "clip between tensors" and index:
        return torch.tensor(0.35 if index == 1 else 0.7, dtype=torch.float64)
    order = np.random.default_rng(index).permutation(int(np.prod(shape)))
    return torch.from_numpy((order.reshape(shape) + 1.5) / (order.size + 1))


@pytest.mark.parametrize("name", sorted(CASES))
def test_gradient_agrees_with_finite_differences(name: str) -> None:
    op_type, opset, shapes, constants, attributes = CASES[name]
    names = [f"x{i}" for i in range(len(shapes))]
    arrays = {f"c{i}": array for i, array in enumerate(constants) if array is not None}
    inputs = (*names, *("" if array is None else f"c{i}" for i, array in enumerate(constants)))
    operation = Operation("node", op_type, "", opset, inputs, ("y",), attributes)
    executor = Executor(Program((operation,), arrays, (), ()))

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        return executor.run(dict(zip(names, tensors, strict=True)), ["y"])["y"]

    tensors = tuple(make_input(name, i, shape).requires_grad_() for i, shape in enumerate(shapes))
    # gradcheck on float64: differences of 1e-6 leave errors near 1e-9. The weights of Resize are
    # float32, yet the same in both, so they cancel.
    assert torch.autograd.gradcheck(run, tensors, eps=1e-6, atol=1e-5, rtol=1e-4)


def test_global_max_pool_sends_the_gradient_to_one_of_equal_maxima() -> None:
    executor = Executor(Program((Operation("pool", "GlobalMaxPool", "", 17, ("x",), ("y",), {}),), {}, (), ()))
    x = torch.ones(1, 2, 2, 2, requires_grad=True)
    executor.run({"x": x}, ["y"])["y"].sum().backward()
    assert x.grad is not None
    assert x.grad.flatten(2).sum(dim=-1).tolist() == [[1.0, 1.0]]
    assert int((x.grad != 0).sum()) == 2


def test_a_scale_alone_gets_its_gradient_on_channels_last_images() -> None:
    # In a process of its own: torch's backward pass of group_norm crashed it.
    code = (
        "import torch\n"
        "from onnx_basisprune.calibration.torch_ops_norm import normalize_instance\n"
        "x = torch.randn(4, 8, 6, 6).contiguous(memory_format=torch.channels_last)\n"
        "scale, bias = torch.randn(8, requires_grad=True), torch.randn(8, requires_grad=True)\n"
        "normalize_instance(x, scale, bias).square().sum().backward()\n"
        "apart = [(x[:, c] - x[:, c].mean((1, 2), keepdim=True)) for c in range(8)]\n"
        "unit = torch.stack([part / (part.square().mean((1, 2), keepdim=True) + 1e-5).sqrt() for part in apart], 1)\n"
        "y = unit * scale.detach().view(-1, 1, 1) + bias.detach().view(-1, 1, 1)\n"
        "assert torch.allclose(scale.grad, (2 * y * unit).sum((0, 2, 3)), rtol=1e-3, atol=1e-2)\n"
        "assert torch.allclose(bias.grad, (2 * y).sum((0, 2, 3)), rtol=1e-3, atol=1e-2)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
