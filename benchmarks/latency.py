"""Budgets of measured time: what a plan by the clock gives, beside one that ignores the machine's block.

    python benchmarks/latency.py --shared ../shared
    python benchmarks/latency.py --networks resnet50 vgg16 --threads 1 --batches 1

For each model, number of threads and batch size, original and compressed are timed in turns in one run:

- by the clock: `--target-latency`, as the command plans it (nothing tuned, time doesn't depend on values);
- alignment ignored: the same multiply-adds, planned without a look at time (`--allow-slower`).

`gain` is the speed-up over the reduction of multiply-adds: 1.00 where time follows them exactly. torchvision's networks
have random weights and are exported for the occasion (torchvision is needed only for them).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np

from onnx_basisprune.assessment import Assessment, Calibration, assess_network
from onnx_basisprune.budget import Budget, PlannedCut, plan_cut
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.costing import sum_latency
from onnx_basisprune.cutting import cut_network
from onnx_basisprune.fitting import fit_latency
from onnx_basisprune.graph.head import find_head
from onnx_basisprune.graph.model_io import load_model, serialize_model
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.network import Network, read_network
from onnx_basisprune.pricing import Pricing
from onnx_basisprune.progress import Recorder, Silence
from onnx_basisprune.rounds import Prospect
from onnx_basisprune.runtime.benchmark import BenchmarkSettings, benchmark_pair
from onnx_basisprune.timing import time_pair

SHARED = {"vgg16_cifar10": (3, 32, 32), "efficientnet_lite0_imagenet": (3, 224, 224), "resnet20_cifar10": (3, 32, 32)}
NETWORKS = ("resnet50", "vgg16", "mobilenet_v2", "densenet121")
SIZE = 224
CALIBRATION_IMAGES = 16


class Bench:
    """A model with its scores, which are the same for every number of threads."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path, self.shape = path, shape
        self.network: Network = read_network(normalize_model(load_model(path)), (1, *shape), ())
        x = np.random.default_rng(0).standard_normal((CALIBRATION_IMAGES, *shape)).astype(np.float32)
        pieces = [SimpleNamespace(x=x[i : i + 4], y=None, indices=np.arange(i, i + 4)) for i in range(0, len(x), 4)]
        calibration = Calibration(find_head(self.network.program), lambda: iter(pieces), len(x), 0)
        self.assessment: Assessment = assess_network(self.network, calibration, "fisher", "double", Recorder(Silence()))

    def measure(self, planned: PlannedCut, config: CompressionConfig) -> float:
        """Return the time of a plan's model as a fraction of the original's."""
        model, _ = cut_network(self.network, self.assessment, planned.plan)
        settings = BenchmarkSettings(threads=config.threads, max_seconds=8.0)
        timed = benchmark_pair(
            self.path, serialize_model(model), batch_size=config.benchmark_batch_size, image_shape=self.shape,
            settings=settings,
        )  # fmt: skip
        return 1 / timed.speedup.median


def compare_plans(name: str, bench: Bench, config: CompressionConfig) -> None:
    """Print the two rows of one model, number of threads and batch size."""
    recorder = Recorder(Silence())
    start = time.perf_counter()
    pricing = Pricing(config, config.benchmark_batch_size or 1, recorder)
    prices = pricing.price(bench.network)
    table_seconds = time.perf_counter() - start
    prospect = Prospect(bench.network, bench.assessment, prices, {}, frozenset())
    whole = sum_latency(bench.network, prices)

    def time_model(path: Path) -> float:
        return 1 / time_pair(path, bench.shape, replace(config, model=bench.path), 4.0).speedup.median

    best, plans = fit_latency(prospect, whole, config.target_latency or 0.5, time_model, pricing, config, recorder)
    macs = best.planned.forecast.macs
    unaligned = plan_cut(bench.network, bench.assessment, "double", Budget("macs", macs))
    for title, planned in (("by the clock", best.planned), ("alignment ignored", unaligned)):
        left, share = bench.measure(planned, config), planned.forecast.macs / bench.network.cost.macs
        note = f"table {table_seconds:.0f} s, predicted {best.predicted:.3f}, {plans} plans timed"
        print(
            f"{name:28}{config.threads:>3}{config.benchmark_batch_size:>6}  {title:20}{left:8.3f}{share:8.3f}"
            f"{share / left:8.2f}  {note if planned is best.planned else ''}",
            flush=True,
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--models", nargs="*", default=["vgg16_cifar10", "efficientnet_lite0_imagenet"], choices=SHARED)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), help="of torchvision")
    parser.add_argument("--target", type=float, default=0.5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    arguments = parser.parse_args()
    print(f"{'model':28}{'thr':>3}{'batch':>6}  {'plan':20}{'time':>8}{'MACs':>8}{'gain':>8}")
    with TemporaryDirectory() as folder:
        for name in (*arguments.models, *arguments.networks):
            path = arguments.shared / "models" / f"{name}.onnx"
            if name in arguments.networks:
                from torchvision_networks import build_network, export_network

                path = Path(folder, f"{name}.onnx")
                export_network(build_network(name, SIZE), SIZE, "legacy", path)
            bench = Bench(path, SHARED.get(name, (3, SIZE, SIZE)) if name in arguments.models else (3, SIZE, SIZE))
            for threads in arguments.threads:
                for batch in arguments.batches:
                    config = CompressionConfig(
                        model=path, target_latency=arguments.target, threads=threads, benchmark_batch_size=batch
                    )
                    compare_plans(name, bench, config)


if __name__ == "__main__":
    main()
