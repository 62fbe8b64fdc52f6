"""Torch-Pruning on the two CIFAR-10 models: the peer's rows of `peers.py`.

Torch-Pruning cuts PyTorch modules, so the networks are written down here and take their weights from the ONNX file.
That module and file agree is asserted before anything is compared. Choices, each as good for the peer as was found:

- Batch normalisation is folded away in the files. It is put back behind each Conv with the mean and variance of the
  calibration images, its scale and shift chosen so that the network computes what it did. Scores of weights and of
  batch-norm scales are then the ones of the network before folding, and re-estimation has something to work on.
- The option-A shortcut (every second pixel, padded with zero channels) loses track of its channels in Torch-Pruning.
  It is written as the 1x1 Conv with weights 0 and 1 that it equals, which Torch-Pruning prunes well; in the recovery
  this Conv is trained like any other. It costs 0.6 % of the MACs, and is counted.
- `GroupTaylorImportance` with its defaults, `global_pruning=True`, the classifier in `ignored_layers`. As in the
  project's own benchmarks it walks in hundreds of small steps to the wanted MACs; the gradients (cross-entropy against
  the true labels, over all calibration images) are renewed whenever `RENEWAL` of the MACs have gone.
- Of the states that it walks through the one nearest to the target is taken, whether above or below.
- The recovery is that of `calibration/recovery.py` (the same images, augmentation, loss, optimiser, schedule, precision
  and choice of the best on a held-out slice), but trains all weights, with batch normalisation in training mode. This
  uses the statistics of the batch, so that it takes the same course with and without re-estimation: it is run once.
"""

from __future__ import annotations

import copy
import importlib
import io
import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from onnx_basisprune.calibration.augment import augment_images
from onnx_basisprune.calibration.recovery import distillation_loss
from onnx_basisprune.planning.types import Head, Program

RENEWAL = 0.1
WALK_STEPS = 400
BATCH = 128
LEARNING_RATE = 1e-3
CHECKS = 10
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


@dataclass(frozen=True)
class Images:
    """Calibration images `[n, 3, 32, 32]`, float32, and their labels `[n]`, int64."""

    x: torch.Tensor
    y: torch.Tensor


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
        variance = square - mean**2
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_(variance)  # type: ignore[union-attr]
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(bias + mean)


def count_macs(module: nn.Module) -> int:
    """Return the multiply-adds for one image; `peers.py` checks them against the project's own count."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, 3, 32, 32))
    return int(counter.get_total_flops()) // 2


def walk_down(module: nn.Module, images: Images, targets: list[float], whole: int) -> Iterator[tuple[float, nn.Module]]:
    """Prune step by step, yielding each target with a copy of the module that came nearest to it.

    Args:
        module: The network; it is cut in place.
        images: For the gradients.
        targets: Shares of the MACs to keep, falling.
        whole: The original's MACs.
    """
    tp = importlib.import_module("torch_pruning")
    pruner = tp.pruner.BasePruner(
        module,
        torch.zeros(1, 3, 32, 32),
        importance=tp.importance.GroupTaylorImportance(),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=WALK_STEPS,
        ignored_layers=[item for item in module.modules() if isinstance(item, nn.Linear)],
    )
    kept, renewed, before = count_macs(module) / whole, float("inf"), module
    for target in targets:
        while kept > target and pruner.current_step < WALK_STEPS:
            if renewed - kept >= RENEWAL:
                collect_gradients(module, images)
                renewed = kept
            before, previous = copy.deepcopy(module), kept
            pruner.step()
            kept = count_macs(module) / whole
        nearest = before if previous - target < target - kept else module
        yield target, copy.deepcopy(nearest).requires_grad_()


def collect_gradients(module: nn.Module, images: Images) -> None:
    """Leave the gradient of the mean cross-entropy over all images in the weights."""
    module.zero_grad()
    for x, y in zip(split_batches(images.x), split_batches(images.y), strict=True):
        loss = nn.functional.cross_entropy(module(x), y, reduction="sum") / len(images.x)
        torch.autograd.backward(loss)


def reestimate_statistics(module: nn.Module, x: torch.Tensor) -> nn.Module:
    """Return a copy of which batch normalisation has the statistics of the calibration images."""
    fresh = copy.deepcopy(module)
    torch.optim.swa_utils.update_bn(split_batches(x), fresh)
    return fresh.eval()


def distill(teacher: nn.Module, student: nn.Module, x: torch.Tensor, head: Head, steps: int, seed: int) -> nn.Module:
    """Return a copy of the student with all its weights trained, the best on a held-out tenth of the images."""
    student = copy.deepcopy(student)
    order = np.random.default_rng((seed, len(x))).permutation(len(x))
    held_out, training = x[order[: len(x) // 10]], order[len(x) // 10 :]
    generator = np.random.default_rng((seed, steps))
    optimizer = torch.optim.Adam(student.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=LEARNING_RATE, total_steps=steps + 1, pct_start=max(0.1, 2 / (steps + 1))
    )
    best, least = copy.deepcopy(student), measure_loss(teacher, student, held_out, head)
    for step in range(1, steps + 1):
        chosen = generator.choice(training, min(BATCH, len(training)), replace=False)
        batch = augment_images(x[chosen], "shift+flip", "nchw", generator).contiguous(memory_format=torch.channels_last)
        student.train()
        optimizer.zero_grad()
        with autocast():
            loss = compute_loss(teacher, student, batch, head) / len(chosen)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if step % max(1, steps // CHECKS) == 0 or step == steps:
            reached = measure_loss(teacher, student, held_out, head)
            if reached < least:
                best, least = copy.deepcopy(student), reached
    return best.eval()


def measure_loss(teacher: nn.Module, student: nn.Module, x: torch.Tensor, head: Head) -> float:
    """Return the distillation loss over images, in full precision."""
    student.eval()
    with torch.no_grad():
        return sum((float(compute_loss(teacher, student, part, head)) for part in split_batches(x)), 0.0)


def compute_loss(teacher: nn.Module, student: nn.Module, x: torch.Tensor, head: Head) -> torch.Tensor:
    """Return the summed distillation loss of a batch."""
    with torch.no_grad():
        target = teacher(x).float()
    return distillation_loss(student(x).float(), target, head)


def autocast() -> torch.autocast:
    """Return bfloat16 where the library's own recovery computes in it, too."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=bool(supported is not None and supported()))


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
