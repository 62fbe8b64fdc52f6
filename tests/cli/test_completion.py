"""Shell completion: what click asks the command for while a line is typed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from onnx_basisprune.cli.main import basisprune

VARIABLE = "_BASISPRUNE_COMPLETE"
HEAVY = ["PIL", "numpy", "onnx", "onnx_graphsurgeon", "onnxruntime", "psutil", "rich", "scipy", "torch"]


def list_parameters() -> Iterator[tuple[str, click.Parameter]]:
    context = click.Context(basisprune)
    for name in basisprune.list_commands(context):
        command = basisprune.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            yield name, parameter


PARAMETERS = list(list_parameters())
PATHS = [item for item in PARAMETERS if isinstance(item[1].type, click.Path)]
CHOICES = [item for item in PARAMETERS if isinstance(item[1].type, click.Choice)]


def complete(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], words: list[str]) -> list[str]:
    """Return the answers for the last word, as `type,value`."""
    monkeypatch.setenv(VARIABLE, "bash_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    with pytest.raises(SystemExit) as stopped:
        basisprune(prog_name="basisprune")
    assert stopped.value.code == 0
    return capfd.readouterr().out.split()


def name_parameter(item: tuple[str, click.Parameter]) -> str:
    return f"{item[0]} {item[1].name}"


@pytest.mark.parametrize(("command", "parameter"), PATHS, ids=map(name_parameter, PATHS))
def test_files_are_completed_by_the_shell(
    command: str, parameter: click.Parameter, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = [] if isinstance(parameter, click.Argument) else [parameter.opts[-1]]
    assert complete(monkeypatch, capfd, ["basisprune", command, *before, "mod"]) == ["file,mod"]


@pytest.mark.parametrize(("command", "parameter"), CHOICES, ids=map(name_parameter, CHOICES))
def test_choices_are_listed(
    command: str, parameter: click.Parameter, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(parameter.type, click.Choice)
    expected = [f"plain,{choice}" for choice in parameter.type.choices]
    before = [] if isinstance(parameter, click.Argument) else [parameter.opts[0]]
    assert complete(monkeypatch, capfd, ["basisprune", command, *before, ""]) == expected


def test_commands_and_options_are_listed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    commands = [f"plain,{name}" for name in basisprune.list_commands(click.Context(basisprune))]
    assert complete(monkeypatch, capfd, ["basisprune", ""]) == commands
    options = complete(monkeypatch, capfd, ["basisprune", "compress", "--target-"])
    assert options == ["plain,--target-macs", "plain,--target-params", "plain,--target-latency"]


def test_a_word_in_the_making_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from onnx_basisprune.cli.main import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    words = {VARIABLE: "bash_complete", "COMP_WORDS": "basisprune compress --basis f", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **words}
    )
    answer, _, loaded = done.stdout.partition("LOADED")
    assert answer.split() == ["plain,fisher"]
    assert "onnx_basisprune" in loaded.split()
    assert set(loaded.split()) & set(HEAVY) == set()


def test_bash_completes_with_the_documented_line() -> None:
    bash, command = shutil.which("bash"), Path(sysconfig.get_path("scripts")) / "basisprune"
    if bash is None or sys.platform == "win32" or not command.exists():
        pytest.skip("needs bash and the installed command")
    version = subprocess.run([bash, "-c", "echo ${BASH_VERSINFO[0]}"], capture_output=True, text=True, check=True)
    if int(version.stdout) < 5:  # macOS ships bash 3.2, which click doesn't serve
        pytest.skip("needs bash 5")
    script = (
        'set -eu; eval "$(_BASISPRUNE_COMPLETE=bash_source basisprune)"; complete -p basisprune\n'
        "COMP_WORDS=(basisprune compress --recover s) COMP_CWORD=3 COMPREPLY=()\n"
        '_basisprune_completion basisprune; echo "${COMPREPLY[@]}"'
    )
    path = os.pathsep.join([str(command.parent), os.environ["PATH"]])
    done = subprocess.run(
        [bash, "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}
    )
    registered, completed = done.stdout.splitlines()
    assert registered.endswith("-F _basisprune_completion basisprune")
    assert completed == "scale"
