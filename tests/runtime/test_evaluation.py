"""Scores, predictions, accuracy and drop, by hand-computed tables."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import pytest

from onnx_basisprune.errors import DataError, ModelError
from onnx_basisprune.runtime.evaluation import (
    Predictions,
    compare,
    count_classes,
    evaluate,
    predict_classes,
    summarize_accuracy,
    to_scores,
)
from onnx_basisprune.runtime.intervals import compute_paired_interval, compute_wilson_interval
from onnx_basisprune.runtime.session import Session


@dataclass(frozen=True)
class ImageBatch:
    x: np.ndarray
    y: np.ndarray | None = None


def split(x: np.ndarray, y: np.ndarray | None, size: int) -> Iterator[ImageBatch]:
    for start in range(0, len(x), size):
        yield ImageBatch(x[start : start + size], None if y is None else y[start : start + size])


def echo(x: np.ndarray) -> np.ndarray:
    return x


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 1, 1), (4, 1, 3), (4, 1, 1, 3)])
def test_scores_lose_only_dimensions_of_one(shape: tuple[int, ...]) -> None:
    flat = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    np.testing.assert_array_equal(to_scores(flat.reshape(shape)), flat)


def test_scores_of_a_single_unit_and_of_other_types() -> None:
    assert to_scores(np.zeros(5, np.float32)).shape == (5, 1)
    assert to_scores(np.zeros((5, 2), np.float16)).dtype == np.float32
    assert to_scores(np.zeros((5, 2), np.float64)).dtype == np.float64
    assert to_scores(np.zeros((5, 2), np.uint8)).dtype == np.uint8
    assert to_scores(np.full((1, 2), -np.inf, np.float32)).shape == (1, 2)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (np.zeros((4, 3, 2), np.float32), r"shape \[4, 3, 2\]"),
        (np.zeros((1, 10, 7, 7), np.float32), r"shape \[1, 10, 7, 7\]"),
        (np.zeros((4, 1), np.int64), "int64"),
        (np.float32(3.0), "without rows"),
        (np.array([[0.0, 1.0], [np.nan, 1.0]], np.float32), "image 1 of a batch are NaN"),
        (np.array([["a"]]), "<U1"),
    ],
)
def test_refuses_what_is_no_classifier_output(output: np.ndarray, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        to_scores(output)


def test_classes_of_every_head() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.9, 0.05, 0.05]], np.float32)
    for kind in ("softmax", "sigmoid", "logits", "probabilities"):
        assert predict_classes(scores, kind).tolist() == [1, 0]
    unit = np.array([[0.2], [0.5], [0.6], [-3.0]], np.float32)
    assert predict_classes(unit, "sigmoid").tolist() == [0, 0, 1, 0]
    assert predict_classes(unit, "logits").tolist() == [1, 1, 1, 0]
    assert predict_classes(unit, "sigmoid").dtype == np.int64
    assert (count_classes(unit), count_classes(scores)) == (2, 3)
    for kind in ("softmax", "probabilities"):
        with pytest.raises(ModelError, match="single unit"):
            predict_classes(unit, kind)


@pytest.mark.parametrize("size", [1, 4, 10])
def test_evaluation_does_not_depend_on_the_batches(size: int) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(10, 8)).astype(np.float32)
    y = rng.integers(0, 8, size=10).astype(np.uint8)
    seen: list[int] = []
    predictions = evaluate(echo, split(x, y, size), "logits", seen.append)
    assert sum(seen) == 10
    assert len(seen) == -(-10 // size)
    assert predictions.class_count == 8
    assert predictions.classes.tolist() == x.argmax(axis=1).tolist()
    assert predictions.labels is not None
    assert predictions.labels.tolist() == y.tolist()
    best_five = np.argsort(-x, axis=1, kind="stable")[:, :5]
    assert predictions.top5_hit is not None
    assert predictions.top5_hit.tolist() == [int(label) in row for label, row in zip(y, best_five, strict=True)]


def test_equal_scores_count_in_order_of_class() -> None:
    x, y = np.zeros((8, 8), np.float32), np.arange(8)
    predictions = evaluate(echo, split(x, y, 8), "logits")
    assert predictions.classes.tolist() == [0] * 8
    assert predictions.top5_hit is not None
    assert predictions.top5_hit.tolist() == [True] * 5 + [False] * 3


def test_no_top5_below_six_classes_or_without_labels() -> None:
    five, six = np.eye(5, dtype=np.float32), np.eye(6, dtype=np.float32)
    assert evaluate(echo, split(five, np.arange(5), 5), "logits").top5_hit is None
    assert evaluate(echo, split(six, np.arange(6), 5), "logits").top5_hit is not None
    unlabelled = evaluate(echo, split(six, None, 5), "logits")
    assert (unlabelled.top5_hit, unlabelled.labels) == (None, None)
    assert summarize_accuracy(unlabelled).interval is None


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array([0, 3, 7]), "largest label is 7, but the model has 4 classes"),
        (np.array([0, -1, 2]), "smallest label is -1"),
        (np.array([0.0, 1.0, 2.0]), "float64"),
        (np.array([[0], [1], [2]]), r"\[3, 1\]"),
    ],
)
def test_refuses_labels_that_are_no_class_indices(y: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate(echo, [ImageBatch(np.zeros((3, 4), np.float32), y)], "logits")


def test_single_unit_has_two_classes_for_labels() -> None:
    x = np.array([[0.9], [0.1], [0.7]], np.float32)
    predictions = evaluate(echo, [ImageBatch(x, np.array([1, 0, 0]))], "sigmoid")
    assert summarize_accuracy(predictions).top1 == pytest.approx(2 / 3, rel=1e-12)
    with pytest.raises(DataError, match="largest label is 2, but the model has 2 classes"):
        evaluate(echo, [ImageBatch(x, np.array([1, 0, 2]))], "sigmoid")


def test_refuses_no_images_and_half_labelled_ones() -> None:
    x = np.zeros((2, 4), np.float32)
    with pytest.raises(DataError, match="no images"):
        evaluate(echo, [], "logits")
    with pytest.raises(DataError, match="Only some"):
        evaluate(echo, [ImageBatch(x, np.array([0, 1])), ImageBatch(x)], "logits")
    with pytest.raises(ModelError, match="1 rows of scores for 2 images"):
        evaluate(lambda x: x[:1], [ImageBatch(x)], "logits")


MODEL = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[{batch}, 3] x) => (float[{batch}, 3] y) {{ y = Softmax (x) }}"""


@pytest.mark.parametrize("batch", ["N", "1", "4"])
def test_evaluates_a_session(batch: str) -> None:
    x = np.random.default_rng(2).normal(size=(11, 3)).astype(np.float32)
    session = Session(onnx.parser.parse_model(MODEL.format(batch=batch)).SerializeToString(), threads=1)
    predictions = evaluate(session.predict, split(x, x.argmax(axis=1), 5), "softmax")
    assert summarize_accuracy(predictions).top1 == 1.0


def make_predictions(classes: list[int], labels: list[int] | None) -> Predictions:
    return Predictions(np.array(classes), 10, None if labels is None else np.array(labels))


def test_accuracy_of_a_table_by_hand() -> None:
    original = make_predictions([0, 1, 2, 3, 4], [0, 1, 2, 3, 9])
    compressed = make_predictions([0, 1, 2, 9, 9], [0, 1, 2, 3, 9])
    accuracy = summarize_accuracy(compressed, original)
    assert (accuracy.n, accuracy.top1, accuracy.top5, accuracy.agreement) == (5, 0.8, None, 0.6)
    assert accuracy.interval == compute_wilson_interval(4, 5)
    assert summarize_accuracy(original).agreement is None


def test_accuracy_without_labels_is_agreement() -> None:
    original, compressed = make_predictions([0, 1, 2, 3], None), make_predictions([0, 1, 2, 4], None)
    accuracy = summarize_accuracy(compressed, original)
    assert (accuracy.top1, accuracy.agreement) == (None, 0.75)
    assert accuracy.interval == compute_wilson_interval(3, 4)


def test_drop_is_paired_and_in_percentage_points() -> None:
    # Of 21 images 7 are right only before, 1 only after, 1 both, 12 neither.
    labels = [0] * 21
    original = make_predictions([0] * 7 + [1] + [0] + [1] * 12, labels)
    compressed = make_predictions([1] * 7 + [0] + [0] + [2] * 12, labels)
    drop, expected = compare(original, compressed), compute_paired_interval(7, 1, 21)
    assert (drop.estimate, drop.low, drop.high) == tuple(
        100 * value for value in (expected.estimate, expected.low, expected.high)
    )
    assert drop.estimate == pytest.approx(100 * 6 / 21, rel=1e-12)
    gain = compare(compressed, original)
    assert (gain.low, gain.high) == (-drop.high, -drop.low)


def test_drop_without_labels_is_disagreement() -> None:
    original, compressed = make_predictions([0, 1, 2, 3], None), make_predictions([0, 1, 2, 4], None)
    drop, expected = compare(original, compressed), compute_wilson_interval(1, 4)
    assert (drop.estimate, drop.low, drop.high) == (25.0, 100 * expected.low, 100 * expected.high)
    assert compare(original, original).low == 0.0


@pytest.mark.parametrize("use", [compare, lambda a, b: summarize_accuracy(b, a)])
def test_refuses_predictions_of_other_images(use: Callable[[Predictions, Predictions], object]) -> None:
    original = make_predictions([0, 1], [0, 1])
    for other in (
        make_predictions([0], [0]),
        make_predictions([0, 1], [1, 0]),
        make_predictions([0, 1], None),
    ):
        with pytest.raises(DataError, match="same images"):
            use(original, other)
