"""Which tensors of a compressed network the recovery compares with the original's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np

from onnx_basisprune.calibration.hints import Hint
from onnx_basisprune.network import Network
from onnx_basisprune.planning.types import Program
from onnx_basisprune.refit_layers import find_output_axis, list_changed

# A step with all of VGG-16's thirteen takes nearly twice as long as with the deeper half, and brings no more.
_MOST_HINTS = 8


def list_hints(network: Network, student: Program, removed: Collection[int]) -> tuple[Hint, ...]:
    """Return tensors that layers read and that a cut has changed, spread over the deeper half of the network.

    Where the network branches, as before each residual block, they are those that several nodes read: all passes there.
    What comes early is large and hardly changed; with it, ResNet-20 stays further from the original.

    Args:
        network: The original.
        student: What is left of it.
        removed: Classes of the original's channels that are gone.
    """
    computed = {name for operation in network.program.operations for name in operation.outputs}
    changed = list_changed(network.program, student) & computed
    layers = (operation for operation in student.operations if find_output_axis(operation) is not None)
    names = list(dict.fromkeys(operation.inputs[0] for operation in layers if operation.inputs[0] in changed))
    readers = Counter(name for operation in student.operations for name in set(operation.inputs))
    branches = [name for name in names[:-1] if readers[name] > 1]
    candidates = [*branches, *names[-1:]] if len(branches) > 1 else names
    deeper = candidates[len(candidates) // 2 :]
    chosen = np.linspace(0, len(deeper) - 1, min(_MOST_HINTS, len(deeper))).round().astype(int)
    return tuple(_describe(network, deeper[index], removed) for index in chosen.tolist())


def _describe(network: Network, name: str, removed: Collection[int]) -> Hint:
    """Return a hint with the channels that are left of it."""
    found = network.channels.find_kept(name, np.fromiter(removed, dtype=np.int64))
    if found is None or found[1].size == network.channels.labels[name].size:
        return Hint(name)
    return Hint(name, found[0], tuple(found[1].tolist()))
