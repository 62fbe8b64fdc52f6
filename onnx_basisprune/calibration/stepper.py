"""Runs a graph piece by piece over many images: weights may change before the next piece runs.

All images stand at the same node; of what was computed only the tensors stay that later nodes read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.calibration.gradient_pass import to_channels_last
from onnx_basisprune.planning.types import Program, TensorSpec


class Stepper:
    """A graph that has been run up to some node, for every chunk of images.

    Attributes:
        arrays: Replaced initializers by name; they count from the next piece on.
    """

    arrays: dict[str, NDArray[np.float32]]

    def __init__(self, program: Program, chunks: Sequence[torch.Tensor]) -> None:
        """Stand before the first node.

        Args:
            program: The graph; its first input takes the images.
            chunks: Images, `[n, ...]` each.
        """
        self.arrays = {}
        self._program = program
        self._values = [{program.inputs[0].name: chunk} for chunk in chunks]
        self._position, self._kept = 0, frozenset[str]()
        self._produced_at = {
            name: index for index, operation in enumerate(program.operations) for name in operation.outputs if name
        }
        self._last_read = {
            name: index for index, operation in enumerate(program.operations) for name in operation.inputs if name
        }

    def count_chunks(self) -> int:
        """Return how many chunks of images stand here."""
        return len(self._values)

    def find_producer(self, name: str) -> int:
        """Return the position of the node that computes a tensor, -1 for a graph input."""
        return self._produced_at.get(name, -1)

    def advance(self, end: int, keep: Collection[str] = ()) -> None:
        """Run all nodes before position `end`; stay where that is behind.

        Args:
            end: A position in the program's operations.
            keep: Tensors that are to stay besides those that the nodes from `end` on read.
        """
        end = max(end, self._position)
        start, self._position, self._kept = self._position, end, frozenset(keep)
        self._values = self._run(start, self._values)

    def extend(self, chunks: Sequence[torch.Tensor]) -> None:
        """Bring more images to where the others stand."""
        if chunks:
            name = self._program.inputs[0].name
            self._values = [*self._values, *self._run(0, [{name: chunk} for chunk in chunks])]

    def peek(self, end: int, names: Collection[str]) -> Iterator[dict[str, torch.Tensor]]:
        """Give some tensors for each chunk, running the nodes before `end` without staying there.

        Args:
            end: A position in the program's operations.
            names: Tensors that are held, or that the nodes from the present position to `end` compute.
        """
        executor = self._make_executor(self._position, max(end, self._position), self._values[0])
        for values in self._values:
            fetch = [name for name in names if name not in values]
            computed = executor.run(values, fetch) if fetch else {}
            yield {name: values[name] if name in values else computed[name] for name in names}

    def _run(self, start: int, chunks: Sequence[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        """Run the nodes from `start` to the present position, and return what is to be held there."""
        end = self._position
        names = {name for name, position in self._produced_at.items() if start <= position < end}
        live = {name for name, last in self._last_read.items() if last >= end} | self._kept
        executor, fetch, held = self._make_executor(start, end, chunks[0]), sorted(names & live), []
        for values in chunks:
            computed = executor.run(values, fetch) if fetch else {}
            held.append({name: tensor for name, tensor in {**values, **computed}.items() if name in live})
        return held

    def _make_executor(self, start: int, end: int, given: Collection[str]) -> Executor:
        """Return what runs the nodes from `start` to `end` on the tensors that are given."""
        operations = self._program.operations[start:end]
        read = {name for operation in operations for name in operation.inputs}
        weights = self._program.initializers
        # Reading one may copy it: only those that this piece needs.
        initializers = {
            name: self.arrays[name] if name in self.arrays else weights[name] for name in weights if name in read
        }
        inputs = tuple(TensorSpec(name, "", None) for name in given)
        executor = Executor(replace(self._program, operations=operations, initializers=initializers, inputs=inputs))
        executor.parameters = {name: to_channels_last(tensor) for name, tensor in executor.parameters.items()}
        return executor
