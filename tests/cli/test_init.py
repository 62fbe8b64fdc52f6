"""`basisprune init`: a file that lists every option, changes nothing, and is never written over another one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from onnx_basisprune import pipeline
from onnx_basisprune.cli.config_file import list_keys, read_config
from onnx_basisprune.cli.main import basisprune
from onnx_basisprune.cli.sections import SectionOption
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.errors import DataError

MODEL = Path(__file__).resolve().parents[2] / "sample_models" / "digits.onnx"
CONFIGURED = {name: item for name, item in basisprune.commands.items() if getattr(item, "reads_config", False)}


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    shutil.copy(MODEL, tmp_path / "models" / "net.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(basisprune, arguments)


def uncomment(text: str) -> list[str]:
    """Return the lines of options, without what marks them as comments."""
    return [line[1:] for line in text.splitlines() if re.match("#[a-z]", line)]


def test_it_tells_what_was_found(folder: Path) -> None:
    result = run("init", "models/net.onnx")
    assert result.exit_code == 0, result.stderr
    text = (folder / "basisprune.toml").read_text(encoding="utf-8")
    for line in (
        "Input image: float32 ?x3x16x16",
        "Classes: 10",
        "MACs: 5,485,184, parameters: 170,058",
        "Coupled channels: 320 of 330 can go, in 8 groups.",
    ):
        assert f"# {line}\n" in text
        assert f"{line}\n" in result.stdout
    assert max(map(len, text.splitlines())) <= 100


def test_every_option_is_listed_once_with_its_help(folder: Path) -> None:
    run("init", "models/net.onnx")
    text = (folder / "basisprune.toml").read_text(encoding="utf-8")
    parts = dict(zip(["compress", *re.findall(r"(?m)^\[(.*)\]$", text)], re.split(r"(?m)^\[.*\]$", text), strict=True))
    assert list(parts) == ["compress", *(name for name in CONFIGURED if name != "compress")]
    prose = " ".join(re.sub(r"(?m)^# ?", "", text).split())
    for name, command in CONFIGURED.items():
        options = {key: param for key, param in list_keys(command).items() if isinstance(param, SectionOption)}
        listed = [key for key, param in options.items() if name == "compress" or not param.is_shared]
        assert [line.partition(" = ")[0] for line in uncomment(parts[name])] == listed
        for param in options.values():
            assert " ".join((param.help or "?").partition("  [default")[0].split()) in prose


def test_as_it_stands_it_sets_the_model_and_nothing_else(folder: Path) -> None:
    run("init", "models/net.onnx", "-o", "models/some.toml")
    content = dict(read_config(Path("models/some.toml")).content)
    assert content.pop("model") == "net.onnx"
    assert content == {name: {} for name in CONFIGURED if name != "compress"}


def test_the_defaults_in_it_are_those_of_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def stop(config: CompressionConfig, _progress: object) -> None:
        seen.append(config)
        raise DataError("enough.")

    monkeypatch.setattr(pipeline, "compress", stop)
    run("init", "models/net.onnx")
    file = folder / "basisprune.toml"
    text = file.read_text(encoding="utf-8")
    # What has no default stands in capitals, or as one of several choices.
    lines = [line for line in uncomment(text.partition("\n[")[0]) if not re.search("[A-Z]|\\|", line)]
    assert len(lines) > 15
    file.write_text("\n".join(['model = "models/net.onnx"', *lines]), encoding="utf-8")
    result = run("compress", "--data", "d")
    assert result.stderr.endswith("Error: enough.\n")
    assert seen == [CompressionConfig(model=Path("models/net.onnx"), data=Path("d"))]


def test_nothing_is_written_over_without_force(folder: Path) -> None:
    file = folder / "basisprune.toml"
    file.write_text("nonsense = [", encoding="utf-8")
    result = run("init", "models/net.onnx")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "exists already: choose another name or add --force" in result.stderr
    assert file.read_text(encoding="utf-8") == "nonsense = ["
    assert run("init", "models/net.onnx", "--force", "-q").stdout == ""
    assert read_config(Path("basisprune.toml")).content["model"] == "models/net.onnx"


def test_a_model_that_cannot_be_read_leaves_nothing(folder: Path) -> None:
    Path("bad.onnx").write_bytes(b"nonsense")
    result = run("init", "bad.onnx")
    assert (result.exit_code, result.stdout) == (1, "")
    assert not (folder / "basisprune.toml").exists()
