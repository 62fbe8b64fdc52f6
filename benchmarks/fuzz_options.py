"""Mutate the small files that options come from: `basisprune.toml`, saved plans, latency tables, reports.

    python benchmarks/fuzz_options.py
    python benchmarks/fuzz_options.py toml --cases 5000 --seed 1

Each case changes a sound file where its structure says that something could matter (another type, a number beyond all
bounds, a name that isn't one, a nested table, cut off, bytes that are no text) and gives it to the command in this
process. One printable line and exit code 0 to 3 may come of it; anything else is printed with the file that it takes,
and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from click.testing import CliRunner

from onnx_basisprune import pipeline
from onnx_basisprune.cli.config_file import list_keys
from onnx_basisprune.cli.main import basisprune
from onnx_basisprune.errors import DataError

SAMPLE = Path(__file__).resolve().parents[1] / "sample_models"
LONGEST_LINE = 2500
MOST_SECONDS = 20.0

# In JSON and, but for `null`, in TOML.
NUMBERS = ["0", "-1", "1", "2", "3", "1e308", "-1e308", "5e-324", "-0.0", "1e400", "0.5", "9223372036854775808", "-5"]
NUMBERS += ["1" + "0" * 30, "1" + "0" * 400, "1" + "0" * 5000, "100", "1.5"]
TEXTS = [
    '""',
    '"x"',
    '"\\u0000"',
    '"\\u001b[31m\\u202e"',
    '"auto"',
    '"-"',
    '"/"',
    '"nan"',
    f'"{"y" * 100_000}"',
    '"1e9"',
]
OTHERS = ["true", "false", "[]", "[[]]", "[1, 2, 3]", '["a", 1]', "[" * 200 + "]" * 200, "[" * 30_000]
TOML_ONLY = ["nan", "inf", "-inf", "+nan", "0x" + "f" * 6000, "1979-05-27", "1979-05-27T07:32:00Z", "07:32:00", "{}"]
TOML_ONLY += [
    "{ a = 1 }",
    "{ a = { b = [{ c = 1 }] } }",
    "'''\nlines\n'''",
    "0b1",
    "1_000",
    "{ " + "a." * 5000 + "b = 1 }",
]
JSON_ONLY = ["null", "NaN", "Infinity", "-Infinity", "{}", '{"a": 1}', '{"rank": 3, "of": 16}', '{"estimate": 1}']


def spoil_bytes(content: bytes, rng: random.Random) -> bytes:
    """Change a file without a look at what is in it."""
    at = rng.randrange(len(content) + 1)
    return rng.choice(
        [
            content[:at],
            content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :],
            content[:at] + rng.randbytes(rng.randrange(1, 9)) + content[at:],
            b"\xef\xbb\xbf" + content,
            content.decode().encode("utf-16"),
            content + content,
            bytes(rng.randrange(2000)),
            content + b" " * 10_000_000,
        ]
    )


def spoil_toml(rng: random.Random) -> bytes:
    """Return a file of options of which some can't be used."""
    lines, tables = [], ["", *(f"[{name}]" for name in ("evaluate", "benchmark", "inspect", "check"))]
    for table in rng.sample(tables, rng.randrange(1, 4)):
        command = basisprune.commands[table.strip("[]") or "compress"]
        keys = [*list_keys(command), "x", '""', '"\\u0000"', "a.b", "compress", "report", "tool.basisprune", "model.a"]
        lines.append(rng.choice([table, table, table, f"[{table}]" if table else ""]))
        values = NUMBERS + TEXTS + OTHERS + TOML_ONLY
        lines += [f"{rng.choice(keys)} = {rng.choice(values)}" for _ in range(rng.randrange(1, 4))]
    if not lines[0]:
        lines.append("")
    content = "\n".join(lines).encode()
    return spoil_bytes(content, rng) if rng.random() < 0.3 else content


def spoil_json(content: bytes, rng: random.Random) -> bytes:
    """Return a JSON file with some of its values replaced, dropped, doubled or renamed."""
    if rng.random() < 0.15:
        return spoil_bytes(content, rng)
    root = json.loads(content)
    marks: dict[str, str] = {}
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        spoil_value(root, marks, rng)
    text = json.dumps(root)
    # Values that Python's own writer wouldn't write.
    for mark, value in marks.items():
        text = text.replace(json.dumps(mark), value)
    return text.encode()


def spoil_value(root: Any, marks: dict[str, str], rng: random.Random) -> None:
    """Change one value at any depth, in place."""
    holder = root
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(holder[key], (dict, list)) and rng.random() < 0.85:
            holder = holder[key]
            continue
        break
    if rng.random() < 0.15:
        del holder[key]
    elif isinstance(holder, dict) and rng.random() < 0.15:
        holder[rng.choice(["", "\x00", "nobody", "é" * 1000])] = holder.pop(key)
    else:
        mark = f"@{len(marks)}@"
        marks[mark] = rng.choice(NUMBERS + TEXTS + OTHERS + JSON_ONLY)
        holder[key] = mark


class Stage:
    """A sound file of each kind, and the command that reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = [str(SAMPLE / "digits.onnx"), "--data", str(SAMPLE / "digits" / "calib"), "--limit", "24"]
        self.base += [
            "--val",
            str(SAMPLE / "digits" / "val"),
            "--preprocess",
            "imagenet",
            "--threads",
            "1",
            "--isolated",
        ]
        self.base += ["--recover", "none", "-q"]
        plan, table, report = (folder / name for name in ("plan.json", "table.json", "report.json"))
        made = ["--target-latency", "0.6", "--save-plan", str(plan), "--latency-table", str(table)]
        self.run(["compress", *self.base, *made, "--report", str(report), "-o", str(folder / "out.onnx")])
        self.sound = {path.stem: path.read_bytes() for path in (plan, table, report)}

    def run(self, arguments: list[str]) -> tuple[int, str, BaseException | None]:
        """Run a command in this process; return its exit code, what it says, and what it didn't catch."""
        result = CliRunner().invoke(basisprune, arguments)
        error = None if isinstance(result.exception, SystemExit) else result.exception
        return result.exit_code, result.stderr, error

    def try_case(self, kind: str, rng: random.Random) -> tuple[bytes, str]:
        """Run one case; return its file and what is wrong, or nothing."""
        content = spoil_toml(rng) if kind == "toml" else spoil_json(self.sound[kind], rng)
        path = self.folder / ("basisprune.toml" if kind == "toml" else "case.json")
        path.write_bytes(content)
        start = perf_counter()
        code, said, error = self.run(self.choose_command(kind, str(path), rng))
        seconds = perf_counter() - start
        lines = said.splitlines()
        if error is not None:
            return content, f"raised {error!r}"
        if code not in (0, 1, 2, 3) or "internal error" in said:
            return content, f"exit code {code}: {said[-500:]}"
        if any(not line.isprintable() or len(line) > LONGEST_LINE for line in lines):
            return content, f"not printable lines: {said[:500]!r}"
        if code in (1, 2) and not lines[-1].startswith("Error: "):
            return content, f"no line that begins with Error: {said[-500:]!r}"
        return content, f"took {seconds:.1f} s" if seconds > MOST_SECONDS else ""

    def choose_command(self, kind: str, path: str, rng: random.Random) -> list[str]:
        """Return a command that reads the file."""
        dry = ["--dry-run", "--target-latency", "0.6"]
        if kind == "toml":
            name = rng.choice(["compress", "evaluate", "benchmark", "inspect"])
            return [name, str(SAMPLE / "digits.onnx"), "--config", path]
        if kind == "plan":
            return ["compress", *self.base, "--plan", path, "--dry-run"]
        if kind == "table":
            return ["compress", *self.base, *dry, "--latency-table", path]
        sound = self.folder / "report.json"
        return rng.choice(
            [
                ["check", str(sound), "--baseline", path],
                ["check", path, "--baseline", str(sound), "--max-drop", "1", "--strict"],
                ["report", path, "--html", str(self.folder / "page.html"), "--force"],
            ]
        )


def stop(*_: object) -> None:
    """End a run whose options could be read."""
    raise DataError("enough.")


def fuzz(kind: str, stage: Stage, cases: int, seed: int) -> int:
    """Try a number of files of one kind; return how many came to a bad end."""
    rng, bad = random.Random(seed), 0  # noqa: S311  # nothing secret
    for number in range(cases):
        content, problem = stage.try_case(kind, rng)
        if problem:
            bad += 1
            path = Path(tempfile.gettempdir(), f"basisprune-{kind}-{seed}-{number}")
            path.write_bytes(content)
            print(f"{kind} {number}: {problem}\n    {path}", flush=True)
    print(f"{kind}: {cases} cases, {bad} bad", flush=True)
    return bad


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", nargs="?", default="all", choices=["all", "toml", "plan", "table", "report"])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="basisprune-fuzz-") as name:
        os.environ["BASISPRUNE_CACHE"] = str(Path(name, "cache"))
        stage = Stage(Path(name))
        kinds = ["plan", "table", "report", "toml"] if options.kind == "all" else [options.kind]
        bad = 0
        for kind in kinds:
            if kind == "toml":  # what is wrong with values that can be read is the business of others
                pipeline.compress = stop
            bad += fuzz(kind, stage, options.cases, options.seed)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
