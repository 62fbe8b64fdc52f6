"""One process that feeds damaged models to the command line, case after case, and says what came of each."""

from __future__ import annotations

import os
import random
import resource
import sys
import tempfile
import warnings
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnx
from click.testing import CliRunner, Result
from fuzz_constructs import EXTRA_INPUT, FEEDS
from fuzz_mutations import mutate_bytes, mutate_structure
from onnx import ModelProto

from onnx_basisprune import pipeline
from onnx_basisprune.calibration import control_flow
from onnx_basisprune.cli.main import basisprune
from onnx_basisprune.runtime import run_watch
from onnx_basisprune.runtime.fed_inputs import resolve_feeds
from onnx_basisprune.runtime.session import Session
from onnx_basisprune.timing import time_pair

GIB = 2**30
BYTE_SHARE = 0.3
IMAGES, HELD_BACK = 6, 3
# Height and width where the model doesn't fix them.
FREE_SIZES = (3, 48, 96)
LONGEST_LINE = 1500
# Instead of minutes: one run of a case's model, or one Loop of it.
LONGEST_RUN_SECONDS = 5.0
_SMALL_RUN = ("--target-macs", "0.5", "--recover", "none", "--allow-slower", "--threads", "1")
# After these the model was written.
WRITTEN = (0, 3)


@cache
def read_original(path: Path) -> tuple[bytes, ModelProto]:
    """Return a file and the model in it."""
    content = path.read_bytes()
    return content, onnx.ModelProto.FromString(content)


def make_case(path: Path, seed: str) -> tuple[bytes, str]:
    """Return a damaged file and what was done to it; the same seed gives the same."""
    rng = random.Random(f"damage {seed}")  # noqa: S311  # nothing secret
    content, model = read_original(path)
    if rng.random() < BYTE_SHARE:
        return mutate_bytes(content, model, rng), "bytes"
    copy = onnx.ModelProto.FromString(content)
    names = mutate_structure(copy, rng)
    return copy.SerializeToString(), "+".join(names) or "nothing"


def write_images(folder: Path, original: Path) -> list[str]:
    """Write model input of random numbers that fits the undamaged model; return the options that name it."""
    dims = read_original(original)[1].graph.input[0].type.tensor_type.shape.dim
    shape = [dim.dim_value if dim.dim_value > 0 else free for dim, free in zip(dims[1:], FREE_SIZES, strict=True)]
    rng = np.random.default_rng(0)
    for name, count in (("calib.npz", IMAGES), ("val.npz", HELD_BACK)):
        np.savez(folder / name, x=rng.standard_normal((count, *shape), dtype=np.float32))
    return ["--data", str(folder / "calib.npz"), "--val", str(folder / "val.npz")]


def list_arguments(command: str, model: Path, original: Path, seed: str) -> list[str]:
    """Return a command line, at times with a value for an input that was added."""
    data = [] if command in ("inspect", "benchmark") else write_images(model.parent, original)
    options = {
        "inspect": ["-v"],
        "evaluate": ["-v", *data[:2], "--threads", "1"],
        "compress": ["-v", *data, *_SMALL_RUN],
        "benchmark": ["--no-cold-start", "--rounds", "1", "--min-seconds", "0", "--max-seconds", "0.05"],
    }
    rng = random.Random(f"options {seed}")  # noqa: S311  # nothing secret
    feed = ["--feed", f"{EXTRA_INPUT}={rng.choice(FEEDS)}"] if rng.random() < 0.5 else []
    if feed and not any(value.name == EXTRA_INPUT for value in _read_inputs(model)):
        feed = []
    return [command, str(model), *options[command], *feed]


def _read_inputs(path: Path) -> list[onnx.ValueInfoProto]:
    """Return the inputs that a damaged model has, if it can be read at all."""
    try:
        return list(onnx.ModelProto.FromString(path.read_bytes()).graph.input)
    except Exception:  # noqa: BLE001  # what can't be read is the command's affair
        return []


def run_case(original: Path, seed: str, command: str, keep: Path | None = None) -> tuple[str, str, str]:
    """Run one case; return its outcome, what there is to say about it, and all that the command printed on stderr."""
    content, done = make_case(original, seed)
    if keep is not None:
        keep.write_bytes(content)
    with tempfile.TemporaryDirectory(prefix="basisprune-fuzz-") as name:
        folder = Path(name)
        model = folder / "model.onnx"
        model.write_bytes(content)
        # What external data may point at.
        (folder / "weights.bin").write_bytes(bytes(4096))
        (folder / "link.bin").symlink_to("/etc/passwd")
        (folder / "loop").symlink_to("loop")
        arguments = list_arguments(command, model, original, seed)
        before = sorted(folder.iterdir())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = CliRunner().invoke(basisprune, arguments)
        outcome, detail = judge(result)
        made = [path for path in sorted(folder.iterdir()) if path not in before]
        if model.read_bytes() != content:
            outcome, detail = "touched", "the input has changed"
        elif result.exit_code in WRITTEN and command == "compress":
            written = [model.with_name(f"model.pruned.onnx{ending}") for ending in ("", ".data")]
            outcome, detail = try_output(written[0], arguments) or (outcome, detail)
            made = [path for path in made if path not in written]
        if [path for path in made if ".rejected" not in path.name] and outcome in ("ok", "error"):
            outcome, detail = "litter", str([path.name for path in made])
        return outcome, f"{done}: {detail}", result.stderr


def judge(result: Result) -> tuple[str, str]:
    """Tell a good end from a bad one by what the user sees."""
    text = result.stderr
    line = text.strip().splitlines()[-1] if text.strip() else ""
    if result.exit_code in WRITTEN:
        return "ok", ""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return "traceback", f"{type(result.exception).__name__}: {result.exception}"
    if "internal error" in text or "Traceback" in text:
        place = [row.strip() for row in text.splitlines() if row.startswith("  File ")][-1:]
        return "traceback", f"{line} {place}"
    if "Out of memory" in text or "bad alloc" in text or "allocate" in text:
        return "memory", line
    errors = [row for row in text.splitlines() if row.startswith("Error: ")]
    is_one_line = errors == [line] and line.isprintable() and len(line) <= LONGEST_LINE
    if result.exit_code not in (1, 2) or not is_one_line:
        return "unclear", f"exit {result.exit_code}: {text[-1500:]!r}"
    return "error", line


def try_output(path: Path, arguments: list[str]) -> tuple[str, str] | None:
    """Return what is wrong with a written model: onnxruntime must load and run it."""
    import onnxruntime

    try:
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        x = np.load(path.with_name("val.npz"))["x"][:1]
        feeds = {}
        for value in session.get_inputs():
            if f"--feed {value.name}=" in " ".join(arguments):
                (fed,) = resolve_feeds(
                    arguments[-1:], [spec for spec in Session(path).inputs if spec.name == value.name]
                )
                feeds[value.name] = fed.make_batch(1)
            else:
                feeds[value.name] = x.astype(np.float16) if "float16" in value.type else x
        session.run(None, feeds)
    except Exception as error:  # noqa: BLE001  # whatever it is, the file is rejected
        return "rejected", " ".join(str(error).split())
    return None


def serve(pipe: Connection, memory_gib: float) -> None:
    """Run the cases that come in, until `None` comes; an outcome goes out for each."""
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_gib * GIB), -1))
    run_watch.LONGEST_RUN_SECONDS = control_flow.LONGEST_LOOP_SECONDS = LONGEST_RUN_SECONDS
    pipeline.time_pair = partial(time_pair, max_seconds=0.05)  # type: ignore[assignment]
    with Path(os.devnull).open("w") as nowhere:  # what native libraries print
        sys.stdout = sys.stderr = nowhere
        while (case := pipe.recv()) is not None:
            original, seed, command = case
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            outcome, detail, _ = run_case(original, seed, command)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
            pipe.send((outcome, detail, grown))
