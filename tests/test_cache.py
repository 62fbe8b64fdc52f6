"""The cache keeps what it is given, never hands out what is damaged, and never stops a run."""

from __future__ import annotations

import os
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


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text", "pickled", "no note"])
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
    else:
        path.write_bytes(b"" if damage == "empty" else b"not an archive")
    assert cache.read("key") is None
    assert list_entries(tmp_path) == []
    cache.write("key", {"a": np.arange(3)})
    assert cache.read("key") is not None


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
