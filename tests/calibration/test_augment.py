"""Augmentation: whole pixels, reflection at the borders, half of the images mirrored."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from onnx_basisprune.calibration.augment import augment_images


def make_images(n: int, c: int, h: int, w: int) -> torch.Tensor:
    return torch.arange(n * c * h * w, dtype=torch.float32).reshape(n, c, h, w)


def find_shift(before: torch.Tensor, after: torch.Tensor, reach: tuple[int, int]) -> tuple[int, int, bool] | None:
    """Return the one shift (and mirroring) that makes `after` of `before`, both `[C, H, W]`."""
    (dy, dx), (_, h, w) = reach, before.shape
    padded = np.pad(before.numpy(), ((0, 0), (dy, dy), (dx, dx)), mode="reflect")
    found = [
        (row, column, mirrored)
        for row in range(2 * dy + 1)
        for column in range(2 * dx + 1)
        for mirrored in (False, True)
        if np.array_equal(padded[:, row : row + h, column : column + w][:, :, :: -1 if mirrored else 1], after.numpy())
    ]
    return found[0] if len(found) == 1 else None


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("augmentation", ["shift", "shift+flip"])
def test_shifts_by_whole_pixels_up_to_an_eighth(
    augmentation: Literal["shift", "shift+flip"], layout: Literal["nchw", "nhwc"]
) -> None:
    images = make_images(400, 2, 16, 24)
    x = images if layout == "nchw" else images.permute(0, 2, 3, 1)
    y = augment_images(x, augmentation, layout, np.random.default_rng(0))
    assert y.shape == x.shape
    moved = y if layout == "nchw" else y.permute(0, 3, 1, 2)
    shifts = [find_shift(a, b, (2, 3)) for a, b in zip(images, moved, strict=True)]
    assert None not in shifts
    rows, columns, mirrored = zip(*[shift for shift in shifts if shift is not None], strict=True)
    assert set(rows) == set(range(5))
    assert set(columns) == set(range(7))
    if augmentation == "shift":
        assert not any(mirrored)
    else:
        # Half of 400: four standard errors are 40.
        assert 160 < sum(mirrored) < 240


def test_none_changes_nothing() -> None:
    x = make_images(2, 3, 8, 8)
    assert augment_images(x, "none", "nchw", np.random.default_rng(0)) is x


def test_a_seed_draws_the_same() -> None:
    x = make_images(20, 1, 16, 16)
    first, second, other = (augment_images(x, "shift+flip", "nchw", np.random.default_rng(s)) for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (2, 2), (3, 40)])
def test_small_images(height: int, width: int) -> None:
    x = make_images(9, 1, height, width)
    y = augment_images(x, "shift+flip", "nchw", np.random.default_rng(0))
    assert y.shape == x.shape
    for before, after in zip(x, y, strict=True):
        assert set(after.flatten().tolist()) <= set(before.flatten().tolist())


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 16), (2, 3, 4, 4, 4)])
def test_what_is_no_image_stays(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(augment_images(x, "shift+flip", "nchw", np.random.default_rng(0)), x)


def test_pixels_stay_pixels() -> None:
    x = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = augment_images(x, "shift+flip", "nchw", np.random.default_rng(0))
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
