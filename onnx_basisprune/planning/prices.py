"""What forms of a Conv cost by their channel counts: counted by formula, or measured and interpolated.

onnxruntime's time is a staircase in the channel counts: a multiple of 4 is filled up to a multiple of the SIMD block,
another count may leave the blocked layout altogether (METHOD section 5). These are two *alignment classes*; measured
prices are interpolated only within one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]

# Of the largest count: where prices are measured. Time is nearly linear in between.
_SHARES = (0.0, 0.33, 0.67, 1.0)
# What channel counts must be a multiple of for onnxruntime's blocked layout.
BLOCKED_MULTIPLE = 4


@dataclass(frozen=True)
class ConvShape:
    """All that the time of one Conv depends on.

    Attributes:
        in_channels: `C_in`.
        out_channels: `C_out`.
        kernel: Its size, one number per spatial axis.
        strides: The same.
        dilations: The same.
        pads: ONNX's `pads`, `()` where `auto_pad` says it.
        auto_pad: ONNX's `auto_pad`.
        group: Number of groups.
        input_size: The input's spatial size.
        activation: op_type of the activation that follows, `""` for none.
        adds: Whether another tensor is added before it.
        batch: Images in one run.
    """

    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str
    group: int
    input_size: tuple[int, ...]
    activation: str = ""
    adds: bool = False
    batch: int = 1

    def with_channels(self, in_channels: int, out_channels: int) -> ConvShape:
        """Return the same Conv with other channel counts."""
        return replace(self, in_channels=in_channels, out_channels=out_channels)

    @property
    def key(self) -> str:
        """A readable name, the same for the same shape in every run."""
        parts = [
            f"{self.batch}x{self.in_channels}x{_join(self.input_size)}",
            f"{self.out_channels}o",
            f"k{_join(self.kernel)}",
            f"s{_join(self.strides)}",
            f"d{_join(self.dilations)}",
            f"p{_join(self.pads)}" if self.pads else self.auto_pad,
            f"g{self.group}",
            self.activation,
            "add" if self.adds else "",
        ]
        return " ".join(part for part in parts if part)


def _join(numbers: Iterable[int]) -> str:
    return "x".join(str(number) for number in numbers)


def fill_count(count: ArrayLike, block: int) -> NDArray[np.int64]:
    """Return what kernels make of channel counts: multiples of 4 are filled up to the block, others stay."""
    counts = np.asarray(count, dtype=np.int64)
    return np.where(counts % min(BLOCKED_MULTIPLE, block) == 0, -(-counts // block) * block, counts)


def choose_counts(admissible: Iterable[int], size: int, block: int) -> tuple[int, ...]:
    """Return the channel counts to measure: of each alignment class a few that span its admissible counts.

    Args:
        admissible: The counts that a plan may choose beside the original one.
        size: The original one; below the block it is measured as it is, since small inputs have kernels of their own.
        block: The SIMD block of the machine.
    """
    whole = np.array([size], dtype=np.int64) if size < block else fill_count([size], block)
    counts = np.unique(np.concatenate([fill_count(list(admissible), block), whole]))
    chosen: set[int] = set()
    for members in _split_classes(counts, block).values():
        wanted = members[0] + np.array(_SHARES) * (members[-1] - members[0])
        chosen.update(int(members[np.argmin(np.abs(members - value))]) for value in wanted)
    return tuple(sorted(chosen))


class MeasuredGrid:
    """Times of one Conv for any channel counts, from measured ones.

    Args:
        times: `(in_channels, out_channels)` → time in any unit; all pairs of the counts that occur.
        block: The SIMD block of the machine.
    """

    def __init__(self, times: Mapping[tuple[int, int], float], block: int) -> None:
        self._block = block
        self._ins = _split_classes(np.unique([pair[0] for pair in times]), block)
        self._outs = _split_classes(np.unique([pair[1] for pair in times]), block)
        self._times = {
            (a, b): np.array([[times[i, o] for o in outs.tolist()] for i in ins.tolist()])
            for a, ins in self._ins.items()
            for b, outs in self._outs.items()
        }

    def at(self, in_channels: ArrayLike, out_channels: ArrayLike) -> Vector:
        """Return times, interpolated between the measured counts of the same alignment classes.

        A count that its class wasn't measured around takes the time of the next multiple of the block.
        """
        ins, outs = np.broadcast_arrays(np.asarray(in_channels), np.asarray(out_channels))
        found = np.empty(ins.shape)
        ins, in_classes = self._place(ins, self._ins)
        outs, out_classes = self._place(outs, self._outs)
        for (a, b), table in self._times.items():
            here = (in_classes == a) & (out_classes == b)
            if here.any():
                found[here] = _interpolate(table, self._ins[a], self._outs[b], ins[here], outs[here])
        return found

    def _place(
        self, counts: NDArray[np.int64], measured: Mapping[bool, NDArray[np.int64]]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the counts to look up and whether they are multiples of the block, both among the measured ones."""
        exact = np.isin(counts, np.concatenate(list(measured.values())))
        filled = np.where(exact, counts, fill_count(counts, self._block))
        odd = measured.get(False, np.zeros(1, dtype=np.int64))
        known = (filled % self._block == 0) | ((odd[0] <= filled) & (filled <= odd[-1]))
        filled = np.where(known, filled, -(-filled // self._block) * self._block)
        is_aligned = filled % self._block == 0
        return filled, is_aligned if len(measured) > 1 else np.full(counts.shape, next(iter(measured)))


def _split_classes(counts: NDArray[np.int64], block: int) -> dict[bool, NDArray[np.int64]]:
    """Return the multiples of the block and the others, each ascending."""
    is_aligned = counts % block == 0
    return {kind: counts[is_aligned == kind] for kind in (False, True) if (is_aligned == kind).any()}


def _interpolate(
    table: Vector, ins: NDArray[np.int64], outs: NDArray[np.int64], at_in: NDArray[np.int64], at_out: NDArray[np.int64]
) -> Vector:
    """Interpolate a table `[ins, outs]` linearly in both counts; beyond its ends it stays constant."""
    i, u = _locate(ins, at_in)
    o, v = _locate(outs, at_out)
    i_next, o_next = np.minimum(i + 1, len(ins) - 1), np.minimum(o + 1, len(outs) - 1)
    low = (1 - v) * table[i, o] + v * table[i, o_next]
    high = (1 - v) * table[i_next, o] + v * table[i_next, o_next]
    result: Vector = (1 - u) * low + u * high
    return result


def _locate(points: NDArray[np.int64], at: NDArray[np.int64]) -> tuple[NDArray[np.int64], Vector]:
    """Return the index of the measured count at or below each count, and the part of the way to the next one."""
    index = np.clip(np.searchsorted(points, at, side="right") - 1, 0, len(points) - 1)
    following = np.minimum(index + 1, len(points) - 1)
    span = np.maximum(points[following] - points[index], 1)
    return index, np.clip((at - points[index]) / span, 0.0, 1.0)


class Price(Protocol):
    """What the forms of one Conv cost."""

    def whole(self, in_channels: int, out_channels: int) -> float:
        """Return the cost of the undecomposed Conv."""

    def pair(self, in_channels: int, ranks: NDArray[Any], out_channels: int) -> Vector:
        """Return the costs of pairs of these ranks."""


@dataclass(frozen=True)
class CountedPrice:
    """Multiply-adds or parameters by formula: `unit·K·O` undecomposed, `unit·r·(K + O) + pair_extra·O` as a pair.

    Attributes:
        unit: Cost per weight element.
        kernel: Weight elements per input channel, so that `K = kernel · in_channels`.
        pair_extra: Cost per output channel that only a pair has (a bias that the Conv lacks).
    """

    unit: float
    kernel: int
    pair_extra: float = 0.0

    def whole(self, in_channels: int, out_channels: int) -> float:
        """Return the cost of the undecomposed Conv."""
        return self.unit * self.kernel * in_channels * out_channels

    def pair(self, in_channels: int, ranks: NDArray[Any], out_channels: int) -> Vector:
        """Return the costs of pairs of these ranks."""
        costs: Vector = self.unit * ranks * float(self.kernel * in_channels + out_channels)
        return costs + self.pair_extra * out_channels


@dataclass(frozen=True)
class MeasuredPrice:
    """Time from measured grids.

    Attributes:
        conv: The undecomposed Conv.
        basis: The basis conv, by input channels and rank.
        scaling: The 1×1 scaling conv, by rank and output channels.
        largest_rank: Pairs of larger ranks weren't measured, and aren't wanted.
        factor: What the Conv took within the model over what it takes alone.
    """

    conv: MeasuredGrid
    basis: MeasuredGrid
    scaling: MeasuredGrid
    largest_rank: int
    factor: float

    def whole(self, in_channels: int, out_channels: int) -> float:
        """Return the time of the undecomposed Conv."""
        return self.factor * float(self.conv.at(in_channels, out_channels))

    def pair(self, in_channels: int, ranks: NDArray[Any], out_channels: int) -> Vector:
        """Return the times of pairs of these ranks."""
        times = np.full(len(ranks), np.inf)
        known = np.asarray(ranks, dtype=np.int64) <= self.largest_rank
        if known.any():
            times[known] = self.basis.at(in_channels, ranks[known]) + self.scaling.at(ranks[known], out_channels)
        return self.factor * times
