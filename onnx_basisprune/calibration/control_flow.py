"""Nodes that hold graphs: If, Loop, Scan, and calls of local functions, run on what their graphs compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import monotonic

import torch

from onnx_basisprune.planning.types import Operation

Tensors = tuple[torch.Tensor, ...]
# Runs an inner graph on the values of its own inputs, in their order, and on outer tensors by name.
RunBody = Callable[[Sequence[torch.Tensor], Mapping[str, torch.Tensor]], Tensors]
RunNode = Callable[..., Tensors]
# What a Loop may take; those of classifiers take milliseconds.
LONGEST_LOOP_SECONDS = 60.0
# Numbers that it may gather over its turns, 1 GiB in float32; an empty tensor counts as one.
LARGEST_STACKS = 2**28
_FIRST_SCAN_WITHOUT_BATCH = 9


def bind_bodies(operation: Operation, bodies: Mapping[str, RunBody]) -> RunNode | None:
    """Return what runs a node with inner graphs on its inputs, `None` for operators that aren't known.

    Args:
        operation: The node; outer tensors that its graphs read stand behind its own inputs.
        bodies: What runs its inner graphs, by attribute name; of a local function by `""`.
    """
    if "" in bodies:
        return lambda *arguments: bodies[""]((), _name_arguments(operation, arguments))
    if operation.domain == "" and operation.op_type == "If":
        return lambda *arguments: _run_if(operation, bodies, arguments)
    if operation.domain == "" and operation.op_type == "Loop":
        return lambda *arguments: _run_loop(operation, bodies["body"], arguments)
    is_scan = operation.domain == "" and operation.op_type == "Scan"
    if is_scan and operation.version >= _FIRST_SCAN_WITHOUT_BATCH:
        return lambda *arguments: _run_scan(operation, bodies["body"], arguments)
    return None


def _name_arguments(operation: Operation, arguments: Sequence[torch.Tensor | None]) -> dict[str, torch.Tensor]:
    """Return what a node was given, by name."""
    return {
        name: tensor for name, tensor in zip(operation.inputs, arguments, strict=True) if name and tensor is not None
    }


def _run_if(operation: Operation, bodies: Mapping[str, RunBody], arguments: Sequence[torch.Tensor | None]) -> Tensors:
    """Run the branch that the condition, the first input, chooses."""
    outer = _name_arguments(operation, arguments)
    return bodies["then_branch" if bool(outer[operation.inputs[0]]) else "else_branch"]((), outer)


def _run_loop(operation: Operation, body: RunBody, arguments: Sequence[torch.Tensor | None]) -> Tensors:
    """Run the body until its condition fails or so many turns are over.

    Inputs are the number of turns and the first condition, both optional, and the states; the body takes its turn's
    number, the condition and the states, and gives the next condition, the states and what is stacked over all turns.
    """
    limit, condition, *rest = arguments
    states = [tensor for tensor in rest[: _count_states(operation)] if tensor is not None]
    outer, stacks, turn = _name_arguments(operation, arguments), list[list[torch.Tensor]](), 0
    condition = torch.tensor(True) if condition is None else condition
    end, stacked_size = monotonic() + LONGEST_LOOP_SECONDS, 0
    while bool(condition) and (limit is None or turn < int(limit)):
        if monotonic() > end:
            raise RuntimeError(f"{turn} turns took over {LONGEST_LOOP_SECONDS:g} s, which is the limit")
        if stacked_size > LARGEST_STACKS:
            raise RuntimeError(f"{turn} turns gave over {LARGEST_STACKS:,} numbers, which is the limit")
        condition, *results = body((torch.tensor(turn), condition, *states), outer)
        stacked = results[len(states) :]
        states = results[: len(states)]
        stacks = stacks or [[] for _ in stacked]
        for stack, tensor in zip(stacks, stacked, strict=True):
            stack.append(tensor)
            stacked_size += tensor.numel() + 1
        turn += 1
    missing = len(operation.outputs) - len(states) - len(stacks)
    return (*states, *(torch.stack(stack) for stack in stacks), *(torch.zeros(0) for _ in range(missing)))


def _run_scan(operation: Operation, body: RunBody, arguments: Sequence[torch.Tensor | None]) -> Tensors:
    """Run the body on one slice after the other.

    Inputs are the states and what is sliced; the body takes the states and the slices, and gives the states and what is
    stacked over all turns.
    """
    attributes, outer = operation.attributes, _name_arguments(operation, arguments)
    given = [tensor for tensor in arguments[: len(operation.bodies["body"].inputs)] if tensor is not None]
    count = int(attributes["num_scan_inputs"])
    if not 0 < count <= len(given):
        raise ValueError(f"num_scan_inputs is {count}, of {len(given)} inputs")
    states, scanned = given[: len(given) - count], given[len(given) - count :]
    axes, backwards = (attributes.get(f"scan_input_{name}") or [0] * count for name in ("axes", "directions"))
    columns = [
        tensor.flip(axis).unbind(axis) if is_backwards else tensor.unbind(axis)
        for tensor, axis, is_backwards in zip(scanned, axes, backwards, strict=True)
    ]
    stacks: list[list[torch.Tensor]] = [[] for _ in operation.outputs[len(states) :]]
    for slices in zip(*columns, strict=True):
        results = body((*states, *slices), outer)
        states = list(results[: len(states)])
        for stack, tensor in zip(stacks, results[len(states) :], strict=False):
            stack.append(tensor)
    axes, backwards = (attributes.get(f"scan_output_{name}") or [0] * len(stacks) for name in ("axes", "directions"))
    return (
        *states,
        *(
            torch.stack(stack[::-1] if is_backwards else stack, axis)
            for stack, axis, is_backwards in zip(stacks, axes, backwards, strict=False)
        ),
    )


def _count_states(operation: Operation) -> int:
    """Return how many of a Loop's inputs are states: its body takes two inputs more."""
    return len(operation.bodies["body"].inputs) - 2
