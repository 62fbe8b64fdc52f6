"""Re-fit what a cut left of a network, on as many images as memory allows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from onnx_basisprune.assessment import Calibration
from onnx_basisprune.calibration.refit import LoadImages, RefitSettings, refit_program
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.graph.editing import list_captured, list_overridable
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.graph.rewrite import PairNames, replace_initializers
from onnx_basisprune.graph.shapes import Shape, infer_shapes
from onnx_basisprune.network import Network
from onnx_basisprune.planning.types import Program
from onnx_basisprune.progress import Progress
from onnx_basisprune.refit_layers import list_refit_layers

if TYPE_CHECKING:
    from onnx import ModelProto

# Twice as many gave ResNet-20 half a point at 0.2 of its MACs.
_MOST_IMAGES = 512
_FEWEST_IMAGES = 64
_FREE_BYTES = 1 << 30


def refit_network(
    network: Network,
    model: ModelProto,
    pairs: Mapping[str, PairNames],
    removed: Collection[int],
    calibration: Calibration,
    load_images: LoadImages,
    config: CompressionConfig,
    progress: Progress,
) -> ModelProto:
    """Re-fit what a cut left to what the original computes; labels aren't needed.

    Args:
        network: The original.
        model: What the cut left of it.
        pairs: Initializers of the model's pairs by the Conv that they replace.
        removed: Classes of the original's channels that are gone.
        calibration: The images' number and seed, and the head.
        load_images: Indices → model input.
        config: `batch_size` images are run at once; nodes of `exclude` stay as they are.
        progress: Told how far it is and what came of it.

    Returns:
        The model with new weights, or as it was where they don't better it on held-out images.
    """
    student = extract_program(model)
    locked = list_overridable(model) | set(list_captured(model))
    layers = list_refit_layers(network, student, pairs, removed, locked, config.exclude)
    if not layers:
        return model
    progress.start("refitting", 1.0)
    settings = RefitSettings(
        images=choose_image_count(network, config.batch_size),
        chunk_size=config.batch_size,
        seed=calibration.seed,
        fixed_batch=calibration.fixed_batch,
    )
    result = refit_program(
        network.program,
        student,
        layers,
        calibration.head,
        load_images,
        calibration.image_count,
        settings,
        progress.advance,
    )
    if result is None:
        return model
    change = f"held-out loss {result.loss_before:.3g} before, {result.loss_after:.3g} after"
    if not result.arrays:
        progress.warn(f"re-fitting the layers to the original's outputs made nothing better, and is undone: {change}.")
        return model
    progress.note(f"{len(layers)} layers re-fitted to the original's outputs: {change}")
    return replace_initializers(model, result.arrays)


def choose_image_count(network: Network, batch_size: int) -> int:
    """Return how many images may stand at the same node in both graphs.

    They may take `_FREE_BYTES`, and for larger models what a gradient pass took before for one batch.
    """
    live, total = measure_activations(network.program, infer_shapes(network.model, network.input_shapes))
    # A gradient pass holds about every second tensor: a Conv's output goes when its activation has been computed.
    elements = max(_FREE_BYTES // 4, batch_size * total // 2)
    return max(_FEWEST_IMAGES, min(_MOST_IMAGES, elements // (2 * live)))


def measure_activations(program: Program, shapes: Mapping[str, Shape]) -> tuple[int, int]:
    """Return the elements of computed tensors for one image: most that wait to be read at any node, and all, both >= 1.

    Args:
        program: The graph.
        shapes: Of its tensors; those that aren't known count nothing.
    """
    last = {name: index for index, operation in enumerate(program.operations) for name in operation.inputs}
    given = {*program.initializers, *(spec.name for spec in program.inputs)}
    held, most, total = 0, 1, 1
    for index, operation in enumerate(program.operations):
        made = sum(int(np.prod(shapes.get(name, (0,)))) for name in operation.outputs)
        held, total = held + made, total + made
        most = max(most, held)
        computed = {*operation.inputs, *operation.outputs} - given
        done = [name for name in computed if last.get(name, -1) <= index]
        held -= sum(int(np.prod(shapes.get(name, (0,)))) for name in done)
    return most, total
