"""No budget makes a model slower: every shared model and the sample model, several budgets, timed against the original.

    python benchmarks/never_slower.py --shared ../shared
    python benchmarks/never_slower.py --threads 2 --models resnet20_cifar10

Prints speed-up with its 95 % interval for each budget; the exit code is 1 if any model came out slower than its
original. Calibration images are random: time doesn't depend on values, and what is cut hardly does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from latency import Bench

from onnx_basisprune.budget import Budget, plan_cut
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.costing import Unit, sum_latency
from onnx_basisprune.cutting import cut_network
from onnx_basisprune.graph.model_io import serialize_model
from onnx_basisprune.pricing import Pricing, choose_align
from onnx_basisprune.progress import Recorder, Silence
from onnx_basisprune.runtime.benchmark import BenchmarkSettings, benchmark_pair

MODELS = {
    "resnet20_cifar10": (3, 32, 32),
    "resnet20_cifar10_dynamo": (3, 32, 32),
    "vgg16_cifar10": (3, 32, 32),
    "vgg16_mnist": (3, 32, 32),
    "efficientnet_lite0_imagenet": (3, 224, 224),
    "ppocr_cls": (3, 48, 192),
}
BUDGETS: tuple[tuple[Unit, float], ...] = (
    ("macs", 0.9), ("macs", 0.7), ("macs", 0.5), ("macs", 0.25), ("params", 0.7), ("params", 0.4), ("params", 0.1),
    ("latency", 0.9), ("latency", 0.5),
)  # fmt: skip
# Two runs of one model differ by so much.
NOISE = 0.03


def check_model(bench: Bench, config: CompressionConfig) -> bool:
    """Print a row per budget; return whether none is slower."""
    recorder = Recorder(Silence())
    prices = Pricing(config, 1, recorder).price(bench.network)
    cost = bench.network.cost
    wholes = {"macs": cost.macs, "params": cost.parameters, "latency": sum_latency(bench.network, prices)}
    fine = True
    for unit, target in BUDGETS:
        align = choose_align(config, unit, prices.block)
        budget = Budget(unit, target * wholes[unit])
        planned = plan_cut(bench.network, bench.assessment, config.prune, budget, prices, align)
        model, _ = cut_network(bench.network, bench.assessment, planned.plan)
        settings = BenchmarkSettings(threads=config.threads, max_seconds=6.0)
        speedup = benchmark_pair(bench.path, serialize_model(model), image_shape=bench.shape, settings=settings).speedup
        slower = speedup.high < 1 - NOISE
        fine &= not slower
        reached = "" if planned.reached else f"   (reaches only {planned.left / wholes[unit]:.2f})"
        print(
            f"{bench.path.stem:30}{unit:>8} {target:<5}{speedup.median:7.2f}x ({speedup.low:.2f} to {speedup.high:.2f})"
            f"{'   SLOWER' if slower else ''}{reached}",
            flush=True,
        )
    return fine


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    benches = {arguments.shared / "models" / f"{name}.onnx": MODELS[name] for name in arguments.models}
    benches[Path(__file__).parents[1] / "sample_models" / "digits.onnx"] = (3, 16, 16)
    fine = [
        check_model(Bench(path, shape), CompressionConfig(model=path, threads=arguments.threads))
        for path, shape in benches.items()
    ]
    sys.exit(0 if all(fine) else 1)


if __name__ == "__main__":
    main()
