"""A plan as a file that people review and pipelines apply: `--save-plan`, `--plan`.

It holds how many components each layer and how many channels each group keeps, never which ones: bases and scores come
from the weights and the images, and a network that was trained again has others. The same model, images, seed and
options choose the same ones again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnx_basisprune.documents import read_document
from onnx_basisprune.errors import PlanError, quote, summarize_error
from onnx_basisprune.structure import NodeRecord

_FORMAT_VERSION = 1
_REMEDY = "expected a file that `compress --save-plan` wrote."


@dataclass(frozen=True)
class Share:
    """How much is kept of something.

    Attributes:
        kept: Components of a layer, or channels of a group; `None` for a layer that isn't decomposed.
        total: Its full rank, or all channels.
    """

    kept: int | None
    total: int


@dataclass(frozen=True)
class SavedPlan:
    """A plan without the weights that it was made from.

    Attributes:
        made_with: Options and version of the run that made it.
        macs: Multiply-adds for one image, before and after.
        parameters: Their number, before and after.
        layers: Conv that can be decomposed → its rank.
        groups: Dependency group whose channels can go → how many stay.
        input_shape: Of one image, with the batch.
        nodes: The structure of the network that it fits.
    """

    made_with: Mapping[str, Any]
    macs: tuple[int, int]
    parameters: tuple[int, int]
    layers: Mapping[str, Share]
    groups: Mapping[str, Share]
    input_shape: tuple[int, ...]
    nodes: tuple[NodeRecord, ...]


def render_plan(plan: SavedPlan) -> str:
    """Return a plan as JSON text: a line per layer, group and node, in the graph's order, so that `diff` shows more."""
    parts = {
        "format_version": json.dumps(_FORMAT_VERSION),
        "made_with": _render_lines(plan.made_with),
        "macs": json.dumps(dict(zip(("before", "after"), plan.macs, strict=True))),
        "parameters": json.dumps(dict(zip(("before", "after"), plan.parameters, strict=True))),
        "layers": _render_lines({key: {"rank": item.kept, "of": item.total} for key, item in plan.layers.items()}),
        "channels": _render_lines({key: {"keep": item.kept, "of": item.total} for key, item in plan.groups.items()}),
        "input_shape": json.dumps(plan.input_shape),
        "nodes": "[\n" + ",\n".join(f"    {json.dumps(asdict(node))}" for node in plan.nodes) + "\n  ]",
    }
    return "{\n" + ",\n".join(f'  "{key}": {text}' for key, text in parts.items()) + "\n}\n"


def _render_lines(items: Mapping[str, Any]) -> str:
    """Return an object with a line per member."""
    lines = [f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in items.items()]
    return "{\n" + ",\n".join(lines) + "\n  }" if lines else "{}"


def read_plan(path: Path) -> SavedPlan:
    """Read a plan.

    Raises:
        PlanError: The file can't be read, is no plan, or is one of another format.
    """
    try:
        content = json.loads(read_document(path))
    except OSError as error:
        raise PlanError(f"plan {quote(path)} can't be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"plan {quote(path)} isn't JSON ({summarize_error(error)}): {_REMEDY}") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(content, dict) and "nodes" in content and version != _FORMAT_VERSION:
        raise PlanError(
            f"plan {quote(path)} has format_version {quote(version)}; this version of basisprune reads "
            f"{_FORMAT_VERSION}: save the plan again."
        )
    try:
        return SavedPlan(
            made_with=_expect(content["made_with"], dict),
            macs=_read_figures(content["macs"]),
            parameters=_read_figures(content["parameters"]),
            layers={name: _read_share(path, name, item, "rank") for name, item in content["layers"].items()},
            groups={name: _read_share(path, name, item, "keep") for name, item in content["channels"].items()},
            input_shape=tuple(_expect(size, int) for size in content["input_shape"]),
            nodes=tuple(_read_node(node) for node in content["nodes"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PlanError(f"plan {quote(path)} lacks something or has it wrong ({error!r:.80}): {_REMEDY}") from error


def _expect(value: Any, kind: type) -> Any:
    """Return a value of the type that it must have.

    Raises:
        TypeError: It has another one.
    """
    if type(value) is not kind:
        raise TypeError(f"{value!r:.40} isn't of type {kind.__name__}")
    return value


def _read_figures(content: Mapping[str, Any]) -> tuple[int, int]:
    """Return the figures before and after."""
    return _expect(content["before"], int), _expect(content["after"], int)


def _read_share(path: Path, name: str, content: Mapping[str, Any], key: str) -> Share:
    """Return how much is kept.

    Raises:
        PlanError: It is no number of things that could be kept.
    """
    total, kept = _expect(content["of"], int), content[key]
    if key == "rank" and kept is None:
        return Share(None, total)
    if type(kept) is not int or not 1 <= kept <= total:
        raise PlanError(
            f"plan {quote(path)}: {key} of {quote(name)} is {quote(json.dumps(kept))}; "
            f"expected a whole number from 1 to {total}{', or null' * (key == 'rank')}."
        )
    return Share(kept, total)


def _read_node(content: Mapping[str, Any]) -> NodeRecord:
    """Return a node's record."""
    shape = content["output_shape"]
    return NodeRecord(
        _expect(content["name"], str),
        _expect(content["op_type"], str),
        tuple(content["inputs"]),
        _expect(content["attributes"], dict),
        None if shape is None else tuple(shape),
    )
