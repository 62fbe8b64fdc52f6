"""Kill a real run at random moments: the input stays, the output is absent or valid, and the next run succeeds.

    python benchmarks/kills.py
    python benchmarks/kills.py --kills 6 --seed 3

Runs of `compress` on the sample model get SIGKILL, SIGINT or SIGTERM after a random share of the time that a whole run
takes; every second one has an output of an earlier run to replace. Prints a line for each kill; the exit code is 1 if
anything was damaged, or if a run that could clean up after itself left something behind.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

SAMPLE = Path(__file__).resolve().parents[1] / "sample_models"
# What a process says that was asked to stop; one that was killed says nothing.
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
DONE = 0


class Stage:
    """A folder with a model, its output and its report, and a cache of its own.

    Attributes:
        seconds: What a whole run takes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "work"
        self._folder.mkdir()
        self._model = Path(shutil.copy(SAMPLE / "digits.onnx", self._folder / "digits.onnx"))
        self._output, self._report = self._folder / "digits.pruned.onnx", self._folder / "report.json"
        self._environment = {**os.environ, "BASISPRUNE_CACHE": str(folder / "cache")}
        self._original = self._model.read_bytes()
        self.seconds = 0.0
        problem = self.complete()
        if problem:
            raise SystemExit(f"the sample model can't be compressed at all: {problem}")

    def start(self) -> subprocess.Popen[bytes]:
        """Start a run."""
        command = [sys.executable, "-m", "onnx_basisprune", "compress", str(self._model), "--force", "--threads", "1"]
        command += ["--data", str(SAMPLE / "digits" / "calib"), "--val", str(SAMPLE / "digits" / "val")]
        command += [
            "--target-macs",
            "0.5",
            "--limit",
            "48",
            "--recover-steps",
            "5",
            "--report",
            str(self._report),
            "--quiet",
        ]
        return subprocess.Popen(command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def complete(self) -> str:
        """Let a run come to its end; return what is wrong with it, or nothing."""
        started = time.monotonic()
        process = self.start()
        _, errors = process.communicate()
        self.seconds = time.monotonic() - started
        if process.returncode != DONE:
            return f"exit code {process.returncode}: {errors.decode(errors='replace')[-300:]}"
        return self.find_damage() or ("" if self._output.exists() and self._report.exists() else "nothing was written")

    def clear(self) -> None:
        """Take away what a run has written."""
        for path in (self._output, self._report):
            path.unlink(missing_ok=True)

    def list_litter(self) -> list[str]:
        """Return what is neither the model nor a result."""
        results = {self._model, self._output, self._report}
        return sorted(path.name for path in self._folder.iterdir() if path not in results)

    def sweep(self) -> None:
        """Take away what a killed run left."""
        for name in self.list_litter():
            shutil.rmtree(self._folder / name)

    def find_damage(self) -> str:
        """Return what isn't as it must be after any run, or nothing."""
        if self._model.read_bytes() != self._original:
            return "the input was changed"
        try:
            if self._output.exists():
                session = onnxruntime.InferenceSession(self._output, providers=["CPUExecutionProvider"])
                session.run(None, {session.get_inputs()[0].name: np.zeros((7, 3, 16, 16), dtype=np.float32)})
            if self._report.exists():
                json.loads(self._report.read_text(encoding="utf-8"))
        except Exception as error:  # noqa: BLE001  # whatever it is, the file is no good
            return f"half-written: {error}"
        return ""


def kill_once(stage: Stage, number: int, kind: signal.Signals, share: float, *, runs_again: bool) -> str:
    """Kill one run, and let the next come to its end where that is wanted; return what is wrong, or nothing."""
    if number % 2:
        stage.clear()
    process = stage.start()
    try:
        process.wait(timeout=share * stage.seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(kind)
    _, errors = process.communicate()
    damage = stage.find_damage()
    if damage:
        return damage
    # The third: before Python had set itself up.
    if kind in EXIT_CODES and process.returncode not in (DONE, EXIT_CODES[kind], -kind):
        return f"exit code {process.returncode}: {errors.decode(errors='replace')[-300:]}"
    litter = stage.list_litter()
    if kind in EXIT_CODES and litter:
        return f"left behind: {litter}"
    seconds = stage.seconds
    problem = stage.complete() if runs_again else ""
    stage.seconds = seconds
    stage.sweep()
    return f"the next run failed: {problem}" if problem else ""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check-every", type=int, default=1, metavar="N", help="a whole run after every Nth kill")
    options = parser.parse_args()
    rng = random.Random(options.seed)  # noqa: S311  # nothing secret
    with tempfile.TemporaryDirectory(prefix="basisprune-kills-") as name:
        stage = Stage(Path(name))
        stage.complete()  # with the cache that the first one filled
        print(f"a whole run takes {stage.seconds:.1f} s")
        bad = 0
        for number in range(options.kills):
            kind = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)[number % 3]
            share = rng.random()
            runs_again = number % options.check_every == options.check_every - 1
            problem = kill_once(stage, number, kind, share, runs_again=runs_again)
            bad += bool(problem)
            print(f"{number + 1:3} {kind.name:<8} after {share:4.0%} of a run: {problem or 'fine'}", flush=True)
    print(f"{options.kills} kills, {bad} of them did damage")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
