"""Augmentation of calibration images during the recovery."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

Augmentation = Literal["none", "shift", "shift+flip"]

# 4 pixels of 32, as is usual for small images; larger images move by the same share.
_SHIFT_FRACTION = 1 / 8


def augment_images(
    x: torch.Tensor,
    augmentation: Augmentation,
    layout: Literal["nchw", "nhwc"],
    generator: np.random.Generator,
) -> torch.Tensor:
    """Return shifted (reflecting at the borders) and mirrored copies of a batch.

    Args:
        x: `[n, C, H, W]`, or `[n, H, W, C]` for `nhwc`. Signals and volumes, which have fewer or more axes, are
            returned as they are.
        augmentation: `shift` by up to an eighth of each side, `shift+flip` also mirrors half of the images.
        layout: Where the channel axis is.
        generator: Draws shifts and flips, one per image.
    """
    if augmentation == "none" or x.ndim != 4:
        return x
    images = x if layout == "nchw" else x.permute(0, 3, 1, 2)
    height, width = images.shape[2:]
    dy, dx = (max(1, round(side * _SHIFT_FRACTION)) if side > 1 else 0 for side in (height, width))
    padded = torch.nn.functional.pad(images, (dx, dx, dy, dy), mode="reflect")
    rows = generator.integers(0, 2 * dy + 1, len(images))
    columns = generator.integers(0, 2 * dx + 1, len(images))
    moved = torch.stack(
        [
            image[:, row : row + height, column : column + width]
            for image, row, column in zip(padded, rows, columns, strict=True)
        ]
    )
    if augmentation == "shift+flip":
        mirrored = torch.from_numpy(generator.random(len(images)) < 0.5)
        moved = torch.where(mirrored[:, None, None, None], moved.flip(3), moved)
    return moved if layout == "nchw" else moved.permute(0, 2, 3, 1)
