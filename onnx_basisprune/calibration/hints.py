"""Hints: tensors inside both graphs that the recovery compares, beside the outputs (Romero et al., arXiv 1412.6550).

The logits of a few thousand images are soon learnt by heart; what is in between says much more about each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Hint:
    """A tensor that the original and the compressed graph compute.

    Attributes:
        name: Its name in both.
        axis: The axis of its channels.
        kept: Those of the original's channels that the compressed graph has, `None` for all.
    """

    name: str
    axis: int = 0
    kept: tuple[int, ...] | None = None


class HintLoss:
    """How far hints are from the original's, relative to how much those vary.

    Attributes:
        names: The tensors that are compared.
    """

    def __init__(self, hints: Sequence[Hint], sample: Mapping[str, torch.Tensor]) -> None:
        """Leave out what doesn't vary.

        Args:
            hints: What may be compared.
            sample: By name, what the original makes of some images.
        """
        self._axes = {hint.name: hint.axis for hint in hints}
        self._kept = {hint.name: torch.tensor(hint.kept) for hint in hints if hint.kept is not None}
        variances = {hint.name: float(self._pick(hint.name, sample).var(correction=0)) for hint in hints}
        self._scales = {name: 1 / variance for name, variance in variances.items() if variance > 0}
        self.names = list(self._scales)

    def _pick(self, name: str, original: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return a hint of the original without the channels that are gone, in float32."""
        tensor, kept = original[name], self._kept.get(name)
        return (tensor if kept is None else tensor.index_select(self._axes[name], kept)).float()

    def measure(self, compressed: Mapping[str, torch.Tensor], original: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean over the hints of their squared error divided by their variance.

        Args:
            compressed: By name, what the compressed graph computes.
            original: By name, what the original does, with all channels.
        """
        errors = [
            scale * torch.nn.functional.mse_loss(compressed[name].float(), self._pick(name, original))
            for name, scale in self._scales.items()
        ]
        return torch.stack(errors).mean()
