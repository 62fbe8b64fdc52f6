"""Channel removal on every classification architecture of torchvision, as both PyTorch exporters write it.

    python benchmarks/coverage.py
    python benchmarks/coverage.py --models resnet18 swin_t --exporters dynamo
    python benchmarks/coverage.py --max-parameters 100

Needs torchvision (and onnxscript for the newer exporter). Weights are random, BatchNorm statistics are those of random
images, then jittered, so that no channel is as good as another. For each model and exporter, in a fresh process:

- equivalence: 40 % of the channels of every free group go at once; onnxruntime's output of the pruned model must equal
  that of the original with these channels set to zero wherever they are read, within 1e-4 of the largest value, at
  batch 1 and 3, and must differ from the original's;
- reach: the smallest share of the MACs that random channels leave, at least 0.5 wanted; that model must run, too;
- blocked channels, by reason.

The exit code is 1 if any model fails.
"""

from __future__ import annotations

import argparse
import collections
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import ModelProto

from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.graph.cost import measure_cost
from onnx_basisprune.graph.dependency import ChannelMap, DependencyGroup, map_channels
from onnx_basisprune.graph.model_io import load_model
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.graph.surgery import find_unfit_groups, remove_channels
from onnx_basisprune.planning.types import Operation, Program

EXPORTERS = ("legacy", "dynamo")
TOLERANCE = 1e-4
SHARE = 0.4
TARGET = 0.5
# Smaller images are quicker. These have a position embedding or window of fixed size, or a pool that the older exporter
# writes only where sizes divide.
NATIVE_SIZES = {"vit_": 224, "swin": 224, "maxvit": 224, "vgg": 224, "alexnet": 224}
SIZE = 96
LARGEST_FILE = 2**31  # of protobuf
# Below this the removed channels would not matter, and equality would show nothing.
SMALLEST_EFFECT = 100 * TOLERANCE

# Operators stay declared as long as their library lives.
DECLARATIONS: list[torch.library.Library] = []


def import_models() -> Any:
    """Return `torchvision.models`.

    The wheels on the package index are built for CUDA; beside a CPU build of PyTorch their compiled operators don't
    load, and torchvision fails to register shapes for them. The models need none of them, so declarations do.
    """
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        DECLARATIONS.append(library)
        for name in [item for item in sys.modules if item.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torchvision
    return torchvision.models


def list_architectures() -> list[str]:
    """Return the names of all classification architectures."""
    models = import_models()
    return list(models.list_models(module=models))


def build_network(name: str, size: int) -> torch.nn.Module:
    """Return a network with random weights and plausible, uneven statistics."""
    torch.manual_seed(0)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network = import_models().get_model(name, weights=None, **options)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.2)
            norm.momentum = None  # averages exactly
        for key, parameter in network.named_parameters():
            if "layer_scale" in key:
                parameter.uniform_(0.2, 0.6)  # at its first value, 1e-6, the MLPs of ConvNeXt would do nothing
            elif not parameter.any():
                parameter.normal_(0, 0.05)  # biases, and the heads of vision transformers
        if norms:
            network.eval()
            for norm in norms:
                norm.train()
            network(torch.randn(4, 3, size, size))
            for norm in norms:
                norm.running_mean += 0.2 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
                norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.7, 1.4)
    return network.eval()


def export_network(network: torch.nn.Module, size: int, exporter: str, path: Path) -> None:
    """Write a network as ONNX with a dynamic batch."""
    example = torch.randn(2, 3, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        if exporter == "dynamo":
            shapes = ({0: torch.export.Dim("batch")},)
            program = torch.onnx.export(
                network, (example,), dynamo=True, input_names=["input"], dynamic_shapes=shapes, verbose=False
            )
            assert program is not None
            program.save(path, external_data=True)
        else:
            torch.onnx.export(
                network,
                (example,),
                path,
                dynamo=False,
                opset_version=17,
                input_names=["input"],
                output_names=["output"],
                dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
            )


def run_model(model: ModelProto, x: np.ndarray) -> np.ndarray:
    """Return the first output in onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        large = model.ByteSize() >= LARGEST_FILE
        copy = ModelProto()
        copy.CopyFrom(model)  # weights are moved out of what is saved
        onnx.save(copy, path, save_as_external_data=large, location="weights" if large else None)
        del copy
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {model.graph.input[0].name: x})[0]
    return result


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


def check_model(name: str, exporter: str, folder: Path) -> dict[str, Any]:
    """Return what one line says."""
    size = next((value for key, value in NATIVE_SIZES.items() if name.startswith(key)), SIZE)
    network = build_network(name, size)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    export_network(network, size, exporter, folder / "model.onnx")
    del network
    start = time.perf_counter()
    model = normalize_model(load_model(folder / "model.onnx"))
    channel_map = map_channels(model)
    mapped = time.perf_counter() - start
    unfit = find_unfit_groups(model, channel_map)
    free = [g for g in channel_map.groups if not g.blocked_by and g.name not in unfit and len(g.channels) > 1]
    blocked: collections.Counter[str] = collections.Counter()
    for group in channel_map.groups:
        reason = group.blocked_by or unfit.get(group.name, "")
        if reason:
            blocked[shorten_reason(reason)] += len(group.channels)
    result = {
        "parameters": parameters,
        "map_seconds": mapped,
        "groups": len(free),
        "free": sum(len(group.channels) for group in free),
        "unfit": len(unfit),
        "blocked": dict(blocked.most_common()),
    }
    if free:
        result |= check_equivalence(model, channel_map, free, size)
        result["reach"] = find_reach(model, channel_map, free, size)
    return result


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
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"failure": f"took longer than {timeout} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"failure": lines[-1] if lines else f"exit code {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def count_parameters(name: str) -> float:
    """Return an architecture's size in millions of parameters."""
    weights = import_models().get_model_weights(name)
    return float(next(iter(weights)).meta["num_params"]) / 1e6


def print_line(name: str, exporter: str, result: dict[str, Any]) -> None:
    """Print what was found for one model."""
    line = f"{name:20} {exporter:7} "
    if "error" in result:
        line += (
            f"error {result['error']:.0e} effect {result['effect']:.0e} MACs {result['reach']:.3f} "
            f"free {result['free']:6} in {result['groups']:4} groups, blocked {sum(result['blocked'].values()):6} "
        )
    print(line + judge(result), flush=True)


def main() -> None:
    """Print a line for each model and a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="Architectures; by default all, the smallest first.")
    parser.add_argument("--exporters", nargs="+", choices=EXPORTERS, default=list(EXPORTERS))
    parser.add_argument(
        "--max-parameters", type=float, default=np.inf, help="In millions; larger ones are listed only."
    )
    parser.add_argument("--timeout", type=int, default=1800, help="Seconds per model and exporter.")
    parser.add_argument("--check", nargs=2, metavar=("MODEL", "EXPORTER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.check:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(check_model(*arguments.check, Path(folder))))
        return
    sizes = {name: count_parameters(name) for name in arguments.models or list_architectures()}
    names = sorted(sizes, key=lambda name: sizes[name])
    skipped = [name for name in names if sizes[name] > arguments.max_parameters]
    verdicts: dict[tuple[str, str], str] = {}
    blocked: collections.Counter[str] = collections.Counter()
    for name in (item for item in names if item not in skipped):
        for exporter in arguments.exporters:
            result = check_apart(name, exporter, arguments.timeout)
            verdicts[name, exporter] = judge(result)
            blocked.update(result.get("blocked", {}))
            print_line(name, exporter, result)
    print()
    for exporter in arguments.exporters:
        found = [verdict for (_, used), verdict in verdicts.items() if used == exporter]
        print(f"{exporter}: {found.count('ok')} of {len(found)} architectures pass")
    print("Blocked channels, by reason:")
    for reason, count in blocked.most_common():
        print(f"{count:8} {reason}")
    if skipped:
        print(f"Not run, over {arguments.max_parameters:g} million parameters: {', '.join(skipped)}")
    sys.exit(any(verdict != "ok" for verdict in verdicts.values()))


if __name__ == "__main__":
    main()
