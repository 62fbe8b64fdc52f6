"""When a baseline counts as guessing."""

import numpy as np
import pytest

from onnx_basisprune.runtime.baseline import check_above_chance
from onnx_basisprune.runtime.evaluation import Predictions


def make_predictions(right: int, n: int, class_count: int) -> Predictions:
    labels = np.arange(n, dtype=np.int64) % class_count
    classes = np.where(np.arange(n) < right, labels, (labels + 1) % class_count)
    return Predictions(classes, class_count, labels)


@pytest.mark.parametrize(
    ("right", "n", "class_count", "near"),
    [
        (100, 1000, 10, True),  # chance
        (144, 1000, 10, True),  # significant, yet below 0.1 + 0.05 · 0.9 = 0.145
        (146, 1000, 10, False),
        (0, 1000, 10, True),  # classes in the wrong order can be worse than chance
        (880, 1000, 10, False),
        (58, 100, 2, True),  # over 0.525, but P(58 or more of 100 at 0.5) = 0.067
        (63, 100, 2, False),  # 0.006
        (3, 3, 2, False),  # three images can't tell
        (1, 3, 2, True),
        (49, 1000, 1000, True),  # 0.001 + 0.05 · 0.999 = 0.05095
        (52, 1000, 1000, False),
    ],
)
def test_tells_guessing_from_knowing(right: int, n: int, class_count: int, near: bool) -> None:
    assert (check_above_chance(make_predictions(right, n, class_count)) is not None) == near


def test_the_reason_names_figures_and_causes() -> None:
    reason = check_above_chance(make_predictions(12, 100, 10))
    assert reason is not None
    for part in ("12.0%", "100 images", "10.0% for 10 classes", "--preprocess", "--color", "--labels"):
        assert part in reason
    assert "too few" not in reason
    assert "too few images" in str(check_above_chance(make_predictions(0, 2, 2)))


def test_says_nothing_without_labels() -> None:
    assert check_above_chance(Predictions(np.zeros(100, np.int64), 10)) is None
