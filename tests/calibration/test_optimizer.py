"""The optimiser: what orthogonalised momentum is, how far a step goes, and that vectors are left to Adam."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_basisprune.calibration.optimizer import Optimizer, orthogonalize


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    spread=st.floats(0.0, 2.0),
    scale=st.sampled_from([1e-12, 1e-3, 1.0, 1e6]),
)
def test_keeps_singular_vectors_and_levels_singular_values(
    seed: int, shape: tuple[int, int], spread: float, scale: float
) -> None:
    U, _, Vt = torch.linalg.svd(draw(seed, *shape), full_matrices=False)
    D = torch.logspace(0, -spread, len(Vt))
    found = U.T @ orthogonalize(scale * (U * D) @ Vt) @ Vt.T
    levelled = found.diagonal()
    assert ((levelled > 0.6) & (levelled < 1.3)).all()
    torch.testing.assert_close(found - torch.diag(levelled), torch.zeros_like(found), rtol=0, atol=1e-3)


def test_nothing_becomes_nothing() -> None:
    assert not orthogonalize(torch.zeros(3, 5)).any()


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (16, 8, 3, 3)])
def test_a_step_goes_against_the_gradient_by_a_share_of_the_rate(shape: tuple[int, ...]) -> None:
    change = torch.zeros(shape, requires_grad=True)
    change.grad = draw(0, *shape)
    Optimizer({"w": change}, {"w"}).take_step(1e-2)
    moved = change.detach()
    assert float((moved * change.grad).sum()) < 0
    assert float(moved.square().mean().sqrt()) == pytest.approx(0.3e-2, rel=0.2)


def test_layout_in_memory_changes_nothing() -> None:
    steps = []
    for layout in (torch.contiguous_format, torch.channels_last):
        change = torch.zeros(6, 4, 3, 3).contiguous(memory_format=layout).requires_grad_()
        change.grad = draw(0, 6, 4, 3, 3).contiguous(memory_format=layout)
        Optimizer({"w": change}, {"w"}).take_step(1e-2)
        steps.append(change.detach())
    torch.testing.assert_close(*steps)


def test_what_is_no_matrix_moves_as_with_adam() -> None:
    ours, theirs = (torch.zeros(7, requires_grad=True) for _ in range(2))
    matrix = torch.zeros(7, 7, requires_grad=True)
    optimizer, adam = Optimizer({"b": ours, "w": matrix}, {"w"}), torch.optim.Adam([theirs])
    for seed, rate in enumerate((1e-2, 3e-2, 1e-3)):
        ours.grad, theirs.grad, matrix.grad = draw(seed, 7), draw(seed, 7), draw(seed, 7, 7)
        adam.param_groups[0]["lr"] = rate
        optimizer.take_step(rate)
        adam.step()
    torch.testing.assert_close(ours, theirs)


def test_goes_on_in_the_direction_of_earlier_gradients() -> None:
    change = torch.zeros(4, 4, requires_grad=True)
    optimizer = Optimizer({"w": change}, {"w"})
    change.grad = 100 * torch.eye(4)
    optimizer.take_step(1e-2)
    before = change.detach().clone()
    change.grad = 1e-3 * torch.ones(4, 4)
    optimizer.take_step(1e-2)
    assert (change.detach() - before).diagonal().max() < -1e-3


def test_finds_the_least_squares_where_inputs_differ_a_lot_in_size() -> None:
    """A map that is to be learnt from inputs of sizes 1 to 1e-2: gradients of the small ones are 1e-4 of the others."""
    x, wanted = draw(0, 256, 8) * torch.logspace(0, -2, 8), draw(1, 8, 8)
    change = torch.zeros(8, 8, requires_grad=True)
    optimizer = Optimizer({"w": change}, {"w"})
    for step in range(300):
        optimizer.clear_gradients()
        (x @ (change - wanted).T).square().sum().backward()  # type: ignore[no-untyped-call]
        optimizer.take_step(0.3 * (1 - step / 300))
    torch.testing.assert_close(change.detach(), wanted, rtol=0, atol=0.1)


def test_a_weight_without_gradient_stays() -> None:
    change = torch.zeros(3, 3, requires_grad=True)
    optimizer = Optimizer({"w": change}, {"w"})
    optimizer.take_step(1.0)
    assert not change.detach().any()
