"""At equal measured time, how accurate: planned by the clock, and planned by multiply-adds.

    python benchmarks/equal_time.py --shared ../shared
    python benchmarks/equal_time.py --model resnet20_cifar10 --targets 0.8 0.7

For each target, `--target-latency` is planned as the command does; then the multiply-adds are found by bisection at
which a plan that only counts them takes the same measured time. Top-1 of both on the test images, nothing tuned.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from accuracy import Bench

from onnx_basisprune.assessment import assess_network
from onnx_basisprune.budget import Budget, PlannedCut, plan_cut
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.costing import sum_latency
from onnx_basisprune.cutting import cut_network
from onnx_basisprune.fitting import fit_latency
from onnx_basisprune.graph.model_io import serialize_model
from onnx_basisprune.pricing import Pricing
from onnx_basisprune.progress import Recorder, Silence
from onnx_basisprune.rounds import Prospect
from onnx_basisprune.runtime.benchmark import BenchmarkSettings, benchmark_pair
from onnx_basisprune.timing import time_pair

LOOKS = 7


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", default="vgg16_cifar10", choices=["resnet20_cifar10", "vgg16_cifar10"])
    parser.add_argument("--targets", type=float, nargs="+", default=[0.7, 0.5, 0.35, 0.25])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    bench = Bench(arguments.shared, arguments.model, 2000, 0)
    recorder = Recorder(Silence())
    path = arguments.shared / "models" / f"{arguments.model}.onnx"
    config = CompressionConfig(model=path, threads=arguments.threads)
    pricing = Pricing(config, 1, recorder)
    prices = pricing.price(bench.network)
    assessment = assess_network(bench.network, bench.calibration, "fisher", "double", recorder)
    prospect = Prospect(bench.network, assessment, prices, {}, frozenset())
    whole = sum_latency(bench.network, prices)

    def cut(planned: PlannedCut) -> bytes:
        return serialize_model(cut_network(bench.network, assessment, planned.plan)[0])

    def measure(planned: PlannedCut) -> float:
        settings = BenchmarkSettings(threads=arguments.threads, max_seconds=6.0)
        return 1 / benchmark_pair(path, cut(planned), image_shape=(3, 32, 32), settings=settings).speedup.median

    def time_model(file: Path) -> float:
        return 1 / time_pair(file, (3, 32, 32), config, 4.0).speedup.median

    print(f"{arguments.model}, {arguments.threads} thread(s)")
    print(f"{'target':>8}{'plan':>16}{'time':>8}{'MACs':>8}{'top-1':>8}")
    for target in arguments.targets:
        best, _ = fit_latency(prospect, whole, target, time_model, pricing, config, recorder)
        found = [("by the clock", best.planned, measure(best.planned))]
        low, high = 0.02, 1.0
        looks = []
        for _ in range(LOOKS):
            share = (low * high) ** 0.5
            planned = plan_cut(bench.network, assessment, "double", Budget("macs", share * bench.network.cost.macs))
            looks.append(("by MACs", planned, measure(planned)))
            low, high = (share, high) if looks[-1][2] < found[0][2] else (low, share)
        found.append(min(looks, key=lambda look: abs(look[2] - found[0][2])))
        for title, planned, left in found:
            macs = planned.forecast.macs / bench.network.cost.macs
            print(f"{target:8}{title:>16}{left:8.3f}{macs:8.3f}{bench.measure_top1(cut(planned)):8.1f}", flush=True)


if __name__ == "__main__":
    main()
