"""The trade-off of a real model: `compress --frontier`, judged on images that calibration doesn't see.

    python benchmarks/frontier.py
    python benchmarks/frontier.py --model resnet20_cifar10 --unit macs --target 0.5 --limit 5000

A row is one size: what is left of multiply-adds, parameters and time, the speed-up and the drop in top-1, both with
their 95 % intervals. All are of one run, from one set of statistics. EfficientNet-Lite0 has 500 images to calibrate on,
each of another class, and is judged on 500 of the other classes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from max_drop import describe_drop, describe_speedup, split_data

import onnx_basisprune as bp
from onnx_basisprune.results import FrontierPoint

HEADINGS = ("", "MACs", "params", "speed-up", "top-1 %", "drop pp", "recovered")
WIDTHS = (7, 6, 6, 19, 7, 22, 9)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = ["efficientnet_lite0_imagenet", "resnet20_cifar10", "vgg16_cifar10", "vgg16_mnist"]
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", default=models[0], choices=models)
    parser.add_argument("--unit", default="latency", choices=["latency", "macs", "params"])
    parser.add_argument("--target", type=float, default=0.8, help="what the model that is written keeps")
    parser.add_argument("--recover", default="full", choices=["none", "scale", "full"])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--limit", type=int, default=1000, help="most calibration images")
    parser.add_argument("--minutes", type=float, default=30.0, help="time limit")
    parser.add_argument("--threads", type=int, help="onnxruntime's threads for every latency")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, val, labels = split_images(arguments.model, arguments.shared / "data", Path(folder))
        report = bp.compress(
            arguments.shared / "models" / f"{arguments.model}.onnx",
            data=data,
            val=val,
            labels=labels,
            output=Path(folder) / "small.onnx",
            recover=arguments.recover,
            recover_steps=arguments.steps,
            limit=arguments.limit,
            threads=arguments.threads,
            time_limit=60 * arguments.minutes,
            frontier=True,
            allow_slower=arguments.unit == "params",
            **{f"target_{arguments.unit}": arguments.target},
        )
    print_row(HEADINGS)
    for point in report.frontier:
        print_row(describe_point(report, point))


def split_images(model: str, data: Path, folder: Path) -> tuple[Path, Path, Path | None]:
    """Return where a model's calibration images are, where those to judge on, and the classes of their folders."""
    if model != "efficientnet_lite0_imagenet":
        return *split_data(model, data, folder)[:2], None
    classes = sorted((data / "imagenet1k_sample").iterdir())
    halves, labels = (folder / "calib", folder / "judged"), folder / "labels.json"
    for start, half in enumerate(halves):
        half.mkdir()
        for source in classes[start::2]:
            shutil.copytree(source, half / source.name)
    labels.write_text(json.dumps({source.name: index for index, source in enumerate(classes)}))
    return *halves, labels


def describe_point(report: bp.CompressionReport, point: FrontierPoint) -> tuple[object, ...]:
    """Return the cells of a row."""
    return (
        "written" if point.chosen else "",
        f"{point.macs / report.original.macs:.3f}",
        f"{point.parameters / report.original.parameters:.3f}",
        describe_speedup(point.speedup),
        f"{100 * (point.accuracy.top1 or 0):.1f}",
        describe_drop(point.drop_pp),
        point.recovered,
    )


def print_row(cells: tuple[object, ...]) -> None:
    """Print one line of the table."""
    print("  ".join(f"{cell!s:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True)), flush=True)


if __name__ == "__main__":
    main()
