"""Graph → the groups of coupled channels that can be removed, and why others can't."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from onnx import ModelProto

from onnx_basisprune.graph.channel_rules import trace_operation
from onnx_basisprune.graph.channel_tracer import Coupling, Read, Tracer
from onnx_basisprune.graph.editing import list_captured, list_overridable, make_unique
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.graph.shapes import infer_shapes
from onnx_basisprune.planning.channels import FIXED, Labels, varying_axes


@dataclass(frozen=True)
class DependencyGroup:
    """Coupled channels of the same tensors: they may go one by one, each from every place at once.

    As long as one of each group stays, no tensor loses all its channels.

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

    @cached_property
    def removable(self) -> Labels:
        """The classes that may go, of all groups."""
        free = [group.channels for group in self.groups if not group.blocked_by]
        return np.concatenate([np.zeros(0, dtype=np.int64), *free])

    def find_kept(self, tensor: str, removed: Labels) -> tuple[int, Labels] | None:
        """Return the axis of a tensor's channels and the positions there that stay, `None` where it has no channels.

        Args:
            tensor: Its name.
            removed: Classes that go.
        """
        labels = self.labels.get(tensor)
        axes = [] if labels is None else varying_axes(labels)
        if labels is None or not axes:
            return None
        return axes[0], np.flatnonzero(~np.isin(labels.reshape(-1), removed))


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
    _block_outlets(tracer, [output.name for output in program.outputs], list_captured(model))
    _block_last_channels(tracer)
    find = tracer.classes.find
    return ChannelMap(
        groups=_list_groups(tracer),
        couplings=tuple(replace(coupling, labels=find(coupling.labels)) for coupling in tracer.couplings),
        reads=tuple(replace(read, labels=find(read.labels)) for read in tracer.reads),
        labels={name: tracer.classes.simplify(labels) for name, labels in tracer.traced.items()},
    )


def _block_outlets(tracer: Tracer, outputs: Sequence[str], captured: Sequence[str]) -> None:
    """Keep channels that are seen from outside: by the caller, and by inner graphs of If, Loop, Scan."""
    for names, reason in ((outputs, "it is an output of the model"), (captured, "an inner graph reads it")):
        for name in names:
            for labels in (tracer.traced.get(name), *tracer.sizes.get(name, ())):
                if labels is not None:
                    tracer.classes.block(labels, f"{reason}, {name}")


def _block_last_channels(tracer: Tracer) -> None:
    """Keep classes that hold all channels of some tensor or weight axis; later couplings may have made them so."""
    for labels in _iterate_labels(tracer):
        roots = np.unique(tracer.classes.find(labels))
        if len(roots) == 1:
            tracer.classes.block(roots, "all channels of a tensor would go at once")


def _iterate_labels(tracer: Tracer) -> Iterator[Labels]:
    """Go through the labels of all weight axes, then of all tensors."""
    yield from (coupling.labels for coupling in tracer.couplings)
    yield from tracer.traced.values()


def _list_groups(tracer: Tracer) -> tuple[DependencyGroup, ...]:
    """Group classes that are in the same weight axes and tensors, and are blocked for the same reason.

    Signatures are refined by one set of labels after the other: two classes keep the same one as long as every set
    holds both or neither.
    """
    count = len(tracer.classes)
    signature, latest = np.zeros(count, dtype=np.int64), 0
    first = np.full(count, -1)
    for index, labels in enumerate(_iterate_labels(tracer)):
        present = np.unique(tracer.classes.find(labels))
        roots = present[present != FIXED]
        _, inverse = np.unique(signature[roots], return_inverse=True)
        signature[roots] = latest + 1 + inverse
        latest = int(signature.max())
        if index < len(tracer.couplings):
            first[roots] = np.where(first[roots] < 0, index, first[roots])
    members: dict[tuple[int, int, str], list[int]] = {}
    for root in np.flatnonzero(first >= 0).tolist():
        members.setdefault((int(first[root]), int(signature[root]), tracer.classes.reason(root)), []).append(root)
    taken: set[str] = set()
    groups = []
    for (index, _, reason), channels in sorted(members.items(), key=lambda item: (item[0][0], min(item[1]))):
        name = make_unique(tracer.couplings[index].node, taken)
        taken.add(name)
        groups.append(DependencyGroup(name, np.array(sorted(channels), dtype=np.int64), reason))
    return tuple(groups)
