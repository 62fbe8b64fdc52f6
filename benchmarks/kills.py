"""Kill real runs in all their phases: the input stays, the output is absent or valid, and the next run succeeds.

    OMP_NUM_THREADS=1 python benchmarks/kills.py
    OMP_NUM_THREADS=1 python benchmarks/kills.py --kills 6 --seed 3

Three kinds of `compress` on the sample model take turns: to a target, the same with weights in a file beside the model,
and a search for `--max-drop`. Each gets SIGKILL, SIGINT or SIGTERM at a random moment of one of its phases, which take
turns, too; every second one has an output of an earlier run to replace, and none a cache to begin with. The next run
goes on from the cache that was left, and must write the same bytes as a run that nobody disturbed. Prints a line for
each kill; the exit code is 1 if anything was damaged, or left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

SAMPLE = Path(__file__).resolve().parents[1] / "sample_models"
# What a process says that was asked to stop; one that was killed says nothing.
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
# A machine may be so busy that the clock fails a gate; the model is written all the same.
DONE = (0, 3)
# A line that `--verbose` leaves at the end of a stage.
STAGE = re.compile(rb"^([a-z ]+): [0-9.]+ s$")
STARTING = "starting"
_STRIDE = 5
COMMANDS: dict[str, list[str]] = {
    "target": ["--target-macs", "0.5"],
    "external": ["--target-macs", "0.5"],
    "search": ["--max-drop", "20", "--minimize", "macs"],
}


class Stage:
    """A folder with a model, its output and its report, and a cache of its own.

    Attributes:
        phases: What a run goes through and the seconds of each, as it does so when nobody disturbs it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name, self._cache = folder / name, name, folder / f"{name}-cache"
        self._folder.mkdir()
        self._inputs = self._make_model()
        self._output, self._report = self._folder / "small.onnx", self._folder / "report.json"
        self._results = [self._output, self._report]
        if name == "external":
            self._results.append(self._output.with_name("small.onnx.data"))
        self._table = folder / "times.json"
        self._environment = {**os.environ, "BASISPRUNE_CACHE": str(self._cache)}
        self._original = [path.read_bytes() for path in self._inputs]
        if not self._table.exists():
            self.complete()  # makes the table of times, which is the same for all runs from here on
            self.clear_results()
            self.clear_cache()
        self.phases: list[tuple[str, float]] = []
        problem = self.complete()
        if problem:
            raise SystemExit(f"the sample model can't be compressed at all: {problem}")
        self._expected = self._read_output()

    def _make_model(self) -> list[Path]:
        """Write the model; return its files."""
        path = self._folder / "digits.onnx"
        if self._name != "external":
            return [Path(shutil.copy(SAMPLE / "digits.onnx", path))]
        model = onnx.load(SAMPLE / "digits.onnx")
        onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=64)
        return [path, self._folder / "weights.bin"]

    def start(self) -> subprocess.Popen[bytes]:
        """Start a run; `--force` is given where there is something to replace only."""
        command = [sys.executable, "-m", "onnx_basisprune", "compress", str(self._inputs[0]), "--threads", "1"]
        command += ["--data", str(SAMPLE / "digits" / "calib"), "--val", str(SAMPLE / "digits" / "val"), "--isolated"]
        command += [
            "--limit",
            "24",
            "--recover-steps",
            "2",
            "--preprocess",
            "imagenet",
            "--latency-table",
            str(self._table),
            "--verbose",
        ]
        command += ["-o", str(self._output), "--report", str(self._report), *COMMANDS[self._name]]
        if self._output.exists() or self._report.exists():
            command.append("--force")
        return subprocess.Popen(command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def complete(self) -> str:
        """Let a run come to its end; return what is wrong with it, or nothing."""
        process = self.start()
        assert process.stderr is not None
        lines, phases, begin = [], list[tuple[str, float]](), time.monotonic()
        for line in process.stderr:
            lines.append(line)
            if match := STAGE.match(line.rstrip()):
                now = time.monotonic()
                phases.append((match[1].decode(), now - begin))
                begin = now
        if process.wait() not in DONE:
            return f"exit code {process.returncode}: {b''.join(lines).decode(errors='replace')[-300:]}"
        # The first stage's line comes at its end: what is before it is counted to it.
        self.phases = getattr(self, "phases", None) or [(STARTING, phases[0][1]), *phases[1:]]
        litter = self.list_litter()
        return self.find_damage() or (f"left behind: {litter}" if litter else "")

    def wait_for(self, process: subprocess.Popen[bytes], phase: int, share: float) -> bytes:
        """Wait until a run has come to a moment of a phase; return what it has said."""
        assert process.stderr is not None
        lines, done = [], 0
        while done < phase and (line := process.stderr.readline()):
            lines.append(line)
            done += bool(STAGE.match(line.rstrip()))
        try:
            process.wait(timeout=share * self.phases[phase][1])
        except subprocess.TimeoutExpired:
            return b"".join(lines)
        return b"".join(lines)

    def choose_phase(self, turn: int, rng: random.Random) -> int:
        """Return one of the phases: their names take turns, and a search goes through some of them many times.

        In strides of 5, which meet all 11 or 12 of them, and from the begin to the end with a few.
        """
        names = list(dict.fromkeys(name for name, _ in self.phases))
        name = names[_STRIDE * turn % len(names)]
        return rng.choice([at for at, (other, _) in enumerate(self.phases) if other == name])

    def clear_results(self) -> None:
        """Take away what a run has written."""
        for path in self._results:
            path.unlink(missing_ok=True)

    def clear_cache(self) -> None:
        """Forget what earlier runs have found out."""
        shutil.rmtree(self._cache, ignore_errors=True)

    def list_litter(self) -> list[str]:
        """Return what is neither the model nor a result."""
        known = {*self._inputs, *self._results}
        return sorted(path.name for path in self._folder.iterdir() if path not in known)

    def find_damage(self) -> str:
        """Return what isn't as it must be after any run, or nothing."""
        if [path.read_bytes() for path in self._inputs] != self._original:
            return "the input was changed"
        try:
            if self._output.exists():
                session = onnxruntime.InferenceSession(self._output, providers=["CPUExecutionProvider"])
                session.run(None, {session.get_inputs()[0].name: np.zeros((7, 3, 16, 16), dtype=np.float32)})
                if hasattr(self, "_expected") and self._read_output() != self._expected:
                    return "other bytes than those of a run that nobody disturbed"
            if self._report.exists():
                json.loads(self._report.read_text(encoding="utf-8"))
        except Exception as error:  # noqa: BLE001  # whatever it is, the file is no good
            return f"half-written: {error}"
        return ""

    def has_output(self) -> bool:
        """Return whether all that a run writes is there."""
        return all(path.exists() for path in self._results)

    def _read_output(self) -> list[bytes]:
        """Return the model's bytes."""
        return [path.read_bytes() for path in self._results if path != self._report]


def kill_once(stage: Stage, kind: signal.Signals, phase: int, share: float, *, replaces: bool, runs_again: bool) -> str:
    """Kill one run, and let the next come to its end where that is wanted; return what is wrong, or nothing."""
    if not replaces:
        stage.clear_results()
    had_output = stage.has_output()
    stage.clear_cache()
    process = stage.start()
    said = stage.wait_for(process, phase, share)
    process.send_signal(kind)
    said += process.communicate()[1]
    damage = stage.find_damage()
    if damage:
        return damage
    if kind in EXIT_CODES:
        # The third: before Python had set itself up.
        if process.returncode not in (*DONE, EXIT_CODES[kind], -kind):
            return f"exit code {process.returncode}: {said.decode(errors='replace')[-300:]}"
        if b"Traceback" in said:
            return f"a traceback: {said.decode(errors='replace')[-300:]}"
        if litter := stage.list_litter():
            return f"left behind: {litter}"
        if had_output and not stage.has_output():
            return "the earlier output is gone"
    if not runs_again:
        return ""
    problem = stage.complete() or ("" if stage.has_output() else "nothing was written")
    return f"the next run failed: {problem}" if problem else ""


def show_counts(counts: Counter[str], stages: Sequence[Stage]) -> str:
    """Return how many kills each phase got, in the order of the phases."""
    names = dict.fromkeys(name for stage in stages for name, _ in stage.phases)
    return ", ".join(f"{name} {counts[name]}" for name in names if counts[name])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=COMMANDS, help="runs of one kind")
    parser.add_argument("--check-every", type=int, default=1, metavar="N", help="a whole run after every Nth kill")
    options = parser.parse_args()
    rng = random.Random(options.seed)  # noqa: S311  # nothing secret
    commands = [options.only] if options.only else list(COMMANDS)
    kinds = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
    with tempfile.TemporaryDirectory(prefix="basisprune-kills-") as name:
        stages: dict[str, Stage] = {}
        counts: Counter[str] = Counter()
        bad = 0
        for number in range(options.kills):
            command = commands[number % len(commands)]
            if command not in stages:
                stages[command] = Stage(Path(name), command)
                print(f"{command}: a whole run takes {sum(s for _, s in stages[command].phases):.1f} s", flush=True)
            stage, turn = stages[command], number // len(commands)
            phase = stage.choose_phase(turn, rng)
            kind, share = kinds[(turn + number) % len(kinds)], rng.random()
            runs_again = number % options.check_every == options.check_every - 1
            problem = kill_once(stage, kind, phase, share, replaces=turn % 2 == 1, runs_again=runs_again)
            bad += bool(problem)
            phase_name = stage.phases[phase][0]
            counts[phase_name] += 1
            where = f"{command}, {phase_name} ({phase + 1} of {len(stage.phases)})"
            print(f"{number + 1:3} {kind.name:<8} at {share:4.0%} of {where}: {problem or 'fine'}", flush=True)
    print(f"kills by phase: {show_counts(counts, list(stages.values()))}")
    print(f"{options.kills} kills, {bad} of them did damage")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
