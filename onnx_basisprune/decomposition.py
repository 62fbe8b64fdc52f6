"""From a normalised graph and calibration images to planned, rewritten Convs: statistics, bases, scores, ranks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.calibration.gradient_pass import CalibrationBatch, GradientPass
from onnx_basisprune.calibration.statistics import collect_statistics, score_components
from onnx_basisprune.graph.cost import ModelCost, make_mac_price, measure_cost, price_parameters
from onnx_basisprune.graph.layers import list_conv_layers
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.graph.rewrite import ConvPair, PairNames, rewrite_convs
from onnx_basisprune.planning.allocation import Allocation, Price, allocate_ranks, list_choices
from onnx_basisprune.planning.basis import (
    expand_mean,
    find_reduced_space,
    make_fisher_basis,
    make_pair,
    make_svd_basis,
)
from onnx_basisprune.planning.types import Basis, ConvLayer, Head, Plan, Program
from onnx_basisprune.progress import Progress

if TYPE_CHECKING:
    from onnx import ModelProto

BasisKind = Literal["fisher", "svd", "literal"]
Matrix = NDArray[np.float64]
Batches = Callable[[], Iterable[CalibrationBatch]]


@dataclass(frozen=True)
class Network:
    """A normalised model, read for planning.

    Attributes:
        model: The normalised model.
        program: Its graph as plain data.
        layers: All its Convs; `reason` says why one can't be decomposed.
        cost: What it costs for one image.
        total_parameters: Parameters of the file as it was given, the whole that a budget is a fraction of.
        input_shape: Shape of a batch of one image.
    """

    model: ModelProto
    program: Program
    layers: tuple[ConvLayer, ...]
    cost: ModelCost
    total_parameters: int
    input_shape: tuple[int, ...]

    @property
    def eligible(self) -> dict[str, ConvLayer]:
        """The Convs that can be decomposed, by name."""
        return {layer.name: layer for layer in self.layers if not layer.reason}

    def weight(self, layer: ConvLayer) -> Matrix:
        """Return a Conv's weight as a matrix `[C_out, K]`, float64."""
        return self.program.initializers[layer.weight].reshape(layer.out_channels, -1).astype(np.float64)

    def bias(self, layer: ConvLayer) -> Matrix:
        """Return a Conv's bias `[C_out]`, float64; zeros where it has none."""
        if not layer.bias:
            return np.zeros(layer.out_channels)
        return self.program.initializers[layer.bias].astype(np.float64)


def read_network(
    original: ModelProto, normalized: ModelProto, input_shape: tuple[int, ...], exclude: Collection[str]
) -> Network:
    """Read a normalised model for planning.

    Args:
        original: The model as it was given.
        normalized: Its normalised form.
        input_shape: Shape of a batch of one image.
        exclude: Names of nodes that stay as they are.

    Raises:
        ConfigError: `exclude` names a node that doesn't exist.
    """
    program = extract_program(normalized)
    shapes = {program.inputs[0].name: input_shape}
    cost = measure_cost(normalized, shapes)
    counted = {node.name for node in cost.nodes if node.macs is not None}
    layers = tuple(
        layer if layer.reason or layer.name in counted else replace(layer, reason="its output shape isn't known")
        for layer in list_conv_layers(normalized, exclude)
    )
    return Network(normalized, program, layers, cost, measure_cost(original, shapes).parameters, input_shape)


def find_bases(
    network: Network,
    head: Head,
    kind: BasisKind,
    batches: Batches,
    image_count: int,
    seed: int,
    progress: Progress,
    fixed_batch: int | None = None,
) -> tuple[dict[str, Basis], dict[str, NDArray[np.float64]]]:
    """Run both gradient passes: moments, then the scores of each basis' components.

    Args:
        network: The network.
        head: Where the loss is taken.
        kind: `fisher`, `svd`, or `literal` for the published variant without centring.
        batches: Gives the calibration images anew for each pass.
        image_count: How many images that are, for the progress.
        seed: Seeds the draws for images without labels.
        progress: Told of both passes.
        fixed_batch: Batch size that the graph insists on, if any; no batch may be larger.

    Returns:
        Bases and component scores by Conv name.
    """
    layers = network.eligible
    executor, name = Executor(network.program), network.program.inputs[0].name
    gradient_pass = GradientPass(executor, name, head, seed, fixed_batch)
    weights = {name: network.weight(layer) for name, layer in layers.items()}
    biases = {name: network.bias(layer) for name, layer in layers.items()}
    spaces = {name: find_reduced_space(W) for name, W in weights.items()}
    progress.start("moments", image_count)
    statistics = collect_statistics(gradient_pass, batches(), biases, spaces, progress.advance)
    progress.start("bases")
    bases = {}
    for name, moments in statistics.items():
        W, space = weights[name], spaces[name]
        center = biases[name] if kind == "literal" else expand_mean(moments, space, biases[name])
        if kind == "fisher":
            bases[name] = make_fisher_basis(W, moments, space, center)
        else:
            bases[name] = make_svd_basis(W, center)
    progress.start("scores", image_count)
    return bases, score_components(gradient_pass, batches(), bases, progress.advance)


def plan_ranks(
    network: Network,
    scores: Mapping[str, NDArray[np.float64]],
    unit: Literal["macs", "params"],
    target: float,
) -> Allocation:
    """Choose the ranks that keep a fraction of the model's cost.

    Args:
        network: The network.
        scores: Component scores by Conv name.
        unit: What the budget counts.
        target: The fraction of the whole model to keep.
    """
    price: Price = make_mac_price(network.cost) if unit == "macs" else price_parameters
    layers = network.eligible
    choices = {name: list_choices(layers[name], scores[name], price) for name in scores}
    current = network.cost.macs if unit == "macs" else network.cost.parameters
    total = network.cost.macs if unit == "macs" else network.total_parameters
    fixed = current - sum(float(choice.costs[0]) for choice in choices.values())
    return allocate_ranks(choices, scores, target * total - fixed)


def predict_cost(network: Network, plan: Plan) -> tuple[int, int]:
    """Return the multiply-adds and parameters that the rewritten model will have, exactly."""
    mac_price = make_mac_price(network.cost)
    macs, parameters = network.cost.macs, network.cost.parameters
    for name, kept in plan.components.items():
        layer = network.eligible[name]
        macs += int(mac_price(layer, len(kept)) - mac_price(layer, None))
        parameters += price_parameters(layer, len(kept)) - price_parameters(layer, None)
    return macs, parameters


def rewrite_network(
    network: Network, bases: Mapping[str, Basis], plan: Plan
) -> tuple[ModelProto, dict[str, PairNames]]:
    """Return the model with the planned Convs rewritten, and their new initializers' names."""
    pairs = {}
    for name, kept in plan.components.items():
        layer = network.eligible[name]
        filters, scaling, bias = make_pair(network.weight(layer), network.bias(layer), bases[name], kept)
        shape = network.program.initializers[layer.weight].shape[1:]
        pairs[name] = ConvPair(filters.reshape(-1, *shape), scaling, bias)
    return rewrite_convs(network.model, pairs)
