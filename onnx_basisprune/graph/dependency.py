"""Graph → the groups of coupled channels that can be removed, and why others can't."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto

from onnx_basisprune.graph.channel_rules import trace_operation
from onnx_basisprune.graph.channel_tracer import Coupling, Read, Tracer
from onnx_basisprune.graph.editing import make_unique
from onnx_basisprune.graph.editing import list_overridable
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.graph.shapes import infer_shapes
from onnx_basisprune.planning.channels import FIXED, Labels


@dataclass(frozen=True)
class DependencyGroup:
    """Coupled channels of the same layers: they may go one by one, each from every place at once.

    Attributes:
        name: The first node that makes them.
        channels: `[n]` int64, the classes' representatives, in the order of the first node's outputs.
        blocked_by: Why they must stay, `""` where they may go.
    """

    name: str
    channels: Labels
    blocked_by: str


@dataclass(frozen=True)
class ChannelMap:
    """What removing channels of a graph means.

    Attributes:
        groups: In graph order.
        couplings: Weight axes with the class of each position.
        reads: Where channels are read, with the class of each position.
        labels: Tensor name → the class of each position, see `planning.channels`.
    """

    groups: tuple[DependencyGroup, ...]
    couplings: tuple[Coupling, ...]
    reads: tuple[Read, ...]
    labels: Mapping[str, Labels]


def map_channels(model: ModelProto, input_shapes: Mapping[str, Sequence[int]] | None = None) -> ChannelMap:
    """Trace all channels of a normalised model.

    Args:
        model: A normalised model.
        input_shapes: See `infer_shapes`; the batch is 1.
    """
    program = extract_program(model)
    tracer = Tracer(program, infer_shapes(model, input_shapes), list_overridable(model))
    for operation in program.operations:
        trace_operation(operation, tracer)
    for output in program.outputs:
        if tracer.is_traced(output.name):
            tracer.classes.block(tracer.labels(output.name), f"it is an output of the model, {output.name}")
    find = tracer.classes.find
    return ChannelMap(
        groups=_list_groups(tracer),
        couplings=tuple(replace(coupling, labels=find(coupling.labels)) for coupling in tracer.couplings),
        reads=tuple(replace(read, labels=find(read.labels)) for read in tracer.reads),
        labels={name: find(labels) for name, labels in tracer.traced.items()},
    )


def _list_groups(tracer: Tracer) -> tuple[DependencyGroup, ...]:
    """Group classes that touch the same weight axes."""
    touched: dict[int, list[int]] = {}
    for index, coupling in enumerate(tracer.couplings):
        for root in np.unique(tracer.classes.find(coupling.labels)).tolist():
            if root != FIXED:
                touched.setdefault(root, []).append(index)
    members: dict[tuple[tuple[int, ...], str], list[int]] = {}
    for root, indices in touched.items():
        members.setdefault((tuple(indices), tracer.classes.reason(root)), []).append(root)
    taken: set[str] = set()
    groups = []
    for (indices, reason), roots in sorted(members.items(), key=lambda item: (item[0][0], min(item[1]))):
        name = make_unique(tracer.couplings[indices[0]].node, taken)
        taken.add(name)
        groups.append(DependencyGroup(name, np.array(sorted(roots), dtype=np.int64), reason))
    return tuple(groups)
