"""Hints: how far two graphs are apart inside, and what that brings the recovery."""

from __future__ import annotations

import pytest
import torch

from onnx_basisprune.calibration.hints import Hint, HintLoss


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_error_is_relative_to_what_the_original_varies_by() -> None:
    original = {"a": 5 + 3 * draw(4, 6, 2, 2), "b": draw(4, 7, seed=1)}
    loss = HintLoss([Hint("a", 1, (0, 2, 5)), Hint("b")], original)
    student = {"a": original["a"][:, [0, 2, 5]] + 0.5, "b": original["b"] - 2}
    expected = (0.25 / original["a"][:, [0, 2, 5]].var(correction=0) + 4 / original["b"].var(correction=0)) / 2
    torch.testing.assert_close(loss.measure(student, original), expected)


def test_same_units_or_others_make_no_difference() -> None:
    original, student = {"a": draw(4, 6)}, {"a": draw(4, 6, seed=1)}
    small = HintLoss([Hint("a")], original)
    large = HintLoss([Hint("a")], {"a": 1000 * original["a"]})
    torch.testing.assert_close(
        small.measure(student, original), large.measure({"a": 1000 * student["a"]}, {"a": 1000 * original["a"]})
    )


def test_channels_on_any_axis() -> None:
    original = {"tokens": draw(2, 3, 5)}
    loss = HintLoss([Hint("tokens", 2, (1, 4))], original)
    assert float(loss.measure({"tokens": original["tokens"][..., [1, 4]]}, original)) == 0
    assert float(loss.measure({"tokens": original["tokens"][..., [4, 1]]}, original)) > 0


@pytest.mark.parametrize("kept", [None, (1,)])
def test_what_never_varies_is_no_hint(kept: tuple[int, ...] | None) -> None:
    original = {"dead": torch.zeros(3, 2), "live": draw(3, 2)}
    loss = HintLoss([Hint("dead", 1, kept), Hint("live", 1, kept)], original)
    assert loss.names == ["live"]
    assert HintLoss([Hint("dead", 1, kept)], original).names == []


def test_rounded_tensors_are_compared_in_float32() -> None:
    original = {"a": draw(8, 4).bfloat16()}
    loss = HintLoss([Hint("a")], original)
    student = {"a": (original["a"] + 1).requires_grad_()}
    error = loss.measure(student, original)
    assert error.dtype == torch.float32
    error.backward()
    assert student["a"].grad is not None
    assert bool((student["a"].grad > 0).all())
