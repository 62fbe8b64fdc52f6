"""Batches that come again, in lessons, with answers that are asked for once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from onnx_basisprune.calibration.image_store import ImageStore
from onnx_basisprune.calibration.lessons import Lessons, RecoverySettings, split_indices

SETTINGS = RecoverySettings(
    steps=1, batch_size=10, chunk_size=4, augmentation="shift+flip", layout="nchw", seed=0, mode="full"
)
IMAGES = np.arange(30 * 64, dtype=np.float32).reshape(30, 1, 8, 8)


class Teacher:
    """Answers with the sum of each image, and counts."""

    def __init__(self) -> None:
        self.images = 0

    def answer(self, x: torch.Tensor, hints: Sequence[str]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self.images += len(x)
        return x.sum((1, 2, 3))[:, None], dict.fromkeys(hints, 2 * x)


def make_lessons(teacher: Teacher, indices: NDArray[np.int64], settings: RecoverySettings = SETTINGS) -> Lessons:
    return Lessons(ImageStore(IMAGES.__getitem__, len(IMAGES)), indices, teacher.answer, settings)


def test_lessons_make_up_a_batch() -> None:
    lessons = make_lessons(Teacher(), np.arange(30))
    drawn = list(lessons.draw(0))
    assert [len(lesson.x) for lesson in drawn] == [4, 4, 2]
    assert sum(lesson.share for lesson in drawn) == pytest.approx(1.0)
    for lesson in drawn:
        # The answers are those to the augmented images.
        torch.testing.assert_close(lesson.target[:, 0], lesson.x.sum((1, 2, 3)))


def test_no_image_twice_in_a_batch_and_only_those_to_learn_from() -> None:
    indices = np.arange(5, 17)
    lessons = make_lessons(Teacher(), indices, replace(SETTINGS, augmentation="none"))
    for number in range(20):
        x = torch.cat([lesson.x for lesson in lessons.draw(number)])
        drawn = (x[:, 0, 0, 0] / 64).tolist()
        assert len(set(drawn)) == 10
        assert set(drawn) <= set(indices.tolist())


def test_batches_differ_and_come_again_without_asking_the_teacher() -> None:
    teacher = Teacher()
    lessons = make_lessons(teacher, np.arange(30))
    first = [torch.cat([lesson.x for lesson in lessons.draw(number)]) for number in range(96)]
    assert teacher.images == 960  # 32 views of each image
    again = [list(lessons.draw(96 + number)) for number in range(96)]
    assert teacher.images == 960
    for x, drawn in zip(first, again, strict=True):
        assert torch.equal(x, torch.cat([lesson.x for lesson in drawn]))
        torch.testing.assert_close(torch.cat([lesson.target for lesson in drawn])[:, 0], x.sum((1, 2, 3)))
    assert len({tuple(x.flatten().tolist()) for x in first}) == 96


def test_hints_are_those_of_the_augmented_images_whenever_they_are_asked_for() -> None:
    teacher = Teacher()
    lessons = make_lessons(teacher, np.arange(30))
    first, again, without = list(lessons.draw(3, ["h"])), list(lessons.draw(3, ["h"])), list(lessons.draw(3))
    assert teacher.images == 20
    for one, other, bare in zip(first, again, without, strict=True):
        assert torch.equal(one.hints["h"], 2 * one.x)
        assert torch.equal(one.hints["h"], other.hints["h"])
        assert torch.equal(one.target, bare.target)
        assert not bare.hints


def test_few_images() -> None:
    lessons = make_lessons(Teacher(), np.array([3]))
    assert lessons.batch_size == 1
    assert [len(lesson.x) for lesson in lessons.draw(5)] == [1]


def test_split_indices() -> None:
    assert [part.tolist() for part in split_indices(np.arange(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
