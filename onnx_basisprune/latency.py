"""Prices in onnxruntime's own time: what each form of each layer takes on this machine, from the latency table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnx_basisprune.assessment import Prune
from onnx_basisprune.costing import Prices
from onnx_basisprune.errors import ConfigError, ModelError, quote
from onnx_basisprune.graph.layer_models import FEED, find_conv_shapes, make_layer_model, split_pair
from onnx_basisprune.graph.model_io import save_model
from onnx_basisprune.graph.shapes import Shape, infer_shapes
from onnx_basisprune.network import Network
from onnx_basisprune.node_times import assign_times
from onnx_basisprune.planning.prices import ConvShape, MeasuredGrid, MeasuredPrice, choose_counts
from onnx_basisprune.progress import Recorder
from onnx_basisprune.runtime.latency_table import LatencyTable
from onnx_basisprune.runtime.layer_timing import TimingSettings, time_layers
from onnx_basisprune.runtime.profiling import profile_nodes
from onnx_basisprune.runtime.random_input import draw_input
from onnx_basisprune.scratch import make_scratch_folder

# How far a layer within the model may be from the same layer alone before the difference is taken for noise.
_LEAST_FACTOR, _LARGEST_FACTOR = 0.5, 2.0
# A kernel that the profiler finds faster than its own cost takes at least this many microseconds.
_LEAST_TIME = 0.1


@dataclass(frozen=True)
class Counts:
    """Channel counts of one Conv to be timed, and the largest rank that a pair of it may have."""

    ins: tuple[int, ...]
    outs: tuple[int, ...]
    ranks: tuple[int, ...]
    largest_rank: int


def price_network(
    network: Network,
    table: LatencyTable,
    settings: TimingSettings,
    batch_size: int,
    prune: Prune,
    align: int,
    recorder: Recorder,
) -> Prices:
    """Time what a plan can choose between, as far as the table doesn't know it yet.

    Args:
        network: What is planned for.
        table: Grows by what is measured.
        settings: What is timed on.
        batch_size: Images in a run.
        prune: What may go.
        align: Ranks and kept channels are multiples of this.
        recorder: Told how far it is.

    Raises:
        ConfigError: A pinned table lacks something, or the batch size doesn't fit the model.
        ModelError: The model can't be run with this batch size.
    """
    # First, since it tells whether the model runs with this batch size at all.
    times = _measure_model(network, table, settings, batch_size)
    shapes = _infer_batch(network, batch_size)
    unknown = [name for name in network.eligible if network.operations[name].inputs[0] not in shapes]
    if unknown:
        raise ModelError(
            f"The shape of what Conv {quote(unknown[0])} reads isn't known for a batch of {batch_size}; choose another "
            "--benchmark-batch-size, or export the model with a dynamic batch."
        )
    convs = find_conv_shapes(network.program, shapes, list(network.eligible))
    grids = {name: _choose_grid(network, name, prune, align, table.block) for name in convs}
    wanted = {shape.key: shape for name, conv in convs.items() for shape in _list_shapes(conv, grids[name])}
    _measure_layers(wanted, table, settings, recorder)
    layers = {name: _make_price(conv, grids[name], table, times.get(name)) for name, conv in convs.items()}
    nodes = {name: time for name, time in times.items() if name and name not in layers}
    return Prices(layers, nodes, times.get("", 0.0), table.block)


def _choose_grid(network: Network, name: str, prune: Prune, align: int, block: int) -> Counts:
    """Return the channel counts at which a Conv is timed."""
    layer = network.eligible[name]
    shape = network.program.initializers[layer.weight].shape
    sides = {
        item.axis: item.labels for item in network.channels.couplings if item.node == name and item.input_index == 1
    }
    free = {axis: bool(np.isin(labels, network.channels.removable).any()) for axis, labels in sides.items()}
    ins, outs = (_list_counts(shape[axis], prune != "basis" and free.get(axis, False), align, block) for axis in (1, 0))
    ranks = range(align, layer.break_even_rank + 1, align) if prune != "channels" else range(0)
    if not ranks:
        return Counts(ins, outs, (), 0)
    return Counts(ins, outs, choose_counts(ranks, ranks[-1], block), ranks[-1])


def _list_counts(size: int, is_free: bool, align: int, block: int) -> tuple[int, ...]:
    """Return the channel counts of one side; those below the block are taken to cost as much as the block."""
    return choose_counts(range(max(align, block), size, align) if is_free else (), size, block)


def _list_shapes(conv: ConvShape, counts: Counts) -> list[ConvShape]:
    """Return the layers to be timed for one Conv, the Conv itself included."""
    basis, scaling = split_pair(conv)
    return [
        *(conv.with_channels(i, o) for i in counts.ins for o in counts.outs),
        *(basis.with_channels(i, r) for i in counts.ins for r in counts.ranks),
        *(scaling.with_channels(r, o) for r in counts.ranks for o in counts.outs),
    ]


def _measure_layers(
    wanted: Mapping[str, ConvShape], table: LatencyTable, settings: TimingSettings, recorder: Recorder
) -> None:
    """Add to the table what it lacks."""
    missing = {key: shape for key, shape in wanted.items() if key not in table.layers}
    if not missing:
        return
    if table.pinned:
        raise ConfigError(
            f"--latency-table has no time for {len(missing)} layers of this model, the first being "
            f"'{next(iter(missing))}'; name a file that doesn't exist yet to measure a new table."
        )
    recorder.start("timing layers", len(missing))
    models = {key: partial(make_layer_model, shape) for key, shape in missing.items()}
    times = time_layers(models, settings, FEED, recorder.advance)
    table.layers.update({key: max(time - table.overhead, _LEAST_TIME) for key, time in times.items()})


def _measure_model(
    network: Network, table: LatencyTable, settings: TimingSettings, batch_size: int
) -> Mapping[str, float]:
    """Return the times of the model's nodes; `""` is what belongs to none."""
    digest = digest_model(network, batch_size)
    if digest in table.models:
        return table.models[digest]
    if table.pinned:
        raise ConfigError(
            "--latency-table was not measured for this model (or for this batch size); name a file that doesn't "
            "exist yet to measure a new table."
        )
    # In a file: it may be larger than what can be handed over in memory.
    with make_scratch_folder() as folder:
        path = save_model(network.model, folder / "model.onnx")[0]
        feeds = draw_input(network.program.inputs, batch_size, network.input_shape[1:], seed=0)
        kernels = profile_nodes(path, feeds, threads=settings.threads, provider=settings.provider)
    kernels = tuple(
        replace(kernel, microseconds=max(kernel.microseconds - table.overhead, _LEAST_TIME)) for kernel in kernels
    )
    table.models[digest] = assign_times(network.program, kernels) if settings.has_kernel_times else {"": 0.0}
    return table.models[digest]


def digest_model(network: Network, batch_size: int) -> str:
    """Return what a table knows a model by: all but the values of its weights, on which no time depends."""
    types = {name: str(values.dtype) for name, values in network.program.initializers.items()}
    content = (network.program.operations, types, sorted(_infer_batch(network, batch_size).items()))
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _infer_batch(network: Network, batch_size: int) -> Mapping[str, Shape]:
    """Return the shapes of a network's tensors in a run of so many images, as far as they are known."""
    return infer_shapes(network.model, {network.input_name: (batch_size, *network.input_shape[1:])})


def _make_price(conv: ConvShape, counts: Counts, table: LatencyTable, time: float | None) -> MeasuredPrice:
    """Return the price of a Conv from the table, put right by what it took within the model."""
    basis, scaling = split_pair(conv)

    def read(shape: ConvShape, ins: tuple[int, ...], outs: tuple[int, ...]) -> MeasuredGrid:
        times = {(i, o): table.layers[shape.with_channels(i, o).key] for i in ins for o in outs}
        return MeasuredGrid(times, table.block)

    whole = read(conv, counts.ins, counts.outs)
    alone = float(whole.at(conv.in_channels, conv.out_channels))
    factor = 1.0 if time is None else min(max(time / alone, _LEAST_FACTOR), _LARGEST_FACTOR)
    return MeasuredPrice(
        whole,
        read(basis, counts.ins, counts.ranks),
        read(scaling, counts.ranks, counts.outs),
        counts.largest_rank,
        factor,
    )
