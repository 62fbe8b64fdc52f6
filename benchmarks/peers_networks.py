"""The two CIFAR-10 networks as PyTorch modules, with the weights of their ONNX files, for peers that need modules.

Batch normalisation is folded away in the files. It is put back behind each Conv with the mean and variance of the
calibration images, its scale and shift chosen so that the network computes what it did. That module and file agree is
asserted before anything is compared.

The option-A shortcut of ResNet-20 (every second pixel, padded with zero channels) is written as the 1x1 Conv with
weights 0 and 1 that it equals: tools for modules lose track of channels in a Pad.
"""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from onnx_basisprune.planning.types import Program

BATCH = 128
TOLERANCE = 1e-4


def make_conv(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    """Return a 3x3 Conv and its batch normalisation."""
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)]


class ResidualBlock(nn.Module):
    """Two Convs, and a shortcut of option A where the size changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = outputs // inputs
        self.body = nn.Sequential(*make_conv(inputs, outputs, stride), nn.ReLU(), *make_conv(outputs, outputs))
        self.shortcut = nn.Identity() if stride == 1 else make_shortcut(inputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        return torch.relu(self.body(x) + self.shortcut(x))


def make_shortcut(inputs: int, outputs: int) -> nn.Module:
    """Return the 1x1 Conv that takes every second pixel and puts zero channels on both sides."""
    shortcut = nn.Conv2d(inputs, outputs, 1, 2, bias=False)
    channels = torch.arange(inputs)
    with torch.no_grad():
        shortcut.weight.zero_()
        shortcut.weight[channels + (outputs - inputs) // 2, channels] = 1.0
    return shortcut


def make_resnet20() -> nn.Module:
    """Return ResNet-20 for CIFAR."""
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    blocks = [ResidualBlock(*pair) for pair in itertools.pairwise(widths)]
    return nn.Sequential(
        *make_conv(3, 16), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
    )


def make_vgg16() -> nn.Module:
    """Return VGG-16 with batch normalisation for CIFAR."""
    layers: list[nn.Module] = []
    channels = 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += [*make_conv(channels, width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {"resnet20_cifar10": make_resnet20, "vgg16_cifar10": make_vgg16}


def load_module(name: str, program: Program, x: torch.Tensor, logits: np.ndarray[Any, Any]) -> nn.Module:
    """Return a network as a module.

    Args:
        name: One of `ARCHITECTURES`.
        program: The normalised graph, the weights of which are taken in order.
        x: Calibration images.
        logits: onnxruntime's `[m, classes]` of the first of them.
    """
    module = ARCHITECTURES[name]().eval()
    weighted = [node for node in program.operations if node.op_type in ("Conv", "Gemm")]
    layers = [item for item in module.modules() if isinstance(item, (nn.Conv2d, nn.Linear)) and not is_shortcut(item)]
    biases = []
    with torch.no_grad():
        for node, layer in zip(weighted, layers, strict=True):
            weight, bias = (torch.from_numpy(program.initializers[key].copy()) for key in node.inputs[1:3])
            layer.weight.copy_(weight)
            if layer.bias is None:
                biases.append(bias)
            else:
                layer.bias.copy_(bias)
        insert_statistics(module, biases, x)
        difference = float((module(x[: len(logits)]) - torch.from_numpy(logits)).abs().max())
    assert difference < TOLERANCE, f"{name}: the module's logits differ from onnxruntime's by {difference:.1e}"
    return module


def split_batches(values: torch.Tensor) -> list[torch.Tensor]:
    """Return values in batches."""
    return [values[start : start + BATCH] for start in range(0, len(values), BATCH)]


def is_shortcut(layer: nn.Module) -> bool:
    """Return whether a layer isn't one of the file's."""
    return isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)


def insert_statistics(module: nn.Module, biases: list[torch.Tensor], x: torch.Tensor) -> None:
    """Give each batch normalisation the statistics of the calibration images without changing what is computed.

    Each is first the mere shift by its Conv's bias; a pass over the images then measures what goes into it.
    """
    norms = [item for item in module.modules() if isinstance(item, nn.BatchNorm2d)]
    sums = {norm: torch.zeros(2, norm.num_features, dtype=torch.float64) for norm in norms}

    def add(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        values = inputs[0].double()
        sums[norm] += torch.stack([(values**power).sum(dim=(0, 2, 3)) for power in (1, 2)])  # type: ignore[index]
        counts[norm] = counts.get(norm, 0) + values.numel() // values.shape[1]

    counts: dict[nn.Module, int] = {}
    for norm, bias in zip(norms, biases, strict=True):
        norm.bias.copy_(bias)
        norm.running_var.fill_(1.0 - norm.eps)  # type: ignore[union-attr]
    hooks = [norm.register_forward_pre_hook(add) for norm in norms]
    for part in split_batches(x):
        module(part)
    for hook, norm, bias in zip(hooks, norms, biases, strict=True):
        hook.remove()
        mean, square = sums[norm] / counts[norm]
        variance = (square - mean**2).clamp(min=0.0)
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_(variance)  # type: ignore[union-attr]
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(bias + mean)


def export_module(module: nn.Module) -> onnx.ModelProto:
    """Return a module as a model; its batch normalisation is folded."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.zeros(1, 3, 32, 32),),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=17,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        )
    return onnx.load_model_from_string(buffer.getvalue())
