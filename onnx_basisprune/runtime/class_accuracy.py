"""How accurate a model is on the images of each class, before and after."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnx_basisprune.results import ClassReport
from onnx_basisprune.runtime.evaluation import Predictions, check_same_images


def compare_classes(
    original: Predictions, compressed: Predictions, names: Mapping[int, str]
) -> tuple[ClassReport, ...]:
    """Return one row per class that has images, by class index; none without labels.

    Args:
        original: Predictions of the original model.
        compressed: Of the compressed one, on the same images in the same order.
        names: Class index → name, where it is known.

    Raises:
        DataError: The two were not made from the same images.
    """
    check_same_images(original, compressed)
    labels = original.labels
    if labels is None:
        return ()
    counts = np.bincount(labels, minlength=original.class_count)
    before = np.bincount(labels[original.classes == labels], minlength=len(counts))
    after = np.bincount(labels[compressed.classes == labels], minlength=len(counts))
    return tuple(
        ClassReport(
            index=index,
            name=names.get(index),
            n=n,
            top1_before=right_before / n,
            top1_after=right_after / n,
            drop_pp=100 * (right_before - right_after) / n,
        )
        for index, (n, right_before, right_after) in enumerate(
            zip(counts.tolist(), before.tolist(), after.tolist(), strict=True)
        )
        if n
    )
