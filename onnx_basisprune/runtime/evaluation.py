"""How often a classifier is right: scores → predictions → accuracy and drop, with their intervals.

Images stream through in batches; per image only its predicted class, its label and one bit remain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.errors import DataError, ModelError
from onnx_basisprune.results import Accuracy, Interval
from onnx_basisprune.runtime.intervals import compute_paired_interval, compute_wilson_interval

# Below six classes the label is (nearly) always among the best five.
_FEWEST_FOR_TOP5 = 6


class Batch(Protocol):
    """What `evaluate` reads of a batch: images `x [n, ...]`, labels `y [n]` or `None`."""

    @property
    def x(self) -> NDArray[Any]:
        """The images."""

    @property
    def y(self) -> NDArray[Any] | None:
        """Their class indices."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about each image.

    Attributes:
        classes: int64 `[n]`, the predicted class.
        class_count: Classes the model can tell apart; 2 for a single unit.
        labels: int64 `[n]`, or `None` without labels.
        top5_hit: bool `[n]`, whether the label is among the best five; `None` without labels or below 6
            classes.
    """

    classes: NDArray[np.int64]
    class_count: int
    labels: NDArray[np.int64] | None = None
    top5_hit: NDArray[np.bool_] | None = None


def to_scores(output: NDArray[Any]) -> NDArray[Any]:
    """Return a classifier's output as one row of scores per image.

    Args:
        output: `[n, C]` with any number of dimensions of size 1 behind or between (`[n, C, 1, 1]`,
            `[n, 1, C]`), or `[n]` for a single unit. Floating point or quantized to 8 bit.

    Returns:
        `[n, C]`; float16 becomes float32, all else keeps its type.

    Raises:
        ModelError: It isn't a numeric array of that shape, or holds NaN.
    """
    if not isinstance(output, np.ndarray) or output.ndim == 0:
        raise ModelError(
            f"The model's output is {type(output).__name__} without rows; expected an array of class scores "
            "[images, classes]; choose the output that holds them."
        )
    if output.dtype.kind != "f" and output.dtype not in (np.uint8, np.int8):
        raise ModelError(
            f"The model's output is {output.dtype}; expected floating-point class scores; if the model ends "
            "with ArgMax or the like, cut it off before that node."
        )
    if sum(size != 1 for size in output.shape[1:]) > 1:
        raise ModelError(
            f"The model's output has shape {list(output.shape)}; expected one score per class, "
            "[images, classes]; only image classifiers can be evaluated."
        )
    scores = output.reshape(len(output), -1) if output.size else output.reshape(len(output), output.size)
    if np.isnan(scores).any():
        row = int(np.isnan(scores).any(axis=1).argmax())
        raise ModelError(
            f"The model's scores for image {row} of a batch are NaN; expected numbers; check the "
            "preprocessing (a wrong scale or std can overflow) and the weights."
        )
    return scores.astype(np.float32) if scores.dtype == np.float16 else scores


def count_classes(scores: NDArray[Any]) -> int:
    """Return how many classes scores `[n, C]` tell apart: C, or 2 for a single unit."""
    units = int(scores.shape[1])
    return 2 if units == 1 else units


def predict_classes(scores: NDArray[Any], head_kind: str) -> NDArray[np.int64]:
    """Return the predicted class of each image.

    Args:
        scores: `[n, C]`, the graph's output, so after the Sigmoid or Softmax if there is one.
        head_kind: See `planning.types.Head.kind`.

    Returns:
        int64 `[n]`: the best class; of a single unit 1 where its probability exceeds 0.5 (a logit: 0),
        else 0.

    Raises:
        ModelError: A single unit whose scores always sum to 1 can't tell anything apart.
    """
    if scores.shape[1] != 1:
        return np.asarray(scores.argmax(axis=1), dtype=np.int64)
    if head_kind in ("softmax", "probabilities"):
        raise ModelError(
            f"The model's output is a single unit of {head_kind}, which is always 1; expected at least two "
            "classes, or a single unit with Sigmoid."
        )
    threshold = 0.5 if head_kind == "sigmoid" else 0.0
    return (scores[:, 0] > threshold).astype(np.int64)


def evaluate(
    predict: Callable[[NDArray[Any]], NDArray[Any]],
    batches: Iterable[Batch],
    head_kind: str,
    progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Run a model over batches of images and keep what it predicted.

    Args:
        predict: `x [n, ...]` to the class scores, in any shape that `to_scores` takes.
        batches: Either all with labels or all without.
        head_kind: See `predict_classes`.
        progress: Called with the number of images after each batch.

    Returns:
        The predictions in the order of the images.

    Raises:
        DataError: There are no images, labels are not class indices of this model, or only some have labels.
        ModelError: The output isn't that of a classifier; see `to_scores`.
    """
    classes: list[NDArray[np.int64]] = []
    labels: list[NDArray[np.int64] | None] = []
    hits: list[NDArray[np.bool_]] = []
    class_count = 0
    for batch in batches:
        scores = to_scores(predict(batch.x))
        if len(scores) != len(batch.x):
            raise ModelError(
                f"The model gave {len(scores)} rows of scores for {len(batch.x)} images; expected one each; "
                "export it with a dynamic batch."
            )
        class_count = count_classes(scores)
        classes.append(predict_classes(scores, head_kind))
        y = None if batch.y is None else _check_labels(batch.y, len(batch.x), class_count)
        labels.append(y)
        if y is not None and class_count >= _FEWEST_FOR_TOP5:
            hits.append(_find_top5_hits(scores, y))
        if progress is not None:
            progress(len(batch.x))
    if not classes:
        raise DataError("There are no images to evaluate on; give a folder or an .npz with at least one image.")
    known = [y for y in labels if y is not None]
    if known and len(known) != len(labels):
        raise DataError("Only some of the images have labels; label all of them or none.")
    return Predictions(
        np.concatenate(classes),
        class_count,
        np.concatenate(known) if known else None,
        np.concatenate(hits) if hits else None,
    )


def _check_labels(y: NDArray[Any], n: int, class_count: int) -> NDArray[np.int64]:
    """Return labels as int64 `[n]`, or refuse those that aren't class indices of the model."""
    if y.shape != (n,) or y.dtype.kind not in "iu":
        raise DataError(
            f"Labels are {y.dtype} of shape {list(y.shape)} for {n} images; expected one whole class index each."
        )
    if n and (y.min() < 0 or y.max() >= class_count):
        wrong = f"smallest label is {y.min()}" if y.min() < 0 else f"largest label is {y.max()}"
        raise DataError(
            f"The {wrong}, but the model has {class_count} classes: expected labels 0 to {class_count - 1}; "
            "map folders or files to class indices with --labels, or use images of this model's classes."
        )
    return y.astype(np.int64)


def _find_top5_hits(scores: NDArray[Any], y: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return bool `[n]`: fewer than five classes come before the label (equal scores in order of class)."""
    own = scores[np.arange(len(y)), y][:, None]
    before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < y[:, None]))
    return np.asarray(before.sum(axis=1) < 5)


def summarize_accuracy(predictions: Predictions, original: Predictions | None = None) -> Accuracy:
    """Return the accuracy of a model on its images.

    Args:
        predictions: Of the model.
        original: Of the model it was made from, on the same images in the same order.

    Returns:
        Fractions; `interval` is that of `top1`, without labels that of `agreement`.

    Raises:
        DataError: The two were not made from the same images.
    """
    n = len(predictions.classes)
    top1 = agreement = interval = None
    if original is not None:
        check_same_images(original, predictions)
        same = int((predictions.classes == original.classes).sum())
        agreement = same / n
        interval = compute_wilson_interval(same, n)
    if predictions.labels is not None:
        right = int((predictions.classes == predictions.labels).sum())
        top1 = right / n
        interval = compute_wilson_interval(right, n)
    top5 = None if predictions.top5_hit is None else float(predictions.top5_hit.mean())
    return Accuracy(n=n, top1=top1, top5=top5, agreement=agreement, interval=interval)


def compare(original: Predictions, compressed: Predictions) -> Interval:
    """Return what compression cost in accuracy, from the same images.

    Args:
        original: Predictions of the original model.
        compressed: Of the compressed one, on the same images in the same order.

    Returns:
        Percentage points: top-1 of the original minus top-1 of the compressed with Tango's interval for
        paired proportions; without labels 100 minus the agreement in percent, with Wilson's.

    Raises:
        DataError: The two were not made from the same images.
    """
    check_same_images(original, compressed)
    n = len(original.classes)
    if original.labels is None:
        drop = compute_wilson_interval(int((original.classes != compressed.classes).sum()), n)
    else:
        was_right = original.classes == original.labels
        is_right = compressed.classes == original.labels
        drop = compute_paired_interval(int((was_right & ~is_right).sum()), int((is_right & ~was_right).sum()), n)
    return Interval(100 * drop.estimate, 100 * drop.low, 100 * drop.high)


def estimate_standard_error(original: Predictions, compressed: Predictions) -> float:
    """Return the standard error of `compare`'s estimate, in percentage points.

    With labels each image counts 1 where only the original is right, -1 where only the compressed model is, else 0;
    without, 1 where the two differ. The error is that of the mean of these and two more images, of which half of one is
    lost and half of one is won (without labels: one is lost): where nothing differs on a few images, others may all the
    same. Source: Agresti and Min, Statistics in Medicine 24 (2005), 729-740; without labels Agresti and Coull, The
    American Statistician 52 (1998), 119-126, with two instead of four.

    Raises:
        DataError: The two were not made from the same images.
    """
    check_same_images(original, compressed)
    if original.labels is None:
        lost, added = (original.classes != compressed.classes).astype(np.float64), [0.0, 1.0]
    else:
        was_right, is_right = original.classes == original.labels, compressed.classes == original.labels
        lost, added = was_right.astype(np.float64) - is_right, [-(0.5**0.5), 0.5**0.5]
    counted = np.append(lost, added)
    return 100 * float(counted.std() / np.sqrt(len(counted)))


def check_same_images(original: Predictions, compressed: Predictions) -> None:
    """Refuse predictions that can't be of the same images.

    Raises:
        DataError: The numbers of images or the labels differ.
    """
    if len(original.classes) != len(compressed.classes):
        raise DataError(
            f"The original was evaluated on {len(original.classes)} images and the compressed model on "
            f"{len(compressed.classes)}; evaluate both on the same images in the same order."
        )
    first, second = original.labels, compressed.labels
    if (first is None) != (second is None) or (
        first is not None and second is not None and not np.array_equal(first, second)
    ):
        raise DataError(
            "The original and the compressed model were evaluated on different labels; evaluate both on the "
            "same images in the same order."
        )
