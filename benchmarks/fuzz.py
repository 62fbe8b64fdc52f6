"""Damaged models, thousands of them, through the real command line: none may do more than end in one clear line.

    python benchmarks/fuzz.py --shared ../shared --cases 5000
    python benchmarks/fuzz.py --shared ../shared --case 1234

Every model is damaged in its bytes (truncated, flipped, spliced) or in its structure (`fuzz_mutations.py`,
`fuzz_constructs.py`), then read by `inspect`, a share of them by a small `compress`, by `evaluate` or by `benchmark`.
Cases are seeded: `--case` runs one again, `--keep` writes a file. Each has a limit of time and of memory. Prints a
table of outcomes and each failing case; the exit code is 1 if there is any:

    ok         done; what was written loads and runs in onnxruntime
    error      one clear line and exit code 1 or 2
    traceback  an exception that nobody planned       unclear   an error, but not one printable line
    hang       over the time limit                    memory    out of memory, or over the memory limit
    crash      the process died                       rejected  onnxruntime refuses what was written
    litter     files left behind                      touched   the input was changed
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from collections import Counter
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from fuzz_worker import run_case, serve

SAMPLE = Path(__file__).resolve().parents[1] / "sample_models"
GOOD = ("ok", "error")
# Cases of a file of 60 MB take as long as twenty of a small one.
_SMALL_BYTES = 2**21
LARGE_WEIGHT = 0.03
# Of all cases, by `evaluate` and as many by `benchmark`.
MEASURE_SHARE = 0.05
# Address space; what a case may really add is far below.
MEMORY_GIB = 8.0
GROWTH_GIB = 1.5
# After so many cases a process makes room for a fresh one.
CASES_PER_PROCESS = 500


class Worker:
    """A process that runs cases, replaced when it dies or hangs."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._pipe: Connection
        self._pipe, other = self._context.Pipe()
        self._process: SpawnProcess = self._context.Process(target=serve, args=(other, MEMORY_GIB), daemon=True)
        self._process.start()
        other.close()
        self._count = 0

    def run(self, original: Path, seed: str, command: str, *, seconds: float) -> tuple[str, str]:
        """Run one case; return its outcome and what there is to say about it."""
        if self._count == CASES_PER_PROCESS:
            self.stop()
            self._start()
        self._count += 1
        self._pipe.send((original, seed, command))
        try:
            if self._pipe.poll(seconds):
                outcome, detail, grown = self._pipe.recv()
                if grown > GROWTH_GIB and outcome in GOOD:
                    return "memory", f"{grown:.1f} GiB more; {detail}"
                return outcome, detail
            outcome, detail = "hang", f"over {seconds:g} s"
        except EOFError:
            self._process.join()
            outcome, detail = "crash", f"exit code {self._process.exitcode}"
        self.stop()
        self._start()
        return outcome, detail

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def choose_case(models: list[Path], seed: int, index: int, compress_share: float) -> tuple[Path, str, str]:
    """Return the model, the seed and the command, for a case's number."""
    rng = random.Random(f"{seed}:{index}")  # noqa: S311  # nothing secret
    weights = [1.0 if path.stat().st_size < _SMALL_BYTES else LARGE_WEIGHT for path in models]
    path = rng.choices(models, weights)[0]
    shares = {"compress": compress_share, "evaluate": MEASURE_SHARE, "benchmark": MEASURE_SHARE}
    rest = max(0.0, 1.0 - sum(shares.values()))
    return path, f"{seed}:{index}", rng.choices([*shares, "inspect"], [*shares.values(), rest])[0]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="a folder with models/*.onnx, beside the sample model")
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compress", type=float, default=0.15, metavar="SHARE", help="cases that compress, too")
    parser.add_argument("--seconds", type=float, default=60.0, help="the most that a case may take")
    parser.add_argument("--case", type=int, help="run this one only, in this process")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="with --case: write the damaged model")
    options = parser.parse_args()
    models = [*sorted(SAMPLE.glob("*.onnx")), *(sorted(options.shared.glob("models/*.onnx")) if options.shared else ())]
    if options.case is not None:
        path, seed, command = choose_case(models, options.seed, options.case, options.compress)
        outcome, detail, text = run_case(path, seed, command, keep=options.keep)
        print(f"{text}{outcome}: {path.name} {command} {detail}")
        return
    counts: Counter[tuple[str, str]] = Counter()
    started = time.monotonic()
    with suppress(KeyboardInterrupt):  # the table tells what was done so far
        run_cases(models, options, counts)
    outcomes = sorted({outcome for _, outcome in counts}, key=lambda name: (name not in GOOD, name))
    print(f"\n{'':<45}" + "".join(f"{name:>11}" for name in outcomes))
    for row in sorted({row for row, _ in counts}):
        print(f"{row:<45}" + "".join(f"{counts[row, name]:>11}" for name in outcomes))
    bad = sum(count for (_, outcome), count in counts.items() if outcome not in GOOD)
    print(f"{counts.total()} cases in {time.monotonic() - started:.0f} s, {bad} of them bad")
    sys.exit(bool(bad) or counts.total() < options.cases)


def run_cases(models: list[Path], options: argparse.Namespace, counts: Counter[tuple[str, str]]) -> None:
    """Run all cases and count their outcomes."""
    worker = Worker()
    for index in range(options.start, options.start + options.cases):
        path, seed, command = choose_case(models, options.seed, index, options.compress)
        outcome, detail = worker.run(path, seed, command, seconds=options.seconds)
        counts[f"{command} {path.stem}", outcome] += 1
        if outcome not in GOOD:
            print(f"{outcome:<10} --case {index} {command} {path.stem}: {detail[:600]}", flush=True)
    worker.stop()


if __name__ == "__main__":
    main()
