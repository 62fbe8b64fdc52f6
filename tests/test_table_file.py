"""The file of a latency table: made, reused, pinned, damaged, shared, out of reach."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from onnx_basisprune import table_file
from onnx_basisprune.errors import ConfigError, OutputError
from onnx_basisprune.progress import Recorder, Silence
from onnx_basisprune.runtime.cache_folder import CACHE_VARIABLE
from onnx_basisprune.runtime.latency_table import read_table
from onnx_basisprune.runtime.layer_timing import TimingSettings
from onnx_basisprune.table_file import TableFile

SETTINGS = TimingSettings(threads=1)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache" / "of basisprune"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fake the machine; return what is found out about it, in order."""
    found: list[str] = []

    def answer(name: str, value: float) -> Any:
        def probe(*_: Any) -> float:
            found.append(name)
            return value

        return probe

    monkeypatch.setattr(table_file, "detect_block", answer("block", 16))
    monkeypatch.setattr(table_file, "measure_overhead", answer("overhead", 2.5))
    return found


def make_recorder() -> Recorder:
    return Recorder(Silence())


def fill(path: Path | None, **layers: float) -> TableFile:
    """Open a table, add times and save it."""
    file = TableFile(path, SETTINGS)
    file.table.layers.update(layers)
    recorder = make_recorder()
    file.save(recorder)
    assert recorder.warnings == []
    return file


def test_the_users_table_grows_from_run_to_run(cache: Path, probes: list[str]) -> None:
    fill(None, a=1.0)
    (path,) = cache.iterdir()
    assert (path.suffix, path.name.startswith("latency-")) == (".json", True)
    second = fill(None, b=2.0)
    assert second.table.layers == {"a": 1.0, "b": 2.0}
    assert (second.table.block, second.table.overhead, second.table.pinned) == (16, 2.5, False)
    # The machine was found out about once.
    assert probes == ["block", "overhead"]
    assert [item.name for item in cache.iterdir()] == [path.name]


def test_each_environment_has_a_table_of_its_own(cache: Path, probes: list[str]) -> None:
    fill(None, a=1.0)
    assert TableFile(None, TimingSettings(threads=2)).table.layers == {}
    # However the provider is spelled.
    assert TableFile(None, TimingSettings(1, "CPUExecutionProvider")).table.layers == {"a": 1.0}


@pytest.mark.parametrize("damage", ["truncate", "empty", "foreign", "junk", "nan", "digit", "folder"])
def test_a_damaged_table_is_measured_again(cache: Path, probes: list[str], damage: str) -> None:
    fill(None, a=1.0)
    (path,) = cache.iterdir()
    content = json.loads(path.read_text(encoding="utf-8"))
    if damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "truncate":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "foreign":
        content["environment"]["cpu"] = "another"
        path.write_text(json.dumps(content), encoding="utf-8")
    elif damage == "nan":
        path.write_text(json.dumps({**content, "layers": {"a": float("nan")}}), encoding="utf-8")
    elif damage == "digit":
        path.write_text(path.read_text(encoding="utf-8").replace('"a": 1.0', '"a": 9.0'), encoding="utf-8")
    else:
        path.write_bytes(b"" if damage == "empty" else b"\xff{")
    again = TableFile(None, SETTINGS)
    assert again.table.layers == {}
    assert probes == ["block", "overhead"] * 2
    again.table.layers["b"] = 2.0
    recorder = make_recorder()
    again.save(recorder)
    if damage == "folder":
        assert "nothing can be kept for later runs" in recorder.warnings[0]
        return
    found = read_table(path)
    assert found is not None
    assert found.layers == {"b": 2.0}
    assert found.environment == again.table.environment


def test_a_cache_that_cannot_be_written_only_warns(
    cache: Path, probes: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file lies where the folder should be: that holds on every system, and for every user."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    file, recorder = TableFile(None, SETTINGS), make_recorder()
    file.table.layers["a"] = 1.0
    for _ in range(2):  # it is saved more than once in a run, and told once
        file.save(recorder)
    assert len(recorder.warnings) == 1
    assert "nothing can be kept for later runs" in recorder.warnings[0]
    assert file.table.layers == {"a": 1.0}


def test_a_named_table_is_made(cache: Path, probes: list[str], tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    file = fill(path, a=1.0)
    assert not file.table.pinned
    # A run saves more than once.
    file.save(make_recorder())
    found = read_table(path)
    assert found is not None
    assert found.layers == {"a": 1.0}
    assert not cache.exists()


def test_the_users_table_can_be_pinned_and_a_named_one_edited(cache: Path, probes: list[str], tmp_path: Path) -> None:
    fill(None, a=1.0)
    (path,) = cache.iterdir()
    assert TableFile(path, SETTINGS).table.layers == {"a": 1.0}
    named = tmp_path / "table.json"
    fill(named, a=1.0)
    named.write_text(named.read_text(encoding="utf-8").replace('"a": 1.0', '"a": 9.0'), encoding="utf-8")
    assert TableFile(named, SETTINGS).table.layers == {"a": 9.0}


def test_a_pinned_table_never_changes(cache: Path, probes: list[str], tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    fill(path, a=1.0)
    # Another machine's, and laid out by hand.
    content = json.loads(path.read_text(encoding="utf-8"))
    content["environment"]["cpu"] = "another"
    path.write_text(json.dumps(content), encoding="utf-8")
    before, probed = path.read_bytes(), list(probes)
    pinned = fill(path, b=2.0)
    assert pinned.table.pinned
    assert path.read_bytes() == before
    assert (probes, cache.exists()) == (probed, False)


@pytest.mark.parametrize("content", [b"", b"{}", b"onnx"])
def test_a_named_file_that_is_no_table_is_refused_and_stays(
    cache: Path, probes: list[str], tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"model\.onnx' is not a latency table"):
        TableFile(path, SETTINGS)
    assert path.read_bytes() == content
    with pytest.raises(ConfigError, match="is not a latency table"):
        TableFile(tmp_path, SETTINGS)
    assert probes == []


def test_a_named_table_that_cannot_be_written_is_an_error(cache: Path, probes: list[str], tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    file = TableFile(tmp_path / "sub" / "t.json", SETTINGS)
    (tmp_path / "sub").rmdir()
    with pytest.raises(OutputError):
        file.save(make_recorder())


def test_what_another_process_measured_meanwhile_stays(cache: Path, probes: list[str]) -> None:
    first, second = (TableFile(None, SETTINGS) for _ in range(2))
    first.table.layers["a"] = 1.0
    second.table.layers["b"] = 2.0
    first.save(make_recorder())
    second.save(make_recorder())
    assert TableFile(None, SETTINGS).table.layers == {"a": 1.0, "b": 2.0}


SCRIPT = """
import sys
from onnx_basisprune import table_file
from onnx_basisprune.progress import Recorder, Silence
from onnx_basisprune.runtime.layer_timing import TimingSettings

table_file.detect_block = lambda *_: 16
table_file.measure_overhead = lambda *_: 2.5
for turn in range(15):
    file = table_file.TableFile(None, TimingSettings(threads=1))
    file.table.layers.update({f"{sys.argv[1]} {turn} {'x' * 200} {index}": 1.0 for index in range(40)})
    file.save(Recorder(Silence()))
"""


def test_two_processes_at_once_leave_a_whole_table(cache: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", SCRIPT, name]) for name in "ab"]
    assert [process.wait(120) for process in processes] == [0, 0]
    # No half-written file is left beside it, either.
    (path,) = cache.iterdir()
    table = read_table(path)
    assert table is not None
    assert len(table.layers) >= 15 * 40


def test_a_real_table_of_this_machine(cache: Path) -> None:
    table = TableFile(None, SETTINGS).table
    assert table.block in (1, 4, 8, 16, 32)
    assert table.overhead >= 0
    assert table.environment["threads"] == 1
    assert table.environment["execution_provider"] == "CPUExecutionProvider"
    assert set(table.environment) == {"cpu", "usable_cores", "execution_provider", "threads", "onnxruntime"}
