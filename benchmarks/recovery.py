"""What the recovery brings: top-1 before and after `--recover scale` and `full`, for models, budgets, steps and seeds.

    python benchmarks/recovery.py --shared ../shared
    python benchmarks/recovery.py --shared ../shared --models vgg16_cifar10 --targets 0.25 --steps 150 --seeds 0 1 2

A row is one recovery: the learning rate that was found (a fraction of each weight's size per step), the steps taken,
the loss on held-out calibration images before and after, top-1 on test images before and after, and its speed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from accuracy import Bench

from onnx_basisprune.assessment import assess_network
from onnx_basisprune.budget import Budget, plan_cut
from onnx_basisprune.cutting import cut_network
from onnx_basisprune.graph.model_io import serialize_model
from onnx_basisprune.progress import Silence
from onnx_basisprune.results import RecoveryReport

HEADINGS = ("model", "MACs", "recover", "seed", "rate", "steps", "held-out loss", "top-1 %", "images/s", "seconds")
WIDTHS = (18, 6, 8, 5, 8, 6, 18, 15, 9, 8)


def main() -> None:
    """Print the table, a row as soon as it is known."""
    arguments = parse_arguments()
    print_row(HEADINGS)
    for model in arguments.models:
        for seed in arguments.seeds:
            bench = Bench(arguments.shared, model, arguments.images, seed)
            limit_test(bench, arguments.test_images)
            assessment = assess_network(bench.network, bench.calibration, "fisher", arguments.prune, Silence())
            for target in arguments.targets:
                budget = Budget("macs", target * bench.network.cost.macs)
                planned = plan_cut(bench.network, assessment, arguments.prune, budget)
                cut, pairs = cut_network(bench.network, assessment, planned.plan)
                before = bench.measure_top1(serialize_model(cut))
                for mode in arguments.modes:
                    start = time.perf_counter()
                    tuned, report = bench.recover(cut, pairs, planned.plan, arguments.steps, mode)
                    seconds = time.perf_counter() - start
                    kept = planned.forecast.macs / bench.network.cost.macs
                    after = bench.measure_top1(serialize_model(tuned))
                    print_row((model, f"{kept:.3f}", mode, seed, *describe(report, before, after), f"{seconds:.0f}"))


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = ["resnet20_cifar10", "vgg16_cifar10"]
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--models", nargs="+", default=models, choices=models)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.5, 0.25], help="shares of the MACs")
    parser.add_argument("--modes", nargs="+", default=["scale", "full"], choices=["scale", "full"])
    parser.add_argument("--prune", default="basis", choices=["basis", "channels", "double"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=int, default=2000, help="calibration images")
    parser.add_argument("--test-images", type=int, default=10000, help="random test images")
    return parser.parse_args()


def limit_test(bench: Bench, count: int) -> None:
    """Keep a random part of the test images, the same for all seeds."""
    x, y = (np.concatenate(parts) for parts in zip(*bench.test, strict=True))
    chosen = np.sort(np.random.default_rng(0).permutation(len(x))[:count])
    bench.test = [(x[part], y[part]) for part in np.array_split(chosen, -(-len(chosen) // 500))]


def describe(report: RecoveryReport, before: float, after: float) -> tuple[object, ...]:
    """Return the columns that tell what a recovery did."""
    return (
        f"{report.learning_rate:.1g}",
        report.steps,
        f"{report.held_out_loss_before:.4f} -> {report.held_out_loss_after:.4f}",
        f"{before:.2f} -> {after:.2f}",
        f"{report.images_per_second:.0f}",
    )


def print_row(cells: tuple[object, ...]) -> None:
    """Print one line of the table."""
    print("  ".join(f"{cell!s:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True)), flush=True)


if __name__ == "__main__":
    main()
