"""The two gradient passes over a network: moments, then bases, then scores of components and channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.calibration.channel_statistics import ChannelScores, ReadMoments, ReadPlace
from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.calibration.gradient_pass import CalibrationBatch, GradientPass
from onnx_basisprune.calibration.statistics import collect_statistics, score_components
from onnx_basisprune.compensating import CompensatedRead, list_compensated
from onnx_basisprune.joint_scores import join_channel_scores
from onnx_basisprune.network import Network
from onnx_basisprune.planning.basis import expand_mean, find_reduced_space, make_fisher_basis, make_svd_basis
from onnx_basisprune.planning.compensation import ReadStatistics
from onnx_basisprune.planning.types import Basis, ConvStatistics, Head, ReducedSpace
from onnx_basisprune.progress import Progress

BasisKind = Literal["fisher", "svd", "literal"]
Prune = Literal["basis", "channels", "double"]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """How a network is shown its calibration images.

    Attributes:
        head: Where the loss is taken.
        batches: Gives the images anew for each pass.
        image_count: How many they are, for the progress.
        seed: Seeds the draws for images without labels.
        fixed_batch: Batch size that the graph insists on, if any; no batch may be larger.
    """

    head: Head
    batches: Callable[[], Iterable[CalibrationBatch]]
    image_count: int
    seed: int
    fixed_batch: int | None = None


@dataclass(frozen=True)
class Assessment:
    """What the passes found out.

    Attributes:
        bases: Conv name → basis.
        components: Conv name → scores of its components, `[r]`.
        channels: Class → score, of coupled channels.
        reads: Moments of what consumers read that can be compensated, by tensor.
        compensated: Reads whose consumers can take over what removed channels told them.
    """

    bases: Mapping[str, Basis]
    components: Mapping[str, Vector]
    channels: Mapping[int, float]
    reads: Mapping[str, ReadStatistics]
    compensated: tuple[CompensatedRead, ...]


def assess_network(
    network: Network,
    calibration: Calibration,
    kind: BasisKind,
    prune: Prune,
    progress: Progress,
    *,
    compensate: bool = True,
) -> Assessment:
    """Run both gradient passes.

    Args:
        network: The network.
        calibration: Its images and its loss.
        kind: `fisher`, `svd`, or `literal` for the published variant without centring.
        prune: Whether components, channels or both are scored.
        progress: Told of both passes.
        compensate: Whether consumers are to be compensated for removed channels.
    """
    places = () if prune == "basis" else list_places(network)
    layers = network.eligible if prune != "channels" else {}
    biases = {name: network.bias(layer) for name, layer in layers.items()}
    spaces = {name: find_reduced_space(network.weight(layer)) for name, layer in layers.items()}
    if not layers and not places:
        return Assessment({}, {}, {}, {}, ())
    wanted = list_compensated(network) if compensate and places else ()
    edges = {item.edge for item in wanted}
    moments = ReadMoments([place for place in places if place.edge in edges])
    gradient_pass = GradientPass(
        Executor(network.program), network.input_name, calibration.head, calibration.seed, calibration.fixed_batch
    )
    progress.start("moments", calibration.image_count)
    statistics = collect_statistics(
        gradient_pass, calibration.batches(), biases, spaces, progress.advance, moments.starts()
    )
    progress.start("bases")
    bases: dict[str, Basis] = {}
    for name in list(statistics):
        # A basis takes the memory that its moments took: of wide networks both together are many GiB.
        item = statistics.pop(name)
        # What the loss doesn't depend on (another output's branch) isn't worthless: it is left alone.
        if item.gradient_outer.values.any():
            bases[name] = _make_basis(kind, network.weight(layers[name]), biases[name], spaces[name], item)
    reads = moments.finish()
    compensated = tuple(item for item in wanted if item.tensor in reads)
    gates = ChannelScores(places, {item.edge: reads[item.tensor].mean for item in compensated})
    progress.start("scores", calibration.image_count)
    components = score_components(
        gradient_pass, calibration.batches(), bases, progress.advance, gates.starts(), gates.end_batch
    )
    channels = join_channel_scores(network, *gates.finish(), reads, compensated)
    return Assessment(bases, components, channels, reads, compensated)


def list_places(network: Network) -> tuple[ReadPlace, ...]:
    """Return where the gradient passes watch coupled channels."""
    return tuple(
        ReadPlace(
            (read.node, read.input_index),
            network.operations[read.node].inputs[read.input_index],
            read.axis,
            read.labels,
        )
        for read in network.channels.reads
    )


def _make_basis(kind: BasisKind, W: Vector, b: Vector, space: ReducedSpace | None, statistics: ConvStatistics) -> Basis:
    """Return a Conv's basis of the wanted kind, `R` and `A` in float32, as what is made of them is written."""
    center = b if kind == "literal" else expand_mean(statistics, space, b)
    basis = make_fisher_basis(W, statistics, space, center) if kind == "fisher" else make_svd_basis(W, center)
    return replace(basis, R=basis.R.astype(np.float32), A=basis.A.astype(np.float32))
