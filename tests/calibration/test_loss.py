"""The gradient at the logits: with labels autograd's, without labels one whose second moment is the Fisher's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from onnx_basisprune.calibration.loss import fisher_gradient, flatten_logits, is_binary, loss_gradient
from onnx_basisprune.errors import DataError, ModelError
from onnx_basisprune.planning.types import Head

SOFTMAX, SIGMOID = Head("softmax", "z", "p"), Head("sigmoid", "z", "p")
LOGITS, PROBABILITIES = Head("logits", "z", "z"), Head("probabilities", "p", "p")


def draw_logits(rows: int, classes: int, scale: float = 2.0) -> torch.Tensor:
    values = np.random.default_rng(rows + classes).standard_normal((rows, classes), dtype=np.float32)
    return torch.from_numpy(values * np.float32(scale))


@pytest.mark.parametrize("head", [SOFTMAX, LOGITS])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_cross_entropy(head: Head, scale: float) -> None:
    logits = draw_logits(6, 4, scale).requires_grad_()
    labels = np.array([0, 1, 2, 3, 0, 1])
    functional.cross_entropy(logits.double(), torch.from_numpy(labels), reduction="sum").backward()
    found = loss_gradient(logits.detach(), head, labels)
    assert found.dtype == torch.float32
    # float32 probabilities.
    torch.testing.assert_close(found, logits.grad, rtol=1e-5, atol=1e-7)


def test_binary_cross_entropy_of_several_units() -> None:
    logits = draw_logits(5, 3).requires_grad_()
    labels = np.array([0, 2, 1, 1, 0])
    target = functional.one_hot(torch.from_numpy(labels), 3).float()
    functional.binary_cross_entropy_with_logits(logits, target, reduction="sum").backward()
    torch.testing.assert_close(loss_gradient(logits.detach(), SIGMOID, labels), logits.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("head", [SIGMOID, LOGITS])
def test_binary_cross_entropy_of_one_unit(head: Head) -> None:
    logits = draw_logits(4, 1).requires_grad_()
    labels = np.array([0, 1, 1, 0])
    target = torch.from_numpy(labels)[:, None].float()
    functional.binary_cross_entropy_with_logits(logits, target, reduction="sum").backward()
    torch.testing.assert_close(loss_gradient(logits.detach(), head, labels), logits.grad, rtol=1e-5, atol=1e-7)


def test_probabilities_give_the_gradient_of_their_logarithm() -> None:
    p = torch.softmax(draw_logits(3, 4), dim=1)
    logits = flatten_logits(p, PROBABILITIES)
    labels = np.array([3, 0, 2])
    expected = p - functional.one_hot(torch.from_numpy(labels), 4)
    torch.testing.assert_close(loss_gradient(logits, PROBABILITIES, labels), expected, rtol=1e-5, atol=1e-6)


def test_probabilities_of_zero_stay_finite() -> None:
    logits = flatten_logits(torch.tensor([[0.0, 1.0]]), PROBABILITIES)
    assert torch.isfinite(logits).all()
    assert torch.isfinite(fisher_gradient(logits, PROBABILITIES, np.array([0]), 0)).all()


@pytest.mark.parametrize(
    ("labels", "classes", "wrong"), [([0, 4], 4, "4"), ([-1, 2], 4, "-1"), ([0, 2], 1, "2"), ([-3, 0], 1, "-3")]
)
def test_labels_outside_the_classes_are_named(labels: list[int], classes: int, wrong: str) -> None:
    with pytest.raises(DataError, match=f"class index {wrong},") as caught:
        loss_gradient(draw_logits(2, classes), LOGITS, np.array(labels))
    assert "\n" not in str(caught.value)
    assert "--labels" in str(caught.value)


def find_fisher(z: np.ndarray, *, binary: bool) -> np.ndarray:
    z = z.astype(np.float64)
    if binary:
        return np.diag(1 / (1 + np.exp(-z)) / (1 + np.exp(z)))
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    # diag(p) - p pᵀ with 1 - p_i as the sum of the others, which keeps its digits.
    others = (1 - np.eye(len(p))) @ p
    return np.where(np.eye(len(p), dtype=bool), p * others, -np.outer(p, p))


@pytest.mark.parametrize("head", [SOFTMAX, SIGMOID])
@pytest.mark.parametrize(
    "row", [[0.0, 0.0, 0.0], [1.0, -0.5, 2.0], [12.0, 0.0, -3.0], [25.0, 1.0, 0.0], [40.0, -5.0, 3.0]], ids=str
)
def test_second_moment_is_the_fisher_information(head: Head, row: list[float]) -> None:
    logits = torch.tensor([row])
    # Signs of three classes: 8 equally likely cases, met often enough in 3,000 draws.
    draws = np.stack([fisher_gradient(logits, head, np.array([0]), seed).double().numpy()[0] for seed in range(3000)])
    fisher = find_fisher(np.array(row), binary=head.kind == "sigmoid")
    # A mean of 3,000 draws: 4 standard errors are 0.08 of the entries' scale.
    scale = np.sqrt(np.outer(np.diag(fisher), np.diag(fisher)))
    assert (np.abs(draws.T @ draws / len(draws) - fisher) <= 0.12 * scale).all()


@pytest.mark.parametrize("head", [SOFTMAX, SIGMOID])
def test_an_image_draws_the_same_in_any_batch(head: Head) -> None:
    logits, indices = draw_logits(7, 5), np.array([3, 9, 1, 0, 8, 2, 77])
    whole = fisher_gradient(logits, head, indices, 5)
    order = [6, 2, 0, 1, 3, 5, 4]
    torch.testing.assert_close(
        fisher_gradient(logits[order], head, indices[order], 5), whole[order], rtol=1e-6, atol=1e-8
    )
    for row in range(7):
        alone = fisher_gradient(logits[row : row + 1], head, indices[row : row + 1], 5)
        torch.testing.assert_close(alone, whole[row : row + 1], rtol=1e-6, atol=1e-8)


def test_images_and_seeds_draw_apart() -> None:
    logits = torch.zeros(1, 64)
    draws = [
        fisher_gradient(logits, SIGMOID, np.array([index]), seed).sign()
        for index, seed in ((0, 0), (1, 0), (0, 1), (1, 1))
    ]
    for first in range(4):
        for second in range(first):
            assert 10 < int((draws[first] != draws[second]).sum()) < 54


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 1, 1), (2, 1, 5), (2, 1)])
def test_logits_become_rows(shape: tuple[int, ...]) -> None:
    assert flatten_logits(torch.zeros(shape), LOGITS).shape == (2, max(shape[1:]))


@pytest.mark.parametrize("shape", [(2,), (2, 3, 4), (2, 3, 4, 4)])
def test_what_is_no_classifier_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="only classifiers"):
        flatten_logits(torch.zeros(shape), LOGITS)


def test_binary_heads() -> None:
    assert is_binary(SIGMOID, 3)
    assert is_binary(LOGITS, 1)
    assert not is_binary(LOGITS, 2)


@pytest.mark.parametrize("head", [LOGITS, SIGMOID])
def test_predictions_that_are_sure_to_the_last_digit_still_have_a_gradient(head: Head) -> None:
    unsure, sure = torch.tensor([[1.0, 0.0, -2.0]]), torch.tensor([[5e4, -2e4, 1e4]])
    of_sure = fisher_gradient(sure, head, np.array([0]), 0)
    assert of_sure.abs().max() > 0
    # Beside an image that the model is less sure of it counts nothing.
    assert of_sure.abs().max() < 1e-5 * fisher_gradient(unsure, head, np.array([0]), 0).abs().max()
