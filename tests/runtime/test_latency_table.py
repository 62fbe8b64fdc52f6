"""The table of times: round trip, merging, digests, and files that aren't tables."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnx_basisprune.errors import ConfigError
from onnx_basisprune.runtime.latency_table import LatencyTable, name_table, read_pinned_table, read_table

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NUMBERS = st.floats(1e-6, 1e9)
TABLES = st.builds(
    LatencyTable,
    environment=st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=5), max_size=3),
    block=st.sampled_from([1, 8, 16]),
    overhead=st.floats(0, 100, allow_subnormal=False),
    layers=st.dictionaries(st.text(max_size=8), NUMBERS, max_size=4),
    models=st.dictionaries(
        st.text(max_size=8), st.dictionaries(st.text(max_size=5), st.floats(0, 1e9, allow_subnormal=False), max_size=3)
    ),
    scales=st.dictionaries(st.text(max_size=8), NUMBERS, max_size=3),
)
REUSED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def make_table(**changes: Any) -> LatencyTable:
    table = LatencyTable(
        environment={"cpu": "Ürbrüd", "threads": None},
        block=16,
        overhead=3.5,
        layers={"a": 1.25, "b": 7.0},
        models={"m": {"conv": 2.0, "": 0.0}},
        scales={"m": 1.1},
    )
    return replace(table, **changes)


@REUSED
@given(table=TABLES)
def test_round_trip(tmp_path: Path, table: LatencyTable) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(table.render().encode())
    assert read_table(path) == table
    pinned = read_pinned_table(path)
    assert pinned == replace(table, pinned=True)
    # The file's own SHA-256, as any tool tells it.
    assert pinned.digest() == table.digest() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_content_is_the_same_text() -> None:
    table = make_table()
    other = make_table(layers={"b": 7.0, "a": 1.25}, pinned=True)
    assert other.render() == table.render()
    assert json.loads(table.render())["format_version"] == 1
    assert make_table(block=8).digest() != table.digest()


@REUSED
@given(data=st.data())
def test_a_truncated_table_is_none(tmp_path: Path, data: st.DataObject) -> None:
    path, content = tmp_path / "t.json", make_table().render().encode()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 3))])
    assert read_table(path) is None


@REUSED
@given(content=JUNK)
def test_other_json_is_none(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert read_table(path) is None


@REUSED
@given(content=st.binary(max_size=60))
def test_other_bytes_are_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content)
    assert read_table(path) is None


@REUSED
@given(field=st.sampled_from(["environment", "block", "overhead", "layers", "models", "scales"]), value=JUNK)
def test_a_table_with_one_strange_field_is_none_or_sound(tmp_path: Path, field: str, value: Any) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps({**json.loads(make_table().render()), field: value}), encoding="utf-8")
    table = read_table(path)
    if table is not None:
        # Then it can be worked with.
        path.write_text(table.render(), encoding="utf-8")
        assert read_table(path) == table
        assert all(time > 0 for time in [*table.layers.values(), *table.scales.values()])
        assert table.block >= 1
        assert dict(table.environment) == table.environment
        assert all(0 <= time < float("inf") for times in table.models.values() for time in times.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": 2},
        {"format_version": None},
        {"block": 0},
        {"block": 10**30},
        {"block": True},
        {"block": 8.0},
        {"overhead": -1.0},
        {"overhead": float("nan")},
        {"overhead": "3"},
        {"overhead": 10**400},
        {"layers": {"a": 0.0}},
        {"layers": {"a": -1.0}},
        {"layers": {"a": float("inf")}},
        {"layers": {"a": None}},
        {"layers": [1.0]},
        {"models": {"m": {"conv": float("nan")}}},
        {"models": {"m": 1.0}},
        {"scales": {"m": 0.0}},
        {"scales": {"m": True}},
        {"environment": None},
        # What comes from a file isn't pinned because the file says so.
        {"pinned": True},
        {"more": 1},
    ],
)
def test_what_no_run_writes_is_none(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps({**json.loads(make_table().render()), **changes}), encoding="utf-8")
    assert read_table(path) is None
    with pytest.raises(ConfigError, match=r"t\.json' is not a latency table") as caught:
        read_pinned_table(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("field", ["format_version", "environment", "block", "overhead"])
def test_a_table_that_lacks_something_is_none(tmp_path: Path, field: str) -> None:
    path = tmp_path / "t.json"
    content = json.loads(make_table().render())
    del content[field]
    path.write_text(json.dumps(content), encoding="utf-8")
    assert read_table(path) is None


def test_missing_files_folders_and_deep_nesting_are_none(tmp_path: Path) -> None:
    assert read_table(tmp_path / "nowhere.json") is None
    assert read_table(tmp_path) is None
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert read_table(tmp_path / "deep.json") is None
    with pytest.raises(ConfigError, match="is not a latency table"):
        read_pinned_table(tmp_path)


def test_merging_takes_what_is_missing_and_keeps_the_rest() -> None:
    table = make_table()
    other = make_table(layers={"a": 99.0, "c": 3.0}, models={"m": {}, "n": {"": 1.0}}, scales={"m": 9.0, "n": 2.0})
    table.merge(other)
    assert table.layers == {"a": 1.25, "b": 7.0, "c": 3.0}
    assert table.models == {"m": {"conv": 2.0, "": 0.0}, "n": {"": 1.0}}
    assert table.scales == {"m": 1.1, "n": 2.0}
    assert other.layers == {"a": 99.0, "c": 3.0}


@pytest.mark.parametrize("changes", [{"environment": {"cpu": "other"}}, {"block": 8}])
def test_nothing_is_merged_from_another_machine(changes: dict[str, Any]) -> None:
    table = make_table()
    table.merge(make_table(layers={"c": 3.0}, **changes))
    assert table == make_table()


def test_the_name_is_that_of_the_environment() -> None:
    environment = {"cpu": "x", "threads": 2}
    name = name_table(environment)
    assert name == name_table(dict(reversed(environment.items())))
    assert name.startswith("latency-")
    assert Path(name).suffix == ".json"
    assert name != name_table({"cpu": "x", "threads": None})
