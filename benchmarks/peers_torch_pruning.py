"""Torch-Pruning on the modules of `peers_networks.py`: the peer's rows of `peers.py`.

Choices, each as good for the peer as was found:

- `GroupTaylorImportance` with its defaults, `global_pruning=True`, the classifier in `ignored_layers`. As in the
  project's own benchmarks it walks in hundreds of small steps to the wanted MACs; the gradients (cross-entropy against
  the true labels, over all calibration images) are renewed whenever `RENEWAL` of the MACs have gone.
- Where there is a residual stream, once with it and once with its layers in `ignored_layers`, too (`inner channels`):
  the first is the tool's default, the second was better on ResNet-20 at every target. The shortcuts' 1x1 Convs, 0.6 %
  of the MACs, are counted and trained like any other.
- Of the states that it walks through the one nearest to the target is taken, whether above or below.
- With batch normalisation put back, scores of weights and of batch-norm scales are those of the network before folding,
  and re-estimation of its statistics has something to work on.
- A recovery of its own (`distill`), which trains all weights with batch normalisation in training mode: optimiser,
  first learning rate, cycle, distillation loss, augmentation, precision and held-out slice as in
  `calibration/recovery.py`. It uses the statistics of the batch, so that it takes the same course with and without
  re-estimation: it is run once for both.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from peers_networks import BATCH, ResidualBlock, split_batches
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from onnx_basisprune.calibration import recovery
from onnx_basisprune.calibration.augment import augment_images
from onnx_basisprune.calibration.learning_rate import choose_first_rate, compute_cycle
from onnx_basisprune.planning.types import Head

RENEWAL = 0.1
WALK_STEPS = 400
CHECKS = 10


@dataclass(frozen=True)
class Images:
    """Calibration images `[n, 3, 32, 32]`, float32, and their labels `[n]`, int64."""

    x: torch.Tensor
    y: torch.Tensor


def count_macs(module: nn.Module) -> int:
    """Return the multiply-adds for one image; `peers.py` checks them against the project's own count."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, 3, 32, 32))
    return int(counter.get_total_flops()) // 2


def walk_down(
    module: nn.Module, images: Images, targets: list[float], whole: int, *, keep_stream: bool
) -> Iterator[tuple[float, nn.Module]]:
    """Prune step by step, yielding each target with a copy of the module that came nearest to it.

    Args:
        module: The network; it is cut in place.
        images: For the gradients.
        targets: Shares of the MACs to keep, falling.
        whole: The original's MACs.
        keep_stream: Whether the residual stream keeps its channels.
    """
    tp = importlib.import_module("torch_pruning")
    pruner = tp.pruner.BasePruner(
        module,
        torch.zeros(1, 3, 32, 32),
        importance=tp.importance.GroupTaylorImportance(),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=WALK_STEPS,
        ignored_layers=list_ignored(module, keep_stream=keep_stream),
    )
    kept = previous = count_macs(module) / whole
    renewed, before = float("inf"), module
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


def list_ignored(module: nn.Module, *, keep_stream: bool) -> list[nn.Module]:
    """Return the layers that keep their output channels."""
    classifier: list[nn.Module] = [item for item in module.modules() if isinstance(item, nn.Linear)]
    if not keep_stream:
        return classifier
    blocks = [item for item in module.modules() if isinstance(item, ResidualBlock)]
    shortcuts = [item.shortcut for item in blocks if isinstance(item.shortcut, nn.Conv2d)]
    stem = next(item for item in module.modules() if isinstance(item, nn.Conv2d))
    return [*classifier, stem, *shortcuts, *(item.body[3] for item in blocks)]


def has_stream(module: nn.Module) -> bool:
    """Return whether a network has a residual stream."""
    return any(isinstance(item, ResidualBlock) for item in module.modules())


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
    best, least = copy.deepcopy(student), measure_loss(teacher, student, held_out, head)
    weights, highest = RelativeWeights(student), choose_first_rate("full", steps, least / len(held_out))
    for step in range(steps):
        chosen = generator.choice(training, min(BATCH, len(training)), replace=False)
        batch = augment_images(x[chosen], "shift+flip", "nchw", generator).contiguous(memory_format=torch.channels_last)
        student.train()
        student.zero_grad()
        with autocast():
            loss = compute_loss(teacher, student, batch, head) / len(chosen)
        torch.autograd.backward(loss)
        weights.take_step(highest * compute_cycle(step, steps))
        if (step + 1) % max(1, steps // CHECKS) == 0 or step + 1 == steps:
            reached = measure_loss(teacher, student, held_out, head)
            if reached < least:
                best, least = copy.deepcopy(student), reached
    return best.eval()


class RelativeWeights:
    """A module's weights, trained as the library's own recovery trains a graph's: each in units of its size."""

    def __init__(self, module: nn.Module) -> None:
        """Remember where the weights start."""
        self._weights = dict(module.named_parameters())
        self._starts = {name: weight.detach().clone() for name, weight in self._weights.items()}
        sizes = {name: float(weight.square().mean().sqrt()) for name, weight in self._starts.items()}
        usual = float(np.median([size for size in sizes.values() if size > 0]))
        self._units = {name: size or usual for name, size in sizes.items()}
        self._changes = {name: torch.zeros_like(weight) for name, weight in self._starts.items()}
        matrices = [name for name, weight in self._weights.items() if weight.ndim > 1]
        self._optimizer = recovery.Optimizer(self._changes, matrices)

    @torch.no_grad()
    def take_step(self, rate: float) -> None:
        """Move the weights against their gradients."""
        for name, weight in self._weights.items():
            assert weight.grad is not None, f"the output depends on {name}"
            self._changes[name].grad = weight.grad * self._units[name]
        self._optimizer.take_step(rate)
        for name, weight in self._weights.items():
            weight.copy_(self._starts[name] + self._units[name] * self._changes[name])


def measure_loss(teacher: nn.Module, student: nn.Module, x: torch.Tensor, head: Head) -> float:
    """Return the distillation loss over images, in full precision."""
    student.eval()
    with torch.no_grad():
        return sum((float(compute_loss(teacher, student, part, head)) for part in split_batches(x)), 0.0)


def compute_loss(teacher: nn.Module, student: nn.Module, x: torch.Tensor, head: Head) -> torch.Tensor:
    """Return the summed distillation loss of a batch."""
    with torch.no_grad():
        target = teacher(x).float()
    return recovery.distillation_loss(student(x).float(), target, head)


def autocast() -> torch.autocast:
    """Return bfloat16 where the library's own recovery computes in it, too."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=bool(supported is not None and supported()))
