"""The gradient of the classification loss at the logits (METHOD section 2, "The loss L").

With labels it is that of the cross-entropy, `p - e_label`, or of the binary cross-entropy, `p - y`.

Without labels the true Fisher information is wanted: `E[v vᵀ] = F` with `F = diag(p) - p pᵀ` for a Softmax and
`F = diag(p (1 - p))` for Sigmoids. Drawing a label from the prediction gives such a `v`, but a confident prediction
then gives almost always `v ≈ 0` and rarely a large one. Any other `v` with the same second moment serves as well, since
Gamma and all scores are quadratic in it; with independent signs `e` (Rademacher)

    v = sqrt(p)·e - p (sqrt(p)ᵀ e)       Softmax:  E[v vᵀ] = diag(p) - p pᵀ
    v = sqrt(p (1 - p))·e                Sigmoid

carries every class in one draw, so one backward pass does what several drawn labels do.

Where the model is so sure that p is 1 to the last digit, F vanishes, and with it all scores, though the layers still
decide what it is sure of. So logits are brought nearer to each other where the first is more than `_LARGEST_GAP` above
the second: beside any image that the model is less sure of, such an image still counts nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from onnx_basisprune.errors import DataError, ModelError, quote
from onnx_basisprune.planning.types import Head

_SMALLEST_PROBABILITY = 1e-12
_LARGEST_GAP = 50.0


def flatten_logits(values: torch.Tensor, head: Head) -> torch.Tensor:
    """Return logits as `[n, classes]`, from the head's tensor `[n, C]`, `[n, C, 1, 1]` or `[n, 1, C]`.

    Of a model without a batch axis, that tensor may be `[C]`.

    Raises:
        ModelError: The tensor has more than one axis longer than 1 besides the batch.
    """
    if values.ndim == 1 and not head.has_batch:
        values = values[None]
    if values.ndim < 2 or max(values.shape[1:]) != values[0].numel():
        raise ModelError(
            f"tensor {quote(head.logits)} has shape {list(values.shape)}; expected one row of class scores per "
            f"image: only classifiers are compressed."
        )
    logits = values.flatten(1)
    return logits.clamp_min(_SMALLEST_PROBABILITY).log() if head.kind == "probabilities" else logits


def is_binary(head: Head, classes: int) -> bool:
    """Return whether each unit of the head is a yes-or-no answer of its own."""
    return head.kind == "sigmoid" or classes == 1


def loss_gradient(logits: torch.Tensor, head: Head, labels: NDArray[np.int64]) -> torch.Tensor:
    """Return the gradient of the summed cross-entropy at the logits.

    Args:
        logits: `[n, classes]` float.
        head: Decides between cross-entropy and binary cross-entropy.
        labels: `[n]`, class indices; 0 or 1 where the head has one unit.

    Raises:
        DataError: A label is outside the head's classes.
    """
    classes = logits.shape[1]
    limit = 2 if classes == 1 else classes
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < limit:
        wrong = int(labels.min() if labels.min() < 0 else labels.max())
        raise DataError(
            f"found class index {wrong}, but the model has {limit} classes; expected 0 to {limit - 1}: "
            f"map folders to class indices with --labels."
        )
    target = torch.from_numpy(labels)
    # In float64, for in float32 a confident prediction's 1 - p loses its digits or vanishes.
    z = logits.double()
    if classes == 1:
        gradient = torch.sigmoid(z) - target[:, None]
    else:
        predicted = torch.sigmoid(z) if is_binary(head, classes) else torch.softmax(z, dim=1)
        gradient = predicted - torch.nn.functional.one_hot(target, classes)
    return gradient.to(logits.dtype)


def fisher_gradient(logits: torch.Tensor, head: Head, indices: NDArray[np.int64], seed: int) -> torch.Tensor:
    """Return a random `v` with `E[v vᵀ] = F` for each image, without any label.

    Args:
        logits: `[n, classes]` float.
        head: Decides between the Softmax and the Sigmoid form.
        indices: `[n]`, the images' positions in the data set: each image draws the same signs in every
            pass and at every batch size.
        seed: Seeds the signs.
    """
    classes = logits.shape[1]
    signs = np.stack([np.random.default_rng((seed, int(index))).integers(0, 2, classes) for index in indices])
    e = torch.from_numpy(2 * signs - 1).double()
    z = _limit_gap(logits.double(), head)  # in float64 as in `loss_gradient`
    if is_binary(head, classes):
        return ((torch.sigmoid(z) * torch.sigmoid(-z)).sqrt() * e).to(logits.dtype)
    p = torch.softmax(z, dim=1)
    weighted = p.sqrt() * e
    return (weighted - p * weighted.sum(dim=1, keepdim=True)).to(logits.dtype)


def _limit_gap(z: torch.Tensor, head: Head) -> torch.Tensor:
    """Scale the logits `[n, classes]` of those images down whose best two classes, or yes and no, are too far apart."""
    if is_binary(head, z.shape[1]):
        return z.clamp(-_LARGEST_GAP, _LARGEST_GAP)
    best = z.topk(2, dim=1).values
    gap = best[:, :1] - best[:, 1:]
    return z * (_LARGEST_GAP / gap.clamp_min(_LARGEST_GAP))
