"""Channel removal on every classification architecture of torchvision, as both PyTorch exporters write it.

    python benchmarks/coverage.py
    python benchmarks/coverage.py --models resnet18 swin_t --exporters dynamo
    python benchmarks/coverage.py --max-parameters 100 --results coverage.jsonl

Needs torchvision (and onnxscript for the newer exporter). Weights are random, BatchNorm statistics are those of random
images, then jittered, so that no channel is as good as another. For each model and exporter, in a fresh process:

- the tool: `compress` to half of the MACs with `--prune double` and with `--prune channels` must reach the target; what
  it writes is counted, loaded and run with batch 1 and 3;
- equivalence: 40 % of the channels of every free group go at once; onnxruntime's output of the pruned model must equal
  that of the original with these channels set to zero wherever they are read, within 1e-4 of the largest value, at
  batch 1 and 3, and must differ from the original's;
- blocked channels, by reason.

With `--results` each line is kept in a file, and what is in it already isn't run again. The exit code is 1 if any model
fails.
"""

from __future__ import annotations

import argparse
import collections
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from coverage_pipeline import TARGET, compress_model
from onnx import ModelProto
from torchvision_networks import (
    EXPORTERS,
    build_network,
    choose_size,
    count_parameters,
    export_network,
    list_architectures,
)

from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.graph.cost import measure_cost
from onnx_basisprune.graph.dependency import ChannelMap, DependencyGroup, map_channels
from onnx_basisprune.graph.model_io import load_model, save_model
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.graph.surgery import find_unfit_groups, remove_channels
from onnx_basisprune.planning.types import Operation, Program
from onnx_basisprune.runtime.session import Session

TOLERANCE = 1e-4
SHARE = 0.4
# Below this the removed channels would not matter, and equality would show nothing.
SMALLEST_EFFECT = 100 * TOLERANCE


def run_model(model: ModelProto, x: np.ndarray) -> np.ndarray:
    """Return the first output in onnxruntime."""
    with tempfile.TemporaryDirectory() as folder:
        session = Session(save_model(model, Path(folder, "model.onnx"))[0], threads=1)
        return session.run({session.inputs[0].name: x})[0]


def run_gated(program: Program, channel_map: ChannelMap, removed: Sequence[int], x: np.ndarray) -> np.ndarray:
    """Return the first output with the removed channels set to zero at every read."""
    reads = {(read.node, read.input_index): read for read in channel_map.reads}

    def gate(operation: Operation, index: int, tensor: torch.Tensor) -> torch.Tensor:
        read = reads.get((operation.name, index))
        if read is None:
            return tensor
        shape = [1] * tensor.ndim
        shape[read.axis] = -1
        return tensor * torch.from_numpy(~np.isin(read.labels, removed)).to(tensor.dtype).view(shape)

    name = program.outputs[0].name
    with torch.no_grad():
        values = Executor(program).run({program.inputs[0].name: torch.from_numpy(x)}, [name], alias=gate)
    result: np.ndarray = values[name].numpy()
    return result


def check_equivalence(model: ModelProto, channel_map: ChannelMap, groups: list[DependencyGroup], size: int) -> dict:
    """Return the largest error at batch 1 and 3, and how much the removal changes the output, both relative."""
    rng = np.random.default_rng(0)
    removed = [
        int(channel)
        for group in groups
        for channel in rng.permutation(group.channels)[: max(1, int(SHARE * len(group.channels)))]
    ]
    pruned = remove_channels(model, channel_map, removed)
    program, error, effect = extract_program(model), 0.0, np.inf
    for batch in (1, 3):
        x = rng.standard_normal((batch, 3, size, size)).astype(np.float32)
        expected, found = run_gated(program, channel_map, removed, x), run_model(pruned, x)
        original = run_gated(program, channel_map, [], x)
        scale = float(np.abs(expected).max())
        assert found.shape == expected.shape
        error = max(error, float(np.abs(found - expected).max()) / scale)
        effect = min(effect, float(np.abs(original - expected).max()) / scale)
    return {"error": error, "effect": effect}


def find_reach(model: ModelProto, channel_map: ChannelMap, groups: list[DependencyGroup], size: int) -> float:
    """Return the share of the MACs that is left once it is at most the target, or as small as it gets.

    Channels go in random order; each group keeps one. The pruned model is run.
    """
    rng = np.random.default_rng(1)
    order = rng.permutation(np.concatenate([rng.permutation(group.channels)[1:] for group in groups]))
    cost = measure_cost(model)
    assert not cost.uncounted_ops, f"not counted: {', '.join(cost.uncounted_ops)}"
    before = cost.macs
    low, high = 0, len(order)
    best, share = model, 1.0
    while high - low > max(1, len(order) // 64):
        # The first step removes all: it tells whether the target can be met.
        middle = high if best is model and low == 0 else (low + high) // 2
        pruned = remove_channels(model, channel_map, order[:middle].tolist())
        left = measure_cost(pruned).macs / before
        if middle == high and left > TARGET:
            best, share = pruned, left
            break
        if left <= TARGET:
            best, share, high = pruned, left, middle
        else:
            low = middle
    for batch in (1, 3):
        result = run_model(best, rng.standard_normal((batch, 3, size, size)).astype(np.float32))
        assert len(result) == batch
    return share


def describe_channels(model: ModelProto) -> tuple[ChannelMap, list[DependencyGroup], dict[str, Any]]:
    """Return a model's channels, the groups that may lose some, and what a line says of them."""
    channel_map = map_channels(model)
    unfit = find_unfit_groups(model, channel_map)
    free = [g for g in channel_map.groups if not g.blocked_by and g.name not in unfit and len(g.channels) > 1]
    blocked: collections.Counter[str] = collections.Counter()
    for group in channel_map.groups:
        reason = group.blocked_by or unfit.get(group.name, "")
        if reason:
            blocked[shorten_reason(reason)] += len(group.channels)
    result = {
        "groups": len(free),
        "free": sum(len(group.channels) for group in free),
        "unfit": len(unfit),
        "blocked": dict(blocked.most_common()),
    }
    return channel_map, free, result


def write_model(name: str, size: int, exporter: str, path: Path) -> None:
    """Export an architecture with random weights."""
    export_network(build_network(name, size), size, exporter, path)


def check_model(name: str, exporter: str, folder: Path) -> dict[str, Any]:
    """Return what one line says."""
    size = choose_size(name)
    # The newer exporter doesn't give back what it took, which is several times the weights.
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        apart.submit(write_model, name, size, exporter, folder / "model.onnx").result()
    shares = compress_model(folder / "model.onnx", size)
    model = normalize_model(load_model(folder / "model.onnx"))
    channel_map, free, found = describe_channels(model)
    result = found | {
        "shares": shares,
        "reach": max(shares.values()),
    }
    return result | (check_equivalence(model, channel_map, free, size) if free else {})


def shorten_reason(reason: str) -> str:
    """Return a blocking reason without the names of nodes, so that reasons can be counted."""
    head, colon, tail = reason.partition(": ")
    return f"{head.split()[0]}{colon}{tail}" if colon else " ".join(w for w in reason.split() if "/" not in w)


def judge(result: dict[str, Any]) -> str:
    """Return `ok`, or what fails."""
    if "failure" in result:
        return str(result["failure"])
    if "error" not in result:
        return "no free channel"
    faults = []
    if not result["error"] <= TOLERANCE:
        faults.append("not equivalent")
    if not result["effect"] >= SMALLEST_EFFECT:
        faults.append("removal shows no effect")
    if not result["reach"] <= TARGET:
        faults.append("MACs")
    if result["unfit"]:
        faults.append(f"{result['unfit']} groups can't be removed")
    return ", ".join(faults) or "ok"


def check_apart(name: str, exporter: str, timeout: int) -> dict[str, Any]:
    """Check one model in a fresh process."""
    command = [sys.executable, __file__, "--check", name, exporter]
    start = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"failure": f"took longer than {timeout} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        last = lines[-1] if lines else f"exit code {done.returncode}"
        return {"failure": last, "trace": "\n".join(lines[-30:])}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result | {"seconds": round(time.monotonic() - start)}


def read_results(path: Path | None) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what earlier runs have found, by architecture and exporter."""
    if path is None or not path.exists():
        return {}
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(item["model"], item["exporter"]): item for item in found}


def print_line(name: str, exporter: str, result: dict[str, Any]) -> None:
    """Print what was found for one model."""
    line = f"{name:20} {exporter:7} "
    if "error" in result:
        line += (
            f"error {result['error']:.0e} effect {result['effect']:.0e} MACs {result['reach']:.3f} "
            f"free {result['free']:6} in {result['groups']:4} groups, blocked {sum(result['blocked'].values()):6} "
        )
    print(line + judge(result), flush=True)


def print_summary(results: dict[tuple[str, str], dict[str, Any]], skipped: Sequence[tuple[str, str]]) -> None:
    """Print how many models pass, what is blocked, and what wasn't run."""
    print()
    for exporter in EXPORTERS:
        found = [judge(result) for (_, used), result in results.items() if used == exporter]
        if found:
            print(f"{exporter}: {found.count('ok')} of {len(found)} architectures pass")
    blocked: collections.Counter[str] = collections.Counter()
    affected: collections.Counter[str] = collections.Counter()
    for result in results.values():
        blocked.update(result.get("blocked", {}))
        affected.update(result.get("blocked", {}).keys())
    print("Blocked channels, by reason, and the models that have them:")
    for reason, count in blocked.most_common():
        print(f"{count:8} {affected[reason]:4} {reason}")
    if skipped:
        print("Not run, too large:", ", ".join(f"{name} ({exporter})" for name, exporter in skipped))


def main() -> None:
    """Print a line for each model and a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="Architectures; by default all, the smallest first.")
    parser.add_argument("--exporters", nargs="+", choices=EXPORTERS, default=list(EXPORTERS))
    parser.add_argument(
        "--max-parameters", type=float, default=np.inf, help="In millions; larger ones are listed only."
    )
    parser.add_argument("--timeout", type=int, default=3600, help="Seconds per model and exporter.")
    parser.add_argument("--results", type=Path, help="JSON lines: what is there isn't run again, the rest is added.")
    parser.add_argument("--check", nargs=2, metavar=("MODEL", "EXPORTER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.check:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(check_model(*arguments.check, Path(folder))))
        return
    sizes = {name: count_parameters(name) for name in arguments.models or list_architectures()}
    wanted = [
        (name, exporter) for name in sorted(sizes, key=lambda name: sizes[name]) for exporter in arguments.exporters
    ]
    skipped = [item for item in wanted if sizes[item[0]] > arguments.max_parameters]
    earlier = read_results(arguments.results)
    results: dict[tuple[str, str], dict[str, Any]] = {}
    for name, exporter in (item for item in wanted if item not in skipped):
        result = earlier.get((name, exporter))
        if result is None:
            result = check_apart(name, exporter, arguments.timeout)
            if arguments.results is not None:
                with arguments.results.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps({"model": name, "exporter": exporter, **result}) + "\n")
        results[name, exporter] = result
        print_line(name, exporter, result)
    print_summary(results, skipped)
    sys.exit(any(judge(result) != "ok" for result in results.values()))


if __name__ == "__main__":
    main()
