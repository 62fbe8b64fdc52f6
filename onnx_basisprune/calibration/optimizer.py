"""The recovery's optimiser: orthogonalised momentum for matrices, Adam for everything else.

A gradient's singular values fall off steeply, so a step along it moves a matrix in few directions. Setting them all to
1 (Muon; Jordan, https://kellerjordan.github.io/posts/muon) moves it in all of them, and gets further in as many steps.
It takes rows that read the same inputs: a depthwise kernel is no matrix in this sense, and left to Adam.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import sqrt

import torch

# Of the momentum; it is looked ahead along (Nesterov).
_MOMENTUM = 0.95
# A matrix moves in all directions at once, and so by so much less of its size in a step than Adam moves a vector.
_SHARE = 0.3
# Of the quintic iteration towards singular values of 1: chosen by Jordan so that five steps take those from about 0.005
# on to between 0.7 and 1.2.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_TINY = torch.finfo(torch.float32).tiny


class Optimizer:
    """Moves the changes of a student's weights, which start at 0, against their gradients."""

    def __init__(self, changes: Mapping[str, torch.Tensor], matrices: Collection[str]) -> None:
        """Remember no gradient yet.

        Args:
            changes: What is trained, by name.
            matrices: The names of those that map the same inputs to each of their rows: `[rows, ...]`.
        """
        self._changes = list(changes.values())
        self._matrices = [(changes[name], torch.zeros_like(changes[name])) for name in sorted(matrices)]
        others = [change for name, change in changes.items() if name not in matrices]
        self._adam = torch.optim.Adam(others, fused=True) if others else None

    def clear_gradients(self) -> None:
        """Forget the gradients of the last step."""
        for change in self._changes:
            change.grad = None

    @torch.no_grad()
    def take_step(self, rate: float) -> None:
        """Move by about `rate`, in each change's own unit."""
        if self._adam is not None:
            self._adam.param_groups[0]["lr"] = rate
            self._adam.step()
        for change, momentum in self._matrices:
            if change.grad is None:
                continue
            momentum.lerp_(change.grad, 1 - _MOMENTUM)
            ahead = change.grad.lerp(momentum, _MOMENTUM)
            direction = orthogonalize(ahead.reshape(len(ahead), -1))
            # The mean square of its entries is then about 1 (Liu et al., arXiv 2502.16982, section 2.2).
            change.add_(direction.view(change.shape), alpha=-rate * _SHARE * sqrt(max(direction.shape)))


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix with the same singular vectors, and all singular values near 1, but those that are almost 0.

    Args:
        matrix: `[m, n]` float.
    """
    a, b, c = _COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    X: torch.Tensor = (matrix.T if is_tall else matrix) / torch.linalg.matrix_norm(matrix).clamp_min(_TINY)
    for _ in range(_ITERATIONS):
        gram = X @ X.T
        X = a * X + (b * gram + c * gram @ gram) @ X
    return X.T if is_tall else X
