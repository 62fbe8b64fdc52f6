"""basisprune beside its peers at equal MACs, in one run.

    python benchmarks/peers.py --shared ../shared
    python benchmarks/peers.py --models resnet20_cifar10 --targets 0.5 --steps 0 --test-images 2000
    pip install torch-pruning==1.6.1 'onnxsim>=0.8.1'

Top-1 on the test images of CIFAR-10, in these columns:

- `cut`: after pruning alone, closed-form compensation included where the row doesn't say otherwise;
- `refit`: after basisprune's closed-form re-fit of the layers that are left, without training;
- `scale`, `full`: after `--steps` steps of basisprune's label-free recovery on the calibration images, from `refit`
  where there is one. `full` trains all weights and is given to the peers' models, too: the same images, steps,
  distillation loss, optimiser, schedule and search for a learning rate. The hints inside the graphs are of basisprune's
  rows alone, since which channels a peer has kept isn't known;
- `own BN`: as many steps in PyTorch with batch normalisation in training mode, as only Torch-Pruning's modules allow.

`--optimizer adam` trains all of them by Adam alone, as most people would recover a peer's model, and as the prototype
did; the learning rate of a weight stays relative to its size.

All methods get the same calibration images with their labels. MACs are those of the ONNX files, all counted by
basisprune's counter, relative to the original's; each method comes as near to the target as its steps allow. Peers that
aren't installed are left out.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from accuracy import ROWS, Bench, Row
from onnx import ModelProto
from recovery import limit_test

from onnx_basisprune.assessment import assess_network
from onnx_basisprune.budget import Budget, plan_cut
from onnx_basisprune.calibration import recovery as library_recovery
from onnx_basisprune.calibration.optimizer import Optimizer
from onnx_basisprune.calibration.student import RecoveryMode
from onnx_basisprune.cutting import cut_network
from onnx_basisprune.graph.cost import measure_cost
from onnx_basisprune.graph.model_io import serialize_model
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.graph.rewrite import PairNames
from onnx_basisprune.planning.types import Plan
from onnx_basisprune.progress import Silence
from onnx_basisprune.runtime.session import Session

MODELS = ("resnet20_cifar10", "vgg16_cifar10")
PEERS = {"basisprune": "onnx_basisprune", "torch-pruning": "torch_pruning", "onnxsim": "onnxsim.pruning"}
VERSIONS = {"torch-pruning": "torch-pruning==1.6.1", "onnxsim": "onnxsim>=0.8.1"}
OWN = {row.name: row for row in ROWS if row.kind == "fisher"}
PROBE = 256
STAGES = ("cut", "refit", "scale", "full", "own BN")
# What should be at least as accurate as what.
ORDER = (
    ("double", "basis, fisher"),
    ("double", "channels"),
    ("double", "double, no compensation"),
    ("channels", "channels, no compensation"),
)


@dataclass(frozen=True)
class Result:
    """One method at one target: share of the MACs, and top-1 in percent after each stage that the method has."""

    method: str
    target: float
    kept: float
    stages: dict[str, float]


class AdamAlone(Optimizer):
    """The library's optimiser without its own treatment of matrices."""

    def __init__(self, changes: Mapping[str, torch.Tensor], _matrices: Collection[str]) -> None:
        """Leave all weights to Adam."""
        super().__init__(changes, ())


@dataclass(frozen=True)
class Recovery:
    """How long to train, and what."""

    steps: int
    modes: tuple[RecoveryMode, ...]

    def for_peers(self) -> Recovery:
        """Return the same without `scale`: what it trains are basisprune's own factors."""
        return Recovery(self.steps, tuple(mode for mode in self.modes if mode == "full"))


def main() -> None:
    """Print a table for each model."""
    arguments = parse_arguments()
    if arguments.optimizer == "adam":
        library_recovery.Optimizer = AdamAlone  # type: ignore[misc]
    runners = {**RUNNERS, "basisprune": partial(run_basisprune, rows=arguments.rows)}
    for model in arguments.models:
        recovery = Recovery(arguments.steps, tuple(arguments.modes))
        bench = Bench(arguments.shared, model, arguments.images, arguments.seed)
        limit_test(bench, arguments.test_images)
        baseline = bench.measure_top1(serialize_model(bench.subject.model))
        results: list[Result] = []
        notes: list[str] = []
        for peer in arguments.peers:
            if not is_installed(PEERS[peer]):
                notes.append(f"{peer}: not installed: pip install '{VERSIONS[peer]}'")
                continue
            for result in runners[peer](bench, model, arguments.targets, recovery):
                report_progress(result)
                results.append(result)
        images = sum(len(x) for x, _ in bench.test)
        print(f"\n{model}: {baseline:.1f} %; top-1 in % on {images:,} images; MACs as counted")
        print("\n".join(format_table(results, arguments.targets, markdown=arguments.markdown) + notes), flush=True)
        print("\n".join(list_defeats(results)), flush=True)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.5, 0.35, 0.2], help="shares of the MACs")
    parser.add_argument("--steps", type=int, default=300, help="steps of the recovery; 0 for none")
    parser.add_argument("--modes", nargs="+", default=["scale", "full"], choices=["scale", "full"], help="recoveries")
    parser.add_argument("--optimizer", default="own", choices=["own", "adam"], help="all methods' in the recovery")
    parser.add_argument("--images", type=int, default=2000, help="calibration images")
    parser.add_argument("--test-images", type=int, default=10000, help="random test images")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--rows", nargs="+", default=list(OWN), choices=OWN, help="basisprune's own, only these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    arguments = parser.parse_args()
    arguments.targets.sort(reverse=True)
    return arguments


def is_installed(module: str) -> bool:
    """Return whether a module can be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it would be in is missing
        return False


def measure_kept(bench: Bench, model: ModelProto) -> float:
    """Return which share of the original's MACs a model has."""
    return measure_cost(model, bench.network.input_shapes).macs / bench.network.cost.macs


def run_basisprune(
    bench: Bench, _model: str, targets: list[float], recovery: Recovery, rows: list[str]
) -> Iterator[Result]:
    """Cut with the library's own kinds of pruning."""
    for row in rows:
        yield from run_row(bench, OWN[row], targets, recovery)


def run_row(bench: Bench, row: Row, targets: list[float], recovery: Recovery) -> Iterator[Result]:
    """Cut with one kind of pruning, each time from the same two passes over the images."""
    assessment = assess_network(
        bench.network, bench.calibration, row.kind, row.prune, Silence(), compensate=row.compensate
    )
    for target in targets:
        planned = plan_cut(bench.network, assessment, row.prune, Budget("macs", target * bench.network.cost.macs))
        model, pairs = cut_network(bench.network, assessment, planned.plan)
        stages = {"cut": bench.measure_top1(serialize_model(model))}
        model = bench.refit(model, pairs, planned.plan)
        stages["refit"] = bench.measure_top1(serialize_model(model))
        stages |= tune_model(bench, model, pairs, planned.plan, recovery)
        yield Result(f"basisprune {row.name}", target, measure_kept(bench, model), stages)


def tune_model(
    bench: Bench, model: ModelProto, pairs: dict[str, PairNames], plan: Plan | None, recovery: Recovery
) -> dict[str, float]:
    """Return top-1 after each recovery of a model, with hints where there is a plan."""
    stages: dict[str, float] = {}
    for mode in recovery.modes if recovery.steps else ():
        tuned, _ = bench.recover(model, pairs, plan, recovery.steps, mode)
        stages[mode] = bench.measure_top1(serialize_model(tuned))
    return stages


def run_torch_pruning(bench: Bench, model: str, targets: list[float], recovery: Recovery) -> Iterator[Result]:
    """Cut with Torch-Pruning, with batch-norm statistics as they were and re-estimated."""
    from peers_networks import export_module, load_module
    from peers_torch_pruning import Images, count_macs, distill, has_stream, reestimate_statistics, walk_down

    x, y = bench.images.load(np.arange(len(bench.images))), bench.images.dataset.labels
    assert y is not None, "the calibration images have class folders"
    logits = Session(serialize_model(bench.subject.model)).predict(x[:PROBE])
    images = Images(torch.from_numpy(x), torch.from_numpy(y))
    teacher = load_module(model, bench.network.program, images.x, logits)
    for keep_stream in (False, True) if has_stream(teacher) else (False,):
        method = f"Torch-Pruning {version('torch-pruning')}" + (", inner channels" if keep_stream else "")
        student, whole = copy.deepcopy(teacher), bench.network.cost.macs
        for target, pruned in walk_down(student, images, targets, whole, keep_stream=keep_stream):
            exported = export_module(pruned)
            kept = measure_kept(bench, exported)
            assert kept == count_macs(pruned) / whole, "the counters differ"
            fresh = reestimate_statistics(pruned, images.x)
            own = {}
            if recovery.steps and "full" in recovery.modes:
                trained = distill(teacher, fresh, images.x, bench.subject.head, recovery.steps, bench.seed)
                own["own BN"] = bench.measure_top1(serialize_model(export_module(trained)))
            for suffix, content in (("", exported), (", re-estimated", export_module(fresh))):
                stages = {"cut": bench.measure_top1(serialize_model(content))}
                stages |= tune_model(bench, content, {}, None, recovery.for_peers()) | own
                yield Result(method + suffix, target, kept, stages)


def run_onnxsim(bench: Bench, _model: str, targets: list[float], recovery: Recovery) -> Iterator[Result]:
    """Cut with onnxsim."""
    from peers_onnxsim import prune_model

    x = bench.images.load(np.arange(len(bench.images)))
    for target in targets:
        model = prune_model(bench.subject.model, x, target, lambda item: measure_kept(bench, item))
        stages = {"cut": bench.measure_top1(serialize_model(model))}
        stages |= tune_model(bench, normalize_model(model), {}, None, recovery.for_peers())
        yield Result(f"onnxsim {version('onnxsim')} structured Wanda", target, measure_kept(bench, model), stages)


RUNNERS = {"torch-pruning": run_torch_pruning, "onnxsim": run_onnxsim}


def report_progress(result: Result) -> None:
    """Print a result as it comes, where it doesn't disturb the table."""
    stages = ", ".join(f"{name} {top1:.1f}" for name, top1 in result.stages.items())
    line = f"{time.strftime('%H:%M:%S')} {result.method}, {result.target:g} ({result.kept:.3f}): {stages}"
    print(line, file=sys.stderr, flush=True)


def format_table(results: list[Result], targets: list[float], *, markdown: bool) -> list[str]:
    """Return the lines of an aligned table, one line per method."""
    cells = {(item.method, item.target): item for item in results}
    used = [stage for stage in STAGES if any(stage in item.stages for item in results)]
    head = ["method", *(title for target in targets for title in (f"MACs {target:g}", *used))]
    rows = [
        [name, *(cell for target in targets for cell in format_cells(cells[name, target], used))]
        for name in dict.fromkeys(item.method for item in results)
    ]
    rows.insert(0, head)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        for row in rows
    ]
    if not markdown:
        return ["  ".join(line) for line in lines]
    rule = ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return [f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]]]


def format_cells(result: Result, stages: list[str]) -> list[str]:
    """Return the cells of a method at a target."""
    return [f"{result.kept:.3f}", *(f"{result.stages[name]:.1f}" if name in result.stages else "-" for name in stages)]


def list_defeats(results: list[Result]) -> list[str]:
    """Return where `double` is less accurate than its parts, or compensation worse than none."""
    cells = {(item.method, item.target): item.stages for item in results}
    lines = []
    for better, worse in ORDER:
        for target in sorted({item.target for item in results}, reverse=True):
            ours, theirs = (cells.get((f"basisprune {name}", target), {}) for name in (better, worse))
            lines += [
                f"at {target:g}, {stage}: {better} {ours[stage]:.2f} < {worse} {theirs[stage]:.2f}"
                for stage in STAGES
                if stage in ours and stage in theirs and ours[stage] < theirs[stage]
            ]
    return lines


if __name__ == "__main__":
    main()
