"""What a bound of one point buys: the search of `compress --max-drop`, judged on images that it has never seen.

    python benchmarks/max_drop.py
    python benchmarks/max_drop.py --rows resnet20-macs --seeds 0 1 2 3 4
    python benchmarks/max_drop.py --list

Half of each test set (every second image of a class) is given as `--val`; the other half judges what came out. A row
is one run of the library function: what is left of multiply-adds, parameters and time, and the drop in top-1 as the
report claims it and on the unseen half, both with their 95 % intervals. Several seeds end with their median and spread.
The exit code is 1 if a drop on the unseen half is over the bound.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
import time
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import onnx_basisprune as bp
from onnx_basisprune.results import Interval, Speedup

BOUND = 1.0


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        model: File in `models/`, without its ending.
        options: Of `compress`.
    """

    model: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        macs: Fraction left.
        parameters: Fraction left.
        speedup: Old time divided by new; NaN where none was measured.
        drop: In percentage points, on the unseen half.
        minutes: What it took.
    """

    macs: float
    parameters: float
    speedup: float
    drop: float
    minutes: float


ROWS = {
    "vgg16-params": Row(
        "vgg16_cifar10",
        {
            "minimize": "params",
            "recover": "full",
            "augment": "shift+flip",
            "limit": 5000,
            "recover_steps": 600,
            "allow_slower": True,
            "time_limit": 25 * 60.0,
        },
    ),
    "vgg16-latency": Row(
        "vgg16_cifar10",
        {
            "minimize": "latency",
            "recover": "full",
            "augment": "shift+flip",
            "limit": 5000,
            "recover_steps": 1200,
            "time_limit": 25 * 60.0,
        },
    ),
    "mnist-params": Row(
        "vgg16_mnist",
        {
            "minimize": "params",
            "recover": "full",
            "limit": 5000,
            "recover_steps": 1200,
            "allow_slower": True,
            "time_limit": 25 * 60.0,
        },
    ),
    "resnet20-macs": Row(
        "resnet20_cifar10",
        {"minimize": "macs", "recover": "full", "augment": "shift+flip", "limit": 5000, "recover_steps": 1200},
    ),
    "resnet20-latency": Row(
        "resnet20_cifar10",
        {"minimize": "latency", "recover": "full", "augment": "shift+flip", "limit": 5000, "recover_steps": 1200},
    ),
}
HEADINGS = ("row", "seed", "MACs", "params", "speed-up", "top-1 %", "claimed drop pp", "unseen drop pp", "looks", "min")
WIDTHS = (16, 4, 6, 6, 19, 15, 22, 22, 5, 5)


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, help="onnxruntime's threads for every latency")
    parser.add_argument("--list", action="store_true", help="print the options of each row and stop")
    arguments = parser.parse_args()
    if arguments.list:
        for name, row in ROWS.items():
            print(f"{name:16}  {row.model}  {row.options}")
        return
    print_row(HEADINGS)
    drops: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.rows:
            outcomes = [
                run_row(name, seed, arguments.threads, arguments.shared, Path(folder)) for seed in arguments.seeds
            ]
            if len(outcomes) > 1:
                print_spread(name, outcomes)
            drops += [outcome.drop for outcome in outcomes]
    sys.exit(max(drops) > BOUND)


def run_row(name: str, seed: int, threads: int | None, shared: Path, folder: Path) -> Outcome:
    """Compress as a row says, and print what came of it."""
    row = ROWS[name]
    model = shared / "models" / f"{row.model}.onnx"
    data, val, unseen = split_data(row.model, shared / "data", folder)
    output = folder / f"{name}-{seed}.onnx"
    start = time.perf_counter()
    report = bp.compress(
        model, data=data, val=val, output=output, max_drop=BOUND, seed=seed, threads=threads, force=True, **row.options
    )
    minutes = (time.perf_counter() - start) / 60
    result = bp.evaluate_model(output, unseen, reference=model)
    drop, reference, search = result.drop_pp, result.reference, report.search
    assert drop is not None
    assert reference is not None
    assert search is not None
    macs = report.compressed.macs / report.original.macs
    parameters = report.compressed.parameters / report.original.parameters
    print_row(
        (
            name,
            seed,
            f"{macs:.3f}",
            f"{parameters:.4f}",
            describe_speedup(report.speedup),
            f"{100 * (reference.top1 or 0):.2f} -> {100 * (result.accuracy.top1 or 0):.2f}",
            describe_drop(report.drop_pp),
            describe_drop(drop),
            len(search.looks),
            f"{minutes:.1f}",
        )
    )
    speedup = math.nan if report.speedup is None else report.speedup.median
    return Outcome(macs, parameters, speedup, drop.estimate, minutes)


def print_spread(name: str, outcomes: list[Outcome]) -> None:
    """Print the median, and between what the seeds are."""
    columns = np.array([astuple(outcome) for outcome in outcomes])
    formats = (".3f", ".4f", ".2f", ".2f", ".0f")
    macs, parameters, speedup, drop, minutes = (
        f"{np.median(column):{shown}} ({column.min():{shown}}..{column.max():{shown}})"
        for column, shown in zip(columns.T, formats, strict=True)
    )
    print(
        f"{name:>16}, median and spread of {len(outcomes)} seeds: MACs {macs}, params {parameters}, "
        f"speed-up {speedup}, unseen drop {drop} pp, {minutes} min",
        flush=True,
    )


def split_data(model: str, data: Path, folder: Path) -> tuple[Path, Path, Path]:
    """Return where a model's calibration images are, and the two halves of its test images."""
    if model == "vgg16_mnist":
        halves = folder / "mnist_val.npz", folder / "mnist_unseen.npz"
        with np.load(data / "mnist_test.npz") as stored:
            for start, path in enumerate(halves):
                np.savez(path, x=stored["x"][start::2], y=stored["y"][start::2])
        return data / "mnist_calib.npz", *halves
    halves = folder / "cifar10_val", folder / "cifar10_unseen"
    if not halves[0].exists():
        for source in sorted((data / "cifar10" / "test").iterdir()):
            for start, path in enumerate(halves):
                (path / source.name).mkdir(parents=True)
                for image in sorted(source.iterdir())[start::2]:
                    shutil.copy(image, path / source.name)
    return data / "cifar10" / "calib", *halves


def describe_speedup(speedup: Speedup | None) -> str:
    """Return a measured speed-up with its interval."""
    return "-" if speedup is None else f"{speedup.median:.2f} ({speedup.low:.2f}..{speedup.high:.2f})"


def describe_drop(drop: Interval | None) -> str:
    """Return a drop with its interval, in percentage points."""
    return "-" if drop is None else f"{drop.estimate:.2f} ({drop.low:.2f}..{drop.high:.2f})"


def print_row(cells: tuple[object, ...]) -> None:
    """Print one line of the table."""
    print("  ".join(f"{cell!s:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True)), flush=True)


if __name__ == "__main__":
    main()
