"""ResNet-20 on CIFAR-10 at several budgets: fisher and svd beside the published literal variant.

    python benchmarks/accuracy.py --shared ../shared

Prints top-1 on the 10,000 test images, basis pruning only, nothing tuned, then `--recover scale`, in one run. The
literal variant (uncentred, b' = b) isn't an option of the tool; it is computed here with the library's own steps.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from onnx_basisprune.calibration.recovery import Distillation, RecoverySettings
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.decomposition import BasisKind, find_bases, plan_ranks, read_network, rewrite_network
from onnx_basisprune.graph.cost import measure_cost
from onnx_basisprune.graph.head import find_classifier
from onnx_basisprune.graph.model_io import serialize_model
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.graph.rewrite import replace_initializers
from onnx_basisprune.opening import Images, open_data, open_subject
from onnx_basisprune.progress import Silence
from onnx_basisprune.runtime.evaluation import evaluate, summarize_accuracy
from onnx_basisprune.runtime.session import Session

KINDS: tuple[BasisKind, ...] = ("fisher", "svd", "literal")


def measure_top1(content: bytes, head_kind: str, images: Images) -> float:
    """Return top-1 in percent."""
    predictions = evaluate(Session(content).predict, images.stream(500), head_kind)
    return 100 * (summarize_accuracy(predictions).top1 or 0.0)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", default="resnet20_cifar10.onnx")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=300, help="steps of the recovery at 0.5; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cifar = arguments.shared / "data" / "cifar10"
    config = CompressionConfig(
        model=arguments.shared / "models" / arguments.model,
        data=cifar / "calib",
        val=cifar / "test",
        limit=arguments.limit,
        seed=arguments.seed,
    )
    subject, calibration, test = open_data(open_subject(config.model), config, Silence())
    normalized = normalize_model(subject.model)
    network = read_network(subject.model, normalized, (1, 3, 32, 32), ())
    print(f"original: {measure_top1(serialize_model(subject.model), subject.head.kind, test):.2f} %")
    print(f"full rank, largest difference of outputs: {compare_full_rank(network, subject, calibration):.2e} relative")
    print("top-1 in % on the test images, nothing tuned (counted MACs kept in brackets)")
    recovered = []
    for kind in KINDS:
        start = time.perf_counter()
        bases, scores = find_bases(
            network, subject.head, kind, lambda: calibration.stream(128), len(calibration), config.seed, Silence()
        )
        seconds = time.perf_counter() - start
        cells = []
        for target in arguments.targets:
            allocation = plan_ranks(network, scores, "macs", target)
            model, pairs = rewrite_network(network, bases, allocation.plan)
            kept = measure_cost(model).macs / network.cost.macs
            cells.append(f"{measure_top1(serialize_model(model), subject.head.kind, test):.1f} ({kept:.3f})")
            if target == 0.5 and arguments.steps:
                recovered.append((kind, model, pairs))
        print(f"{kind:8} {'  '.join(cells)}   [both passes {seconds:.1f} s]", flush=True)
    for kind, model, pairs in recovered:
        student = extract_program(model)
        settings = RecoverySettings(arguments.steps, 128, 128, "shift+flip", "nchw", config.seed)
        weights = {name: names.scaling for name, names in pairs.items()}
        start = time.perf_counter()
        arrays, _ = Distillation(
            network.program, student, subject.head, find_classifier(student, subject.head), weights,
            calibration.load, len(calibration), settings,
        ).recover()  # fmt: skip
        tuned = serialize_model(replace_initializers(model, arrays))
        print(
            f"{kind:8} 0.5, --recover scale, {arguments.steps} steps: "
            f"{measure_top1(tuned, subject.head.kind, test):.1f} %   [{time.perf_counter() - start:.0f} s]",
            flush=True,
        )


def compare_full_rank(network, subject, calibration) -> float:  # type: ignore[no-untyped-def]
    """Return the largest output difference of the full-rank rewrite, relative to the largest output."""
    from onnx_basisprune.planning.types import Plan

    bases, _ = find_bases(
        network, subject.head, "fisher", lambda: calibration.stream(128), len(calibration), 0, Silence()
    )
    plan = Plan({name: np.arange(len(basis.R)) for name, basis in bases.items()})
    model, _ = rewrite_network(network, bases, plan)
    x = calibration.load(np.arange(64))
    before, after = (Session(serialize_model(item)).predict(x) for item in (subject.model, model))
    return float(np.abs(before - after).max() / np.abs(before).max())


if __name__ == "__main__":
    main()
