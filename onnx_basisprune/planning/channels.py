"""Channels as labels: which positions of which tensors must go together.

Every position along a prunable axis carries a label, an integer. Labels of channels that must go together are united;
a class of united labels is one *coupled channel*. A tensor's labels are an int array of the tensor's rank, of size 1
along every axis on which they don't vary, so that reshaping, transposing, slicing and broadcasting a tensor is the same
on its labels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]

# The label of whatever can't be removed.
FIXED = 0


class ChannelClasses:
    """A disjoint-set forest over labels, with a reason for each class that must stay."""

    def __init__(self) -> None:
        self._parent = [FIXED]
        self._reasons: dict[int, str] = {}

    def __len__(self) -> int:
        """Return the number of labels, united ones and the fixed one included."""
        return len(self._parent)

    def make(self, count: int) -> Labels:
        """Return new labels, `[count]`."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def find(self, labels: Labels) -> Labels:
        """Return each label's representative, in the same shape."""
        unique, inverse = np.unique(labels, return_inverse=True)
        roots = np.array([self._find(int(label)) for label in unique], dtype=np.int64)
        return roots[inverse].reshape(labels.shape)

    def _find(self, label: int) -> int:
        while self._parent[label] != label:
            self._parent[label] = self._parent[self._parent[label]]
            label = self._parent[label]
        return label

    def unite(self, first: Labels, second: Labels, reason: str) -> None:
        """Unite labels position by position; those that meet a fixed position are blocked with the reason.

        Args:
            first: Any shape.
            second: A shape that broadcasts with it.
            reason: Why a fixed position keeps the other one.
        """
        pairs = np.stack([item.ravel() for item in np.broadcast_arrays(first, second)], axis=1)
        for one, other in np.unique(pairs, axis=0).tolist():
            low, high = sorted((self._find(one), self._find(other)))
            if low == high:
                continue
            if low == FIXED:
                self._reasons.setdefault(high, reason)
                continue
            self._parent[high] = low
            if high in self._reasons:
                self._reasons.setdefault(low, self._reasons.pop(high))

    def block(self, labels: Labels, reason: str) -> None:
        """Keep whole classes, with the reason; a class that is blocked already keeps its first reason."""
        for root in np.unique(self.find(labels)).tolist():
            if root != FIXED:
                self._reasons.setdefault(root, reason)

    def reason(self, root: int) -> str:
        """Return why a class must stay, `""` where it may go."""
        return self._reasons.get(root, "")

    def simplify(self, labels: Labels) -> Labels:
        """Return labels with size 1 along each axis on which they don't vary, and at most one axis on which they do.

        Removal must leave a tensor rectangular. Where labels vary on several axes, as after the Reshape of a channel
        shuffle, those of all axes but the longest (the last of these) are united.
        """
        labels = self.find(labels)
        for axis in range(labels.ndim):
            first = labels.take([0], axis=axis)
            if labels.shape[axis] > 1 and np.array_equal(np.broadcast_to(first, labels.shape), labels):
                labels = first
        varying = varying_axes(labels)
        kept = max(varying, key=lambda axis: (labels.shape[axis], axis), default=None)
        for axis in varying:
            if axis == kept:
                continue
            first = labels.take([0], axis=axis)
            self.unite(labels, first, "it shares an axis with channels that must stay")
            labels = self.find(first)
        return self.simplify(labels) if len(varying) > 1 else labels


def varying_axes(labels: Labels) -> list[int]:
    """Return the axes on which labels vary."""
    return [axis for axis, size in enumerate(labels.shape) if size > 1]


def read_axis(labels: Labels, axis: int) -> Labels:
    """Return the labels along one axis, `[size]`, of labels that vary on no other."""
    return labels.reshape(-1) if labels.shape[axis] > 1 else labels.reshape(-1)[:1]


def place(labels: Labels, rank: int, axis: int) -> Labels:
    """Return labels `[size]` as those of a tensor of a rank, along an axis."""
    shape = [1] * rank
    shape[axis] = len(labels)
    return labels.reshape(shape)


def fixed_labels(rank: int) -> Labels:
    """Return the labels of a tensor that has no prunable axis."""
    return np.full((1,) * rank, FIXED, dtype=np.int64)
