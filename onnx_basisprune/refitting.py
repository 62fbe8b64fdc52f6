"""Re-fit what a cut left of a network, on as many images as memory allows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from onnx_basisprune.assessment import Calibration
from onnx_basisprune.calibration.refit import LoadImages, RefitSettings, refit_program
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.foreign import read_program
from onnx_basisprune.graph.editing import list_captured, list_overridable
from onnx_basisprune.graph.rewrite import PairNames, replace_initializers
from onnx_basisprune.graph.shapes import Shape, infer_shapes
from onnx_basisprune.network import Network
from onnx_basisprune.planning.types import Program
from onnx_basisprune.progress import Progress
from onnx_basisprune.refit_layers import list_refit_layers

if TYPE_CHECKING:
    from onnx import ModelProto

# Half as many cost ResNet-20 1.8 points at 0.2 of its MACs; 1,800 bring half a point there, and take twice as long.
_MOST_IMAGES = 1024
_FEWEST_IMAGES = 64
# What tensors of the images at one node may take, as float32 in both graphs.
_MOST_BYTES = 2 << 30
_BYTES_PER_ELEMENT = 2 * 4


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
    student = read_program(model)
    locked = list_overridable(model) | set(list_captured(model))
    images = choose_image_counts(network, calibration.image_count)
    layers = list_refit_layers(network, student, pairs, removed, images, locked, config.exclude)
    if not layers:
        return model
    progress.start("refitting", 1.0)
    settings = RefitSettings(
        images=tuple(images[layer.name] for layer in layers),
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
    count = len({layer.name for layer in layers if layer.weight in result.arrays})
    progress.note(f"{count} layers re-fitted to the original's outputs: {change}")
    return replace_initializers(model, result.arrays)


def choose_image_counts(network: Network, available: int) -> dict[str, int]:
    """Return by node on how many images it can be fitted: more where maps have become small.

    Early layers have large maps, but many positions to be fitted on; late ones need the images.

    Args:
        network: The original.
        available: Images that there are.
    """
    live = measure_live(network.program, infer_shapes(network.model, network.input_shapes))
    affordable = [_MOST_BYTES // (_BYTES_PER_ELEMENT * elements) for elements in live]
    return {
        operation.name: min(available, max(_FEWEST_IMAGES, min(_MOST_IMAGES, count)))
        for operation, count in zip(network.program.operations, affordable, strict=True)
    }


def measure_live(program: Program, shapes: Mapping[str, Shape]) -> list[int]:
    """Return for each node how many elements of computed tensors are held for one image, there or at any later node.

    Args:
        program: The graph.
        shapes: Of its tensors; those that aren't known count nothing.
    """
    last = {name: index for index, operation in enumerate(program.operations) for name in operation.inputs}
    given = {*program.initializers, *(spec.name for spec in program.inputs)}
    held, live = 0, list[int]()
    for index, operation in enumerate(program.operations):
        held += sum(int(np.prod(shapes.get(name, (0,)))) for name in operation.outputs)
        live.append(max(1, held))
        done = {name for name in {*operation.inputs, *operation.outputs} - given if last.get(name, -1) <= index}
        held -= sum(int(np.prod(shapes.get(name, (0,)))) for name in done)
    for index in reversed(range(len(live) - 1)):
        live[index] = max(live[index], live[index + 1])
    return live
