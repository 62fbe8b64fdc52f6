"""The values that steps hand over to each other: plain numpy, no graph, no model, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.planning.triangle import Triangle

RunNode = Callable[[Sequence["NDArray[Any] | None"]], Sequence[NDArray[Any]]]


@dataclass(frozen=True)
class TensorSpec:
    """A graph input or output: its name, numpy dtype name and shape (`None` where dynamic).

    `shape` itself is `None` where the model doesn't even state the number of dimensions.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, eq=False)
class FedInput:
    """An input beside the images, and what every run feeds it.

    Attributes:
        name: The input's name.
        value: In the input's type and shape; without the first dimension where `is_per_image`.
        is_per_image: Whether its first dimension is the batch: every image gets the same value.
    """

    name: str
    value: NDArray[Any]
    is_per_image: bool

    def make_batch(self, count: int) -> NDArray[Any]:
        """Return what a run of so many images is fed."""
        return np.repeat(self.value[np.newaxis], count, axis=0) if self.is_per_image else self.value


@dataclass(frozen=True)
class Operation:
    """One node of the graph as plain data.

    Attributes:
        name: Unique node name.
        op_type: ONNX operator.
        domain: Operator set's domain, `""` for ONNX's own.
        version: Version of that operator set in the model.
        inputs: Tensor names; `""` for an omitted optional input. What inner graphs read of the graph around them
            stands behind the node's own inputs.
        outputs: Tensor names; `""` for an unused optional output.
        attributes: Attribute values by ONNX name: int, float, str, lists of these, or ndarray for tensors.
            Attributes that hold graphs are present with the value `None`.
        bodies: Inner graphs by attribute name (of If, Loop, Scan); of a call of a local function its body, by `""`.
        fallback: Runs the node outside of PyTorch on arrays, one for each input (`None` where omitted); gradients end
            there. `None` where PyTorch must run it.
    """

    name: str
    op_type: str
    domain: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    bodies: Mapping[str, Program] = field(default_factory=dict, repr=False, compare=False)
    fallback: RunNode | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Program:
    """A graph as plain data: nodes in topological order, weights by name.

    What `calibration` runs; `graph.program.extract_program` makes it. `defaults` are the initializers that a caller may
    override, because they are inputs, too.
    """

    operations: tuple[Operation, ...]
    initializers: Mapping[str, NDArray[Any]]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    defaults: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Head:
    """Where a classifier's scores come from.

    Attributes:
        kind: `softmax` (Softmax or LogSoftmax at the end), `sigmoid` (multi-label or one unit), `logits` (no such
            node), `probabilities` (no such node, but outputs are non-negative and sum to 1).
        logits: The tensor to differentiate from (the input of Softmax or Sigmoid, else the output itself).
        output: The graph output that holds the class scores.
        has_batch: Whether the model has a batch axis; without, it takes one image at a time.
    """

    kind: Literal["softmax", "sigmoid", "logits", "probabilities"]
    logits: str
    output: str
    has_batch: bool = True


@dataclass(frozen=True)
class ConvLayer:
    """One Conv or ConvTranspose of the graph, and whether it can be decomposed.

    Attributes:
        name: Node name.
        op_type: `Conv` or `ConvTranspose`.
        weight: Name of the weight initializer, `""` where the weight is computed in the graph.
        bias: Name of the bias initializer, `""` for none.
        out_channels: `C_out`.
        fan_in: `K = C_in · kh · kw` of the weight as a matrix `[C_out, K]`.
        reason: Why the layer can't be decomposed; empty for an eligible layer.
    """

    name: str
    op_type: str
    weight: str
    bias: str
    out_channels: int
    fan_in: int
    reason: str = ""

    @property
    def full_rank(self) -> int:
        """Rank at which the pair is exact, 0 for a layer that isn't eligible."""
        return 0 if self.reason else min(self.out_channels, self.fan_in)

    @property
    def break_even_rank(self) -> int:
        """Largest rank whose pair takes fewer multiply-adds than the Conv (METHOD section 0), 0 for none.

        The pair costs `r·(K + C_out)` per output position against `K·C_out`.
        """
        if self.reason:
            return 0
        product, total = self.fan_in * self.out_channels, self.fan_in + self.out_channels
        return min(self.full_rank, (product - 1) // total)


@dataclass(frozen=True)
class ConvStatistics:
    """Moments of one Conv's output `t` and of its gradient, as sums that add up over shards.

    `t = y` for `C_out ≤ K`, else the reduced `t = Uᵀ(y - b)` of `ReducedSpace`; q is its dimension.

    Attributes:
        total: `sum t`, `[q]` float64, over images and positions.
        outer: `sum t tᵀ`, `[q, q]`.
        gradient_outer: `sum g gᵀ`, `[q, q]`, `g` the loss gradient in the same space.
        positions: Number of summed positions over all images.
        images: Number of images.
    """

    total: NDArray[np.float64]
    outer: Triangle
    gradient_outer: Triangle
    positions: int
    images: int

    def __add__(self, other: ConvStatistics) -> ConvStatistics:
        """Merge the statistics of two disjoint shards of a data set."""
        return ConvStatistics(
            self.total + other.total,
            self.outer + other.outer,
            self.gradient_outer + other.gradient_outer,
            self.positions + other.positions,
            self.images + other.images,
        )

    @property
    def mu(self) -> NDArray[np.float64]:
        """Mean of `t`, `[q]`."""
        return self.total / self.positions

    @property
    def sigma(self) -> NDArray[np.float64]:
        """Covariance of `t`, `[q, q]`."""
        sigma = self.outer.average(self.positions)
        sigma -= np.outer(self.mu, self.mu)
        return sigma

    @property
    def gamma(self) -> NDArray[np.float64]:
        """Mean over images of the summed outer products of gradients, `[q, q]`."""
        return self.gradient_outer.average(self.images)


@dataclass(frozen=True)
class ReducedSpace:
    """The thin SVD `W = U D Vᵀ` in whose K dimensions a Conv with `C_out > K` really lives.

    Attributes:
        U: `[C_out, q]` float64, orthonormal columns.
        D: `[q]` float64, the singular values, all positive.
    """

    U: NDArray[np.float64]
    D: NDArray[np.float64]


@dataclass(frozen=True)
class Basis:
    """A basis of one Conv: `y - b ≈ A R (y - b)`, components ordered as they were found.

    Attributes:
        R: `[r, C_out]`; the rows of `R W` are the basis filters.
        A: `[C_out, r]`; maps basis channels back to output channels.
        center: `[C_out]` float64, the value of `y` that removing components leaves unchanged: the mean
            of `y`, or the bias in the published literal variant.
    """

    R: NDArray[np.floating[Any]]
    A: NDArray[np.floating[Any]]
    center: NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """What is kept; a Conv that isn't named stays undecomposed, a group that isn't named keeps all its channels.

    Attributes:
        components: Conv name → indices of the kept components of its basis, ascending.
        channels: Dependency group → its kept channels, as in `DependencyGroup.channels`.
    """

    components: Mapping[str, NDArray[np.int64]]
    channels: Mapping[str, NDArray[np.int64]]
