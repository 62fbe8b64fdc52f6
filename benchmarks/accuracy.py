"""Accuracy at several budgets: every basis and every kind of pruning, in one run.

    python benchmarks/accuracy.py --shared ../shared
    python benchmarks/accuracy.py --shared ../shared --model vgg16_cifar10 --targets 0.5 0.35 0.2 --steps 0

Prints top-1 on the 10,000 test images of CIFAR-10 for basis pruning with the `fisher` and `svd` bases and the published
literal variant (uncentred, b' = b: not an option of the tool, but made of the library's own steps), for channel pruning
with and without compensation, and for both together: first of each what the cut leaves, nothing tuned, then with the
layers re-fitted to the original's outputs as the tool does it (closed form, no labels). Then `--recover scale`, from
the re-fitted layers, at one budget.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto

from onnx_basisprune.assessment import Assessment, BasisKind, Calibration, Prune, assess_network
from onnx_basisprune.budget import Budget, list_removed, plan_cut
from onnx_basisprune.calibration.lessons import RecoverySettings
from onnx_basisprune.calibration.recovery import Distillation
from onnx_basisprune.calibration.student import RecoveryMode
from onnx_basisprune.calibration.teacher import Teacher
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.cutting import cut_network
from onnx_basisprune.graph.head import find_classifier
from onnx_basisprune.graph.model_io import serialize_model
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.graph.rewrite import PairNames, replace_initializers
from onnx_basisprune.hint_tensors import list_hints
from onnx_basisprune.network import Network, read_network
from onnx_basisprune.opening import open_data, open_subject
from onnx_basisprune.planning.types import Plan
from onnx_basisprune.progress import Silence
from onnx_basisprune.refitting import refit_network
from onnx_basisprune.results import RecoveryReport
from onnx_basisprune.runtime.evaluation import evaluate, summarize_accuracy
from onnx_basisprune.runtime.session import Session


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    kind: BasisKind
    prune: Prune
    compensate: bool = True


ROWS = (
    Row("basis, fisher", "fisher", "basis"),
    Row("basis, svd", "svd", "basis"),
    Row("basis, literal", "literal", "basis"),
    Row("channels", "fisher", "channels"),
    Row("channels, no compensation", "fisher", "channels", compensate=False),
    Row("double", "fisher", "double"),
    Row("double, no compensation", "fisher", "double", compensate=False),
)
RECOVERED = ("basis, fisher", "basis, svd", "channels", "double")


_REFITTED = ", re-fitted"
_WIDTH = 36


class Bench:
    """A network with its images."""

    def __init__(self, shared: Path, model: str, limit: int, seed: int) -> None:
        cifar = shared / "data" / "cifar10"
        path = shared / "models" / f"{model}.onnx"
        config = CompressionConfig(model=path, data=cifar / "calib", val=cifar / "test", limit=limit, seed=seed)
        self.seed, self.config = seed, config
        self.subject, self.images, test = open_data(open_subject(path), config, Silence())
        self.test = [(batch.x, batch.y) for batch in test.stream(500)]
        self.network: Network = read_network(normalize_model(self.subject.model), (1, 3, 32, 32), ())
        self.calibration = Calibration(self.subject.head, lambda: self.images.stream(128), len(self.images), seed)
        # The original is asked once for all students.
        self._teachers: dict[tuple[int, RecoveryMode], Teacher] = {}

    def measure_top1(self, content: bytes) -> float:
        """Return top-1 in percent."""

        class Batch:
            def __init__(self, x: object, y: object) -> None:
                self.x, self.y = x, y

        predictions = evaluate(Session(content).predict, [Batch(x, y) for x, y in self.test], self.subject.head.kind)
        return 100 * (summarize_accuracy(predictions).top1 or 0.0)

    def compare_full_rank(self, assessment: Assessment) -> float:
        """Return the largest output difference of the full-rank rewrite, relative to the largest output."""
        plan = Plan({name: np.arange(len(basis.R)) for name, basis in assessment.bases.items()}, {})
        model, _ = cut_network(self.network, assessment, plan)
        x = self.images.load(np.arange(64))
        before, after = (Session(serialize_model(item)).predict(x) for item in (self.subject.model, model))
        return float(np.abs(before - after).max() / np.abs(before).max())

    def refit(self, model: ModelProto, pairs: Mapping[str, PairNames], plan: Plan) -> ModelProto:
        """Re-fit the layers of a cut model."""
        removed = list_removed(self.network, plan).tolist()
        return refit_network(
            self.network, model, pairs, removed, self.calibration, self.images.load, self.config, Silence()
        )

    def recover(
        self,
        model: ModelProto,
        pairs: Mapping[str, PairNames],
        plan: Plan | None,
        steps: int,
        mode: RecoveryMode = "scale",
    ) -> tuple[ModelProto, RecoveryReport]:
        """Tune a cut model on the calibration images; without a plan, by the original's outputs alone."""
        student = extract_program(model)
        teacher = self._find_teacher(steps, mode)
        classifier = find_classifier(student, self.subject.head)
        scaling_weights = {name: names.scaling for name, names in pairs.items()}
        hints = () if plan is None else list_hints(self.network, student, list_removed(self.network, plan).tolist())
        distillation = Distillation(teacher, student, classifier, scaling_weights, hints)
        arrays, report = distillation.recover()
        return replace_initializers(model, arrays), report

    def _find_teacher(self, steps: int, mode: RecoveryMode) -> Teacher:
        """Return what teaches all students of one kind of recovery."""
        if (steps, mode) not in self._teachers:
            settings = RecoverySettings(steps, 128, 128, "shift+flip", "nchw", self.seed, mode=mode)
            images = self.images
            self._teachers[steps, mode] = Teacher(
                self.network.program, self.subject.head, images.load, len(images), settings
            )
        return self._teachers[steps, mode]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", default="resnet20_cifar10", choices=["resnet20_cifar10", "vgg16_cifar10"])
    parser.add_argument("--targets", type=float, nargs="+", default=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--recover-at", type=float, default=0.5, help="the target that is recovered")
    parser.add_argument("--steps", type=int, default=300, help="steps of the recovery; 0 for none")
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], help="only these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="also draw the table as an SVG (needs matplotlib)")
    arguments = parser.parse_args()
    bench = Bench(arguments.shared, arguments.model, arguments.limit, arguments.seed)
    baseline = bench.measure_top1(serialize_model(bench.subject.model))
    print(f"{arguments.model}: {baseline:.2f} %; top-1 in % at MACs kept (counted on the file), nothing tuned")
    print(f"{'':{_WIDTH}}" + "".join(f"{target:>14}" for target in arguments.targets))
    curves: dict[str, list[tuple[float, float]]] = {}
    recovered = []
    for row in (row for row in ROWS if arguments.rows is None or row.name in arguments.rows):
        start = time.perf_counter()
        assessment = assess_network(
            bench.network, bench.calibration, row.kind, row.prune, Silence(), compensate=row.compensate
        )
        seconds = time.perf_counter() - start
        bare, fitted = curves.setdefault(row.name, []), curves.setdefault(f"{row.name}{_REFITTED}", [])
        for target in arguments.targets:
            planned = plan_cut(bench.network, assessment, row.prune, Budget("macs", target * bench.network.cost.macs))
            model, pairs = cut_network(bench.network, assessment, planned.plan)
            kept = planned.forecast.macs / bench.network.cost.macs
            bare.append((kept, bench.measure_top1(serialize_model(model))))
            model = bench.refit(model, pairs, planned.plan)
            fitted.append((kept, bench.measure_top1(serialize_model(model))))
            if target == arguments.recover_at and arguments.steps and row.name in RECOVERED:
                recovered.append((row.name, model, pairs, planned.plan))
        print(f"{row.name:{_WIDTH}}{format_cells(bare)}   [both passes {seconds:.1f} s]")
        print(f"{row.name + _REFITTED:{_WIDTH}}{format_cells(fitted)}", flush=True)
        if row.name == "basis, fisher":
            print(f"  full rank: outputs differ by at most {bench.compare_full_rank(assessment):.1e} of the largest")
    for name, model, pairs, plan in recovered:
        start = time.perf_counter()
        top1 = bench.measure_top1(serialize_model(bench.recover(model, pairs, plan, arguments.steps)[0]))
        print(
            f"{name:{_WIDTH}}{arguments.recover_at} of the MACs, --recover scale, {arguments.steps} steps: "
            f"{top1:.1f} %   [{time.perf_counter() - start:.0f} s]",
            flush=True,
        )
    if arguments.plot:
        draw(arguments.plot, arguments.model, baseline, curves)


def format_cells(curve: list[tuple[float, float]]) -> str:
    """Return one line's figures."""
    return "".join(f"{f'{top1:.1f} ({kept:.3f})':>14}" for kept, top1 in curve)


def draw(path: Path, model: str, baseline: float, curves: dict[str, list[tuple[float, float]]]) -> None:
    """Draw accuracy against the multiply-adds kept."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "basisprune"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    shown = {
        "double, re-fitted": "#cc2f5b",
        "double": "#0b6e4f",
        "basis, fisher": "#1f77b4",
        "basis, svd": "#b35900",
        "basis, literal": "#888888",
    }
    for name, color in shown.items():
        kept, top1 = zip(*curves[name], strict=True)
        axes.plot(kept, top1, "o-", color=color, label=name)
    axes.axhline(baseline, color="black", linewidth=0.8, linestyle=":", label="original")
    axes.set(xlabel="multiply-adds kept", ylabel="top-1 accuracy, %", title=f"{model}, nothing tuned")
    axes.invert_xaxis()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
