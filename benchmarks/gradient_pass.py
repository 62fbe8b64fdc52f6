"""Time of the two gradient passes against a plain PyTorch forward and backward, and their peak memory.

    python benchmarks/gradient_pass.py --shared ../shared

Same network, same images, same batches, in turns in one process; medians. "Plain" runs the network with gradients for
all weights, as training does, in PyTorch's default layout and with channels last; ratios are to the faster one.
Memory is measured in a fresh process for each number of images.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from onnx_basisprune.assessment import Calibration, assess_network
from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.calibration.gradient_pass import GradientPass, to_channels_last
from onnx_basisprune.calibration.loss import flatten_logits, loss_gradient
from onnx_basisprune.calibration.statistics import collect_statistics, score_components
from onnx_basisprune.config import CompressionConfig, PreprocessConfig
from onnx_basisprune.data.batches import Batch
from onnx_basisprune.data.dataset import open_dataset
from onnx_basisprune.data.preprocess_options import resolve_preprocessing
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.network import Network, read_network
from onnx_basisprune.opening import Images, Subject, open_subject
from onnx_basisprune.planning.basis import expand_mean, find_reduced_space, make_fisher_basis
from onnx_basisprune.progress import Silence
from onnx_basisprune.runtime.cold_start import read_peak_memory

CASES = {
    "resnet20_cifar10": ("cifar10/calib", "imagenet", 128, 8),
    "vgg16_cifar10": ("cifar10/calib", "imagenet", 128, 4),
    "efficientnet_lite0_imagenet": ("imagenet1k_sample", "tf", 32, 2),
}


def open_case(shared: Path, name: str) -> tuple[Subject, Network, Images]:
    """Open a model with its images."""
    data, preset, _, _ = CASES[name]
    subject = open_subject(shared / "models" / f"{name}.onnx")
    preprocessing = resolve_preprocessing(PreprocessConfig(), subject.input, preset)
    images = Images(open_dataset(shared / "data" / data), preprocessing)
    shape = (1, *images.load(np.arange(1)).shape[1:])
    return subject, read_network(normalize_model(subject.model), shape, ()), images


def run_plain(executor: Executor, subject: Subject, batches: list[Batch], last: bool) -> None:
    """Run forward and backward with gradients for all weights."""
    weights = [tensor for tensor in executor.parameters.values() if tensor.is_floating_point()]
    for batch in batches:
        x = torch.from_numpy(batch.x)
        x = to_channels_last(x) if last else x
        values = executor.run({subject.input.name: x}, [subject.head.logits])
        logits = flatten_logits(values[subject.head.logits], subject.head)
        gradient = loss_gradient(logits.detach(), subject.head, batch.y)
        torch.autograd.grad(logits, weights, gradient, allow_unused=True)


def make_plain(network: Network, last: bool) -> Executor:
    """Return an executor whose weights want gradients."""
    executor = Executor(network.program)
    for name, tensor in executor.parameters.items():
        if tensor.is_floating_point():
            laid_out = to_channels_last(tensor) if last else tensor
            executor.parameters[name] = laid_out.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    return executor


def time_case(shared: Path, name: str, rounds: int) -> None:
    """Print one row."""
    subject, network, images = open_case(shared, name)
    _, _, size, count = CASES[name]
    chosen = images.dataset.draw(size * count, 0)
    batches = list(Images(chosen, images.preprocessing).stream(size))
    gradient_pass = GradientPass(Executor(network.program), subject.input.name, subject.head, 0)
    layers = network.eligible
    weights = {key: network.weight(layer) for key, layer in layers.items()}
    biases = {key: network.bias(layer) for key, layer in layers.items()}
    spaces = {key: find_reduced_space(W) for key, W in weights.items()}
    moments = collect_statistics(gradient_pass, batches, biases, spaces)
    bases = {
        key: make_fisher_basis(W, moments[key], spaces[key], expand_mean(moments[key], spaces[key], biases[key]))
        for key, W in weights.items()
    }
    default, last = make_plain(network, last=False), make_plain(network, last=True)
    runs: dict[str, Callable[[], object]] = {
        "plain": lambda: run_plain(default, subject, batches, last=False),
        "plain, channels last": lambda: run_plain(last, subject, batches, last=True),
        "pass 1 (moments)": lambda: collect_statistics(gradient_pass, batches, biases, spaces),
        "pass 2 (scores)": lambda: score_components(gradient_pass, batches, bases),
    }
    times: dict[str, list[float]] = {key: [] for key in runs}
    for round_ in range(rounds + 1):
        for key, run in runs.items():
            start = time.perf_counter()
            run()
            if round_:  # the first is a warm-up
                times[key].append(1e3 * (time.perf_counter() - start) / len(batches))
    medians = {key: statistics.median(values) for key, values in times.items()}
    fastest = min(medians["plain"], medians["plain, channels last"])
    print(f"{name} (batches of {size}, ms per batch, median of {rounds})")
    for key, median in medians.items():
        print(f"  {key:22} {median:8.1f}   {median / fastest:5.2f} x plain", flush=True)


def measure_memory(shared: Path, name: str, count: int) -> float:
    """Return the peak memory in MiB of both passes over so many images, in a fresh process."""
    command = [sys.executable, __file__, "--shared", str(shared), "--only-passes", name, str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run_passes(shared: Path, name: str, count: int) -> None:
    """Run both passes over so many images and print the process' peak memory in MiB."""
    subject, network, images = open_case(shared, name)
    chosen = Images(images.dataset.draw(count, 0), images.preprocessing)
    size = CompressionConfig().batch_size
    calibration = Calibration(subject.head, lambda: chosen.stream(size), count, 0)
    assess_network(network, calibration, "fisher", "double", Silence())
    print(read_peak_memory() / 2**20)


def main() -> None:
    """Print times and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--only-passes", nargs=2, metavar=("MODEL", "IMAGES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only_passes:
        run_passes(arguments.shared, arguments.only_passes[0], int(arguments.only_passes[1]))
        return
    for name in arguments.models:
        time_case(arguments.shared, name, arguments.rounds)
    for name in (item for item in arguments.models if "cifar" in item):
        peaks = {count: measure_memory(arguments.shared, name, count) for count in (500, 5000)}
        print(f"{name}: peak memory of both passes " + ", ".join(f"{k:,} images {v:.0f} MiB" for k, v in peaks.items()))


if __name__ == "__main__":
    main()
