"""The cache keeps what it is given, never hands out what is damaged, and never stops a run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import onnx_basisprune.cache as cache_module
from onnx_basisprune.cache import Cache, make_key


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, warnings: list[str]) -> Cache:
    return Cache(tmp_path / "runs", warnings.append, most_bytes=100_000)


def list_entries(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "runs").iterdir())


def test_what_is_written_is_read(cache: Cache) -> None:
    arrays = {"a.b": np.arange(6.0).reshape(2, 3), "c/d": np.array([], np.int64), "text": np.array(["x"])}
    note = {"names": ["<é>"], "none": None, "exact": 0.1 + 0.2}
    cache.write("key", arrays, note)
    found = cache.read("key")
    assert found is not None
    assert found[1] == note
    assert found[0].keys() == arrays.keys()
    for name, values in arrays.items():
        assert found[0][name].dtype == values.dtype
        np.testing.assert_array_equal(found[0][name], values)
    assert cache.read("other") is None


@pytest.mark.parametrize(
    "damage", ["truncated", "flipped", "empty", "text", "pickled", "no note", "other arrays", "another's"]
)
def test_a_damaged_entry_is_none_and_goes(cache: Cache, tmp_path: Path, damage: str) -> None:
    cache.write("key", {"a": np.arange(1000)})
    path = tmp_path / "runs" / "key.npz"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "pickled":
        np.savez(path, a=np.array([{}], dtype=object), meta=np.frombuffer(b"1", np.uint8))
    elif damage == "no note":
        np.savez(path, a=np.arange(3))
    elif damage == "other arrays":
        cache.write("other", {"a": np.arange(1000) + 1})
        with np.load(path) as mine, np.load(path.with_name("other.npz")) as other:
            np.savez(path, meta=mine["meta"], a=other["a"])
        path.with_name("other.npz").unlink()
    elif damage == "another's":
        cache.write("other", {"a": np.arange(1000)})
        path.with_name("other.npz").replace(path)
    else:
        path.write_bytes(b"" if damage == "empty" else b"not an archive")
    assert cache.read("key") is None
    assert list_entries(tmp_path) == []
    cache.write("key", {"a": np.arange(3)})
    assert cache.read("key") is not None


def test_what_there_is_no_room_for_is_not_written(cache: Cache, tmp_path: Path, warnings: list[str]) -> None:
    cache.write("small", {"a": np.arange(3)})
    cache.write("large", {"a": np.zeros(60_000, np.uint8), "b": np.zeros(60_000, np.uint8)})
    assert list_entries(tmp_path) == ["small.npz"]
    assert cache.read("small") is not None
    assert warnings == []


def test_no_damage_gives_other_values(cache: Cache, tmp_path: Path) -> None:
    """Bits flipped anywhere, and cuts anywhere: what was written, or nothing."""
    arrays = {
        "a": np.arange(40).reshape(5, 8),
        "b": np.linspace(0, 1, 30, dtype=np.float32),
        "c": np.array(["x", "yy"]),
    }
    cache.write("key", arrays, {"note": [1, None]})
    path = tmp_path / "runs" / "key.npz"
    sound, rng = path.read_bytes(), np.random.default_rng(0)
    found_whole = 0
    for case in range(600):
        content = bytearray(sound)
        at = int(rng.integers(len(content)))
        if case % 3:
            content[at] ^= 1 << int(rng.integers(8))
        else:
            del content[at:]
        path.write_bytes(content)
        found = cache.read("key")
        if found is None:
            assert not path.exists()
            continue
        # In a time stamp, say, or in a field of the archive that nobody reads.
        found_whole += 1
        assert found[1] == {"note": [1, None]}
        assert found[0].keys() == arrays.keys()
        for name, values in arrays.items():
            assert found[0][name].dtype == values.dtype
            np.testing.assert_array_equal(found[0][name], values)
    assert found_whole < 200


@pytest.mark.parametrize("kind", ["folder", "no rights", "read-only folder"])
def test_what_cannot_be_read_or_replaced_stops_nothing(
    cache: Cache, tmp_path: Path, warnings: list[str], kind: str
) -> None:
    cache.write("key", {"a": np.arange(3)})
    path = tmp_path / "runs" / "key.npz"
    if kind == "folder":
        path.unlink()
        path.mkdir()
    elif sys.platform == "win32" or os.geteuid() == 0:
        pytest.skip("Windows and the root user read and write in spite of modes")
    elif kind == "no rights":
        path.chmod(0)
    else:
        path.parent.chmod(0o500)
    try:
        found = cache.read("key")
        cache.write("key", {"a": np.arange(3)})
        cache.write("other", {"a": np.arange(3)})
    finally:
        path.parent.chmod(0o700)
    assert (found is not None) == (kind == "read-only folder")
    assert len(warnings) == (0 if kind == "no rights" else 1)


def test_a_folder_that_goes_in_the_middle_is_made_again(cache: Cache, tmp_path: Path, warnings: list[str]) -> None:
    cache.write("key", {"a": np.arange(3)})
    shutil.rmtree(tmp_path / "runs")
    assert cache.read("key") is None
    cache.write("key", {"a": np.arange(3)})
    assert cache.read("key") is not None
    assert warnings == []


def test_entries_that_another_process_takes_away_meanwhile_are_no_trouble(
    cache: Cache, tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.glob
    ghosts = [tmp_path / "runs" / name for name in ("gone.npz", "gone.partial")]
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [*real(self, pattern), *ghosts])
    cache.write("key", {"a": np.arange(3)})
    monkeypatch.undo()
    assert cache.read("key") is not None
    assert warnings == []


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from onnx_basisprune.cache import Cache

def complain(message):
    sys.exit(message)

cache = Cache(Path(sys.argv[1]), complain, most_bytes=60_000)
rng = np.random.default_rng(int(sys.argv[2]))
for turn in range(150):
    number = int(rng.integers(12))
    found = cache.read(str(number))
    if found is not None:
        assert found[1] == number and (found[0]["a"] == number).all()
    cache.write(str(number), {"a": np.full(1000, number)}, number)
"""


def test_processes_at_once_and_one_killed_in_between_read_what_was_written(tmp_path: Path) -> None:
    """They write the same entries, and make room for them all the time."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "runs"), str(seed)], stderr=subprocess.PIPE, text=True
        )
        for seed in range(3)
    ]
    while not (tmp_path / "runs").exists() and processes[2].poll() is None:
        time.sleep(0.01)
    processes[2].kill()
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes[:2]] == [0, 0], said


def test_those_not_used_for_longest_make_room(cache: Cache, tmp_path: Path) -> None:
    for age, name in enumerate(("a", "b", "c")):
        cache.write(name, {"x": np.zeros(4000)})
        os.utime(tmp_path / "runs" / f"{name}.npz", (1000.0 + age, 1000.0 + age))
    assert cache.read("a") is not None
    cache.write("d", {"x": np.zeros(4000)})
    assert list_entries(tmp_path) == ["a.npz", "c.npz", "d.npz"]


def test_what_a_killed_run_left_goes_after_a_day(cache: Cache, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    for name, age in (("old.partial", 25 * 3600), ("new.partial", 3600)):
        (folder / name).write_bytes(b"x")
        written = (folder / name).stat().st_mtime - age
        os.utime(folder / name, (written, written))
    cache.write("key", {})
    assert list_entries(tmp_path) == ["key.npz", "new.partial"]


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path, warnings: list[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = Cache(tmp_path / "file" / "runs", warnings.append)
    for _ in range(2):
        cache.write("key", {"x": np.zeros(1)})
        assert cache.read("key") is None
    (warning,) = warnings
    assert "can't be written" in warning


def test_keys_tell_everything_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [
        ("a", 1),
        ("a", 2),
        ("a", np.arange(3)),
        ("a", np.arange(3, dtype=np.int32)),
        ("a", np.arange(3)[::-1]),
        ("a", np.arange(4).reshape(2, 2)),
        ("a", np.arange(4)),
        ({"a": 1},),
        ({"a": None},),
    ]
    keys = [make_key(*item) for item in parts]
    assert len(set(keys)) == len(parts)
    assert make_key({"a": 1, "b": 2}) == make_key({"b": 2, "a": 1})
    monkeypatch.setattr(cache_module, "_hash_code", lambda: "other code")
    assert make_key(*parts[0]) not in keys
