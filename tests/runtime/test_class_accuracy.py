"""Accuracy of each class, by a hand-made table and against all images together."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_basisprune.errors import DataError
from onnx_basisprune.results import ClassReport
from onnx_basisprune.runtime.class_accuracy import compare_classes
from onnx_basisprune.runtime.evaluation import Predictions, compare


def test_a_table_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 2, 2])
    original = Predictions(np.array([0, 0, 0, 1, 2, 1]), 4, labels)
    compressed = Predictions(np.array([0, 3, 2, 0, 2, 2]), 4, labels)
    assert compare_classes(original, compressed, {0: "cat", 1: "dog"}) == (
        ClassReport(0, "cat", 4, 0.75, 0.5, 25.0),
        ClassReport(2, None, 2, 0.5, 1.0, -50.0),
    )


def test_a_thousand_classes_add_up_to_the_whole() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 1000, 5000)
    original, compressed = (
        Predictions(np.where(generator.random(5000) < share, labels, 0), 1000, labels) for share in (0.8, 0.7)
    )
    rows = compare_classes(original, compressed, {})
    assert sum(row.n for row in rows) == 5000
    assert [row.index for row in rows] == sorted(set(labels.tolist()))
    drop = sum(row.n * row.drop_pp for row in rows) / 5000
    assert drop == pytest.approx(compare(original, compressed).estimate, abs=1e-9)


def test_without_labels_there_are_no_rows() -> None:
    predictions = Predictions(np.array([0, 1]), 2)
    assert compare_classes(predictions, predictions, {0: "cat"}) == ()


def test_other_images_are_refused() -> None:
    first, second = (Predictions(np.zeros(2, np.int64), 2, np.array(labels)) for labels in ([0, 1], [1, 1]))
    with pytest.raises(DataError, match="different labels"):
        compare_classes(first, second, {})
