"""A plan as a file: what is written is read back, a line per thing; whatever else is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onnx_basisprune.errors import PlanError
from onnx_basisprune.plan_file import SavedPlan, Share, read_plan, render_plan
from onnx_basisprune.structure import NodeRecord

PLAN = SavedPlan(
    made_with={"basisprune": "0.1.0", "target": {"macs": 0.5}, "basis": "fisher"},
    macs=(1000, 500),
    parameters=(100, 60),
    layers={"b": Share(3, 16), "a": Share(None, 8)},
    groups={'odd "name"\n': Share(12, 16)},
    input_shape=(1, 3, 8, 8),
    nodes=(NodeRecord("b", "Conv", ("input 0", "float32[16,3,3,3]"), {"pads": [1, 1, 1, 1]}, (1, 16, 8, 8)),),
)


def write(folder: Path, text: str) -> Path:
    path = folder / "plan.json"
    path.write_text(text, encoding="utf-8")
    return path


def change(folder: Path, *keys: str, value: Any) -> Path:
    """Write the plan with one value replaced."""
    content = json.loads(render_plan(PLAN))
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return write(folder, json.dumps(content))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    assert read_plan(write(tmp_path, render_plan(PLAN))) == PLAN


def test_a_plan_of_nothing_is_read_back(tmp_path: Path) -> None:
    empty = SavedPlan({}, (0, 0), (0, 0), {}, {}, (1, 3, 8, 8), ())
    assert read_plan(write(tmp_path, render_plan(empty))) == empty


def test_each_thing_has_a_line_in_the_order_of_the_graph() -> None:
    lines = render_plan(PLAN).splitlines()
    start = lines.index('  "layers": {')
    assert lines[start + 1 : start + 3] == ['    "b": {"rank": 3, "of": 16},', '    "a": {"rank": null, "of": 8}']
    assert lines[1] == '  "format_version": 1,'
    assert render_plan(PLAN).endswith("]\n}\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "isn't JSON"),
        ("[" * 100_000, "isn't JSON"),
        ("[]", "lacks something or has it wrong"),
        ("{}", "lacks something or has it wrong"),
        ('{"format_version": 1, "config": {}}', "lacks something or has it wrong"),
        ('{"format_version": 2, "nodes": []}', "has format_version '2'; this version of basisprune reads 1"),
    ],
)
def test_other_files_are_refused(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=expected):
        read_plan(write(tmp_path, text))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"can't be read: No such file"):
        read_plan(tmp_path / "none.json")
    path = tmp_path / "binary.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="isn't JSON"):
        read_plan(path)


@pytest.mark.parametrize(
    ("keys", "value", "expected"),
    [
        (("layers", "b", "rank"), 0, "rank of 'b' is '0'; expected a whole number from 1 to 16, or null."),
        (("layers", "b", "rank"), 17, "rank of 'b' is '17'"),
        (("layers", "b", "rank"), True, "rank of 'b' is 'true'"),
        (("layers", "b", "rank"), "3", "rank of 'b' is '\"3\"'"),
        (("channels", 'odd "name"\n', "keep"), None, "expected a whole number from 1 to 16."),
        (("layers", "b", "of"), 16.0, "lacks something or has it wrong"),
        (("layers",), [], "lacks something or has it wrong"),
        (("layers", "b"), 3, "lacks something or has it wrong"),
        (("macs", "after"), None, "lacks something or has it wrong"),
        (("nodes",), [{"name": "b"}], "lacks something or has it wrong"),
        (("made_with",), None, "lacks something or has it wrong"),
    ],
)
def test_values_that_nothing_can_be_done_with_are_refused(
    keys: tuple[str, ...], value: Any, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(PlanError) as raised:
        read_plan(change(tmp_path, *keys, value=value))
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)
