"""Channel rule of Einsum: an index is an axis of some operands and perhaps of the output; its channels go together."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_basisprune.graph.channel_rules_linear import make_labels
from onnx_basisprune.graph.channel_tracer import Tracer, UntraceableError
from onnx_basisprune.planning.channels import Labels, fixed_labels, place, read_axis, varying_axes
from onnx_basisprune.planning.types import Operation


def trace_einsum(operation: Operation, tracer: Tracer) -> None:
    """Channels of activations are read where their index is summed over, else they go on; weights make new ones."""
    terms, result = _read_equation(operation)
    known = _find_channels(operation, tracer, terms)
    for index, labels in known.items():
        _couple_operands(operation, tracer, terms, index, labels)
        if index not in result:
            position = next(
                at for at, term in enumerate(terms) if index in term and tracer.is_traced(operation.inputs[at])
            )
            tracer.read(operation, position, terms[position].index(index))
    passed = [index for index in known if index in result]
    if len(passed) > 1:
        raise UntraceableError("its inputs have their channels on different axes")
    made = {} if passed else _find_new_indices(operation, tracer, terms, result)
    if made:
        index = max(made, key=lambda item: made[item])  # one axis of a tensor has channels: the longest
        passed, known[index] = [index], make_labels(tracer, made[index])
        _couple_operands(operation, tracer, terms, index, known[index])
    rank = len(result)
    labels = place(known[passed[0]], rank, result.index(passed[0])) if passed else fixed_labels(rank)
    tracer.set(operation.outputs[0], labels)


def _read_equation(operation: Operation) -> tuple[list[str], str]:
    """Return the indices of each operand and of the output.

    Raises:
        UntraceableError: The output's are implied, some stand for several axes, or a diagonal is taken.
    """
    left, arrow, result = operation.attributes["equation"].replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or any("." in term or len(set(term)) < len(term) for term in (*terms, result)):
        raise UntraceableError("its equation has implied or repeated indices")
    return terms, result


def _find_channels(operation: Operation, tracer: Tracer, terms: Sequence[str]) -> dict[str, Labels]:
    """Return the labels of each index that has channels, united over the operands."""
    known: dict[str, Labels] = {}
    for name, term in zip(operation.inputs, terms, strict=True):
        for axis in varying_axes(tracer.labels(name)):
            labels = read_axis(tracer.labels(name), axis)
            first = known.setdefault(term[axis], labels)
            tracer.classes.unite(first, labels, "it is multiplied with channels that must stay")
    return known


def _couple_operands(operation: Operation, tracer: Tracer, terms: Sequence[str], index: str, labels: Labels) -> None:
    """Let every weight with an index follow its labels.

    Raises:
        UntraceableError: An activation has the index, but no channels there.
    """
    for position, (name, term) in enumerate(zip(operation.inputs, terms, strict=True)):
        if index not in term or tracer.is_traced(name) or tracer.shape(name)[term.index(index)] == 1:
            continue
        if tracer.constant(name) is None:
            raise UntraceableError("it multiplies channels with a tensor that isn't pruned")
        tracer.couple(operation, position, term.index(index), labels)


def _find_new_indices(operation: Operation, tracer: Tracer, terms: Sequence[str], result: str) -> dict[str, int]:
    """Return the sizes of the output's indices that only weights have."""
    activations = [term for name, term in zip(operation.inputs, terms, strict=True) if tracer.constant(name) is None]
    sizes = dict(zip(result, tracer.shape(operation.outputs[0]), strict=True))
    return {index: size for index, size in sizes.items() if not any(index in term for term in activations)}
