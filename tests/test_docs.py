"""README and docs: every command line in them is one that the program takes, and the commands run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from onnx_basisprune import measurement, pipeline
from onnx_basisprune.cli.main import basisprune
from onnx_basisprune.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "sample_models"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
# A command in a shell's block, in GitLab's YAML, or after `sh` in Jenkins'.
COMMAND = re.compile(r"(?:^ *|&& |- |sh '+venv/bin/)basisprune ([^'\"\n]+)", re.MULTILINE)
# A backslash or a folded block of YAML goes on in the next line.
CONTINUATION = re.compile(r"\\+\n +|(?<=\d)\n +(?=--)")
INLINE_OPTION = re.compile(r"(?<!`)`(--\w[^`]*)`(?!`)")
LINK = re.compile(r"\]\((docs/[\w-]+\.(?:md|svg)(?:#[\w-]+)?)\)")
# What makes a run short; the last value of an option is the one that counts.
SHORT = {
    "compress": ["--limit", "60", "--recover-steps", "0", "--force"],
    "benchmark": ["--rounds", "5", "--min-seconds", "0", "--max-seconds", "0.1", "--no-cold-start"],
    "evaluate": ["--limit", "60"],
    "check": ["--force"],
    "inspect": ["--force"],
    "init": ["--force"],
    "report": ["--force"],
}


def list_commands() -> Iterator[tuple[str, str]]:
    """Yield each command line once, with the page that it stands on first."""
    seen: set[str] = set()
    for page in PAGES:
        for _, block in FENCE.findall(page.read_text(encoding="utf-8")):
            for found in COMMAND.findall(CONTINUATION.sub(" ", block)):
                line = " ".join(found.partition("  #")[0].partition(" ||")[0].split())
                if line not in seen:
                    seen.add(line)
                    yield page.name, line


COMMANDS = list(list_commands())
# The pages that people copy from first; what the others say differs in options that the commands' own tests run.
RUN_PAGES = ["README.md", "ci.md", "configuration.md", "plans.md"]


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """Return a folder with everything under the names that the text uses."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("model.onnx", "model.pruned.onnx"):
        shutil.copy(SAMPLES / "digits.onnx", folder / name)
    for name, source, count in (("calib", "calib", 8), ("test", "val", 12)):
        for label in range(10):
            images = sorted((SAMPLES / "digits" / source / str(label)).iterdir())[:count]
            (folder / name / str(label)).mkdir(parents=True)
            for image in images:
                shutil.copy(image, folder / name / str(label))
    x = np.random.default_rng(0).standard_normal((40, 3, 16, 16), dtype=np.float32)
    np.savez(folder / "calib.npz", x=x)
    (folder / "labels.json").write_text(json.dumps({str(label): label for label in range(10)}))
    return folder


def find_command(name: str) -> click.Command:
    command = basisprune.get_command(click.Context(basisprune), name)
    assert command is not None, f"there is no command {name}"
    return command


def test_there_is_something_to_test() -> None:
    assert len(COMMANDS) > 20
    assert {line.split()[0] for _, line in COMMANDS} >= {"compress", "inspect", "evaluate", "benchmark"}


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_command_lines_are_understood(page: str, line: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise DataError("so far all is well")

    # Options that contradict each other are found before these are called.
    for module, function in (
        (pipeline, "compress"),
        (measurement, "evaluate_model"),
        (measurement, "benchmark_models"),
    ):
        monkeypatch.setattr(module, function, stop)
    monkeypatch.chdir(workplace)
    name, *arguments = shlex.split(line)
    result = CliRunner().invoke(basisprune, [name, *arguments])
    if name in {"compress", "evaluate", "benchmark"}:
        assert "so far all is well" in result.output, result.output
    assert result.exit_code in {0, 1}, result.output


@pytest.mark.parametrize("page", RUN_PAGES)
def test_commands_run_in_their_order(
    page: str, workplace: Path, fake_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line for name, line in COMMANDS if name == page]
    assert lines
    for line in lines:
        of_repository = "sample_models/" in line
        monkeypatch.chdir(ROOT if of_repository else workplace)
        name, *arguments = shlex.split(line)
        if of_repository:
            arguments += ["-o", str(workplace / "digits.pruned.onnx")]
        if "last-release.json" in line:
            shutil.copy("report.json", "last-release.json")
        if name == "compress" and "--target" not in line and "--plan" not in line:
            arguments += ["--time-limit", "1s"]
        result = CliRunner().invoke(basisprune, [name, *arguments, *SHORT[name]])
        # Speed and accuracy of so short a run may miss what is asked.
        is_gated = any(option in line for option in ("--target-latency", "--max-", "--min-"))
        assert result.exit_code in ({0, 3} if is_gated else {0}), result.output
        assert result.stdout or (name == "report" and Path("report.html").stat().st_size > 10_000), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_the_text_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    commands = [find_command(name) for name in basisprune.list_commands(click.Context(basisprune))]
    known = {
        name: option
        for command in commands
        for option in command.params
        for name in option.opts + option.secondary_opts
    }
    for words in map(shlex.split, INLINE_OPTION.findall(text)):
        for word in (word for word in words if word.startswith("--")):
            # The last one is an option of benchmarks/accuracy.py.
            assert word in {*known, "--help", "--version", "--plot"}, f"{page.name}: {word}"
        values = words[1:2]
        if (
            words[0] in known
            and values
            and values[0] not in {"FILE", "NODE", "PP", "-"}
            and not values[0].startswith("-")
        ):
            option = known[words[0]]
            assert option.type.convert(values[0], option, None) is not None
            assert not getattr(option, "is_flag", False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_into_the_docs_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        assert (ROOT / target).exists(), link
        headings = re.findall(r"^#+ (.*)$", (ROOT / target).read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in headings}
