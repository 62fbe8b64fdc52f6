"""A symmetric matrix in half its memory: sums of outer products of wide layers are most of what a run holds at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

# Rows of a block: products of fewer take longer, of more save less.
_BLOCK = 512


class Triangle:
    """The upper triangle of a symmetric matrix `[C, C]`, by blocks of rows that begin at the diagonal.

    Attributes:
        size: C.
        values: The blocks one after another, float64, so that sums of matrices are sums of these.
    """

    def __init__(self, size: int, values: Matrix | None = None) -> None:
        """Take what `values` holds, zeros where it is left out."""
        self.size = size
        self.values = np.zeros(sum(rows * width for _, rows, width in self._layout())) if values is None else values

    @classmethod
    def of(cls, matrix: Matrix) -> Triangle:
        """Return that of a symmetric matrix."""
        triangle = cls(len(matrix))
        for start, block in triangle.blocks():
            block[:] = matrix[start : start + len(block), start:]
        return triangle

    def __add__(self, other: Triangle) -> Triangle:
        """Return the sum of two of the same size."""
        return Triangle(self.size, self.values + other.values)

    def blocks(self) -> Iterator[tuple[int, Matrix]]:
        """Give each block's first row and the block itself, `[rows, C - first]`, to be written to."""
        end = 0
        for start, rows, width in self._layout():
            begin, end = end, end + rows * width
            yield start, self.values[begin:end].reshape(rows, width)

    def full(self) -> Matrix:
        """Return the whole matrix, a new one, `[C, C]`."""
        matrix = np.empty((self.size, self.size))
        for start, block in self.blocks():
            stop = start + len(block)
            matrix[start:stop, start:] = block
            matrix[stop:, start:stop] = block[:, len(block) :].T
        return matrix

    def average(self, count: int) -> Matrix:
        """Return the whole matrix of a sum over so many, divided by them, `[C, C]`."""
        matrix = self.full()
        matrix /= count
        return matrix

    def _layout(self) -> Iterator[tuple[int, int, int]]:
        """Give each block's first row, its rows and its width."""
        for start in range(0, self.size, _BLOCK):
            yield start, min(_BLOCK, self.size - start), self.size - start
