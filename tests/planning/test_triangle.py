"""Symmetric matrices in half their memory: what goes in comes out, on both sides of a block's edge."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_basisprune.planning.triangle import Triangle

SIZES = [1, 2, 511, 512, 513, 1024, 1100]


def draw(size: int, seed: int) -> np.ndarray:
    matrix = np.random.default_rng(seed).standard_normal((size, size))
    return matrix + matrix.T


@pytest.mark.parametrize("size", SIZES)
def test_a_matrix_comes_back(size: int) -> None:
    matrix = draw(size, 0)
    np.testing.assert_array_equal(Triangle.of(matrix).full(), matrix)


@pytest.mark.parametrize("size", SIZES)
def test_a_sum_is_the_sum_of_the_matrices(size: int) -> None:
    one, other = draw(size, 1), draw(size, 2)
    np.testing.assert_array_equal((Triangle.of(one) + Triangle.of(other)).full(), one + other)


@pytest.mark.parametrize("size", SIZES)
def test_blocks_are_written_through(size: int) -> None:
    matrix, triangle = draw(size, 3), Triangle(size)
    assert not triangle.full().any()
    for start, block in triangle.blocks():
        block += matrix[start : start + len(block), start:]
    np.testing.assert_array_equal(triangle.full(), matrix)


def test_a_wide_matrix_takes_little_more_than_half() -> None:
    size = 4096
    assert Triangle(size).values.nbytes < 0.57 * 8 * size**2
