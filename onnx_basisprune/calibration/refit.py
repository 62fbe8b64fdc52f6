"""Re-fit the layers of a compressed graph, one after the other, to what the original computes (see `planning.refit`).

What a cut layer gets as input is itself wrong in a deep cut, and errors add up from layer to layer. So both graphs are
run side by side, once, from node to node over all images: each layer is fitted on inputs that come from layers that
have been fitted already. Fitting all layers on one run makes things worse, not better.

No label and no gradient is needed. Of a pair the basis filters are fitted, so that what the scaling conv makes of them
comes nearest to the original's output, and then the scaling conv. So these are least-squares fits of weights other than
the scaling factors: the published claim, that no individual weight is tuned, holds of `recovery` with `scale`, not of
this step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, isnan
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onnx_basisprune.calibration.batching import fill_batch
from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.calibration.gradient_pass import to_channels_last
from onnx_basisprune.calibration.loss import flatten_logits
from onnx_basisprune.calibration.recovery import distillation_loss
from onnx_basisprune.calibration.refit_rows import collect_moments
from onnx_basisprune.calibration.stepper import Stepper
from onnx_basisprune.planning.refit import MapMoments, RefitLayer, refit_map
from onnx_basisprune.planning.types import Head, Program

Arrays = dict[str, NDArray[np.float32]]
LoadImages = Callable[[NDArray[np.int64]], NDArray[Any]]

_HELD_OUT_FRACTION = 0.1
_MOST_HELD_OUT = 256
# At least one chunk is fitted and one held back.
_FEWEST_CHUNKS = 2
# How many of the layers, counted from the input, keep what was fitted: where images are few, wide layers near the
# output come nearer to the original at each position, and lead its classifier astray.
_SHARES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class RefitSettings:
    """How to re-fit.

    Attributes:
        images: For each layer, on how many images it is fitted at most; never fewer than the layer before.
        chunk_size: Images run at once.
        seed: Seeds the choice of images.
        fixed_batch: Batch size that the graphs insist on; `None` where they take any. The last chunk is filled up with
            copies of its last image.
    """

    images: tuple[int, ...]
    chunk_size: int
    seed: int
    fixed_batch: int | None = None


@dataclass(frozen=True)
class RefitResult:
    """What came of it.

    Attributes:
        arrays: New initializers by name, of as many layers from the input on as is best on images that were held out;
            that may be none.
        loss_before: Distillation loss on these before, the mean over images.
        loss_after: With the new initializers, kept or not.
    """

    arrays: Arrays
    loss_before: float
    loss_after: float


def refit_program(
    teacher: Program,
    student: Program,
    layers: Sequence[RefitLayer],
    head: Head,
    load_images: LoadImages,
    image_count: int,
    settings: RefitSettings,
    progress: Callable[[float], None] | None = None,
) -> RefitResult | None:
    """Re-fit layers, and keep as many as bring the class scores nearer to the original's on held-out images.

    Args:
        teacher: The original graph.
        student: The compressed graph.
        layers: Its layers in the order of its nodes.
        head: Where the logits are, in both graphs.
        load_images: Indices → model input, for indices below `image_count`.
        image_count: Calibration images.
        settings: How to re-fit.
        progress: Called with the share of the work just done; all of it is 1.

    Returns:
        What came of it, `None` where there is nothing to fit or too few images to fit it on.
    """
    order = np.random.default_rng((settings.seed, image_count)).permutation(image_count)
    held_out = min(_MOST_HELD_OUT, max(1, round(_HELD_OUT_FRACTION * image_count)))
    fetch = _Fetcher(load_images, settings)
    chunks = fetch.chunk(order[held_out : held_out + max(settings.images, default=0)], at_least=_FEWEST_CHUNKS)
    tests = fetch.chunk(order[:held_out])
    # One chunk can't be both fitted and held back: two images, or one batch of a fixed size.
    if not layers or len(chunks) < _FEWEST_CHUNKS:
        return None
    with torch.no_grad():
        counts = [max(_FEWEST_CHUNKS, images // len(chunks[0])) for images in settings.images]
        arrays = fit_layers(teacher, student, layers, chunks, counts, progress)
        options = [_take_first(arrays, layers, share) for share in _SHARES]
        before, *losses = _measure_losses(teacher, student, [{}, *options], head, tests)
    # NaN isn't better.
    after, best = min(zip(losses, options, strict=True), key=lambda item: inf if isnan(item[0]) else item[0])
    return RefitResult(best if after < before else {}, before, after)


def fit_layers(
    teacher: Program,
    student: Program,
    layers: Sequence[RefitLayer],
    chunks: Sequence[torch.Tensor],
    counts: Sequence[int],
    progress: Callable[[float], None] | None = None,
) -> Arrays:
    """Fit layer after layer on the same images, and return the new initializers by name.

    Args:
        teacher: The original graph.
        student: The compressed graph.
        layers: Its layers in the order of its nodes.
        chunks: At least two batches of images.
        counts: For each layer, on how many chunks it is fitted, at least two; never fewer than the layer before.
        progress: Called with the share of the work just done; all of it is 1.
    """
    used = counts[0]
    original, compressed = Stepper(teacher, chunks[:used]), Stepper(student, chunks[:used])
    positions = {name: index for index, operation in enumerate(student.operations) for name in operation.inputs}
    for index, layer in enumerate(layers):
        original.advance(original.find_producer(layer.target) + 1, {item.target for item in layers[index:]})
        # Up to the layer, not over it: it runs with its new weights when the next one is reached.
        compressed.advance(positions[layer.weight], {layer.skip})
        # Layers before this one are settled: more images can be brought up to here.
        for stepper in (original, compressed):
            stepper.extend(chunks[used : counts[index]])
        used = max(used, counts[index])
        parts = collect_moments(layer, original, compressed)
        compressed.arrays.update(_fit_layer(layer, student.initializers, parts))
        if progress is not None:
            progress(1.0 / len(layers))
    return compressed.arrays


class _Fetcher:
    """Loads images in chunks."""

    def __init__(self, load_images: LoadImages, settings: RefitSettings) -> None:
        self._load, self._settings = load_images, settings

    def chunk(self, indices: NDArray[np.int64], at_least: int = 1) -> list[torch.Tensor]:
        """Return images in chunks, in at least so many where there are enough images and the batch isn't fixed."""
        size = self._settings.fixed_batch or max(1, min(self._settings.chunk_size, len(indices) // at_least))
        return [
            to_channels_last(
                fill_batch(torch.from_numpy(self._load(indices[start : start + size])), self._settings.fixed_batch)
            )
            for start in range(0, len(indices), size)
        ]


def _fit_layer(
    layer: RefitLayer, initializers: Mapping[str, NDArray[Any]], parts: tuple[MapMoments, MapMoments]
) -> dict[str, NDArray[np.float32]]:
    """Return a layer's new weight, and bias where it has one, from what is fitted on and what is held back."""
    weight = initializers[layer.weight]
    W = np.moveaxis(weight.astype(np.float64), layer.weight_axis, 0)
    flat = W.reshape(len(W), -1)
    has_bias = bool(layer.bias)
    bias = initializers[layer.bias].astype(np.float64).reshape(layer.groups, -1) if has_bias else np.zeros(1)
    constant = layer.bias_factor * bias
    P: NDArray[np.float64] | None = None
    if layer.through:
        A = initializers[layer.through].astype(np.float64)
        P = np.linalg.pinv(A.reshape(len(A), -1)).astype(np.float64)

    def adjust(part: MapMoments) -> MapMoments:
        """Return the moments of what the weight alone is applied to, and of what it should give."""
        if P is not None:
            return part.shift(np.zeros(1), -constant).project(P)
        return part if layer.form == "weight" else part.shift(-constant, np.zeros(1))

    parts = (adjust(parts[0]), adjust(parts[1]))
    maps = flat.reshape(layer.groups, len(W) // layer.groups, -1)
    if layer.form == "weight":
        fitted, b = refit_map(*parts, maps, has_bias=has_bias)
    else:
        identity = np.broadcast_to(np.eye(maps.shape[1]), (layer.groups, *[maps.shape[1]] * 2))
        M, b = refit_map(*parts, identity, has_bias=has_bias)
        fitted = M @ maps
    arrays = {layer.weight: np.moveaxis(fitted.reshape(W.shape), 0, layer.weight_axis).astype(np.float32)}
    # A basis filter's constant is what the scaling conv's bias takes over, which is fitted next.
    if has_bias and not layer.through:
        arrays[layer.bias] = (b / layer.bias_factor).reshape(initializers[layer.bias].shape).astype(np.float32)
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _take_first(arrays: Arrays, layers: Sequence[RefitLayer], share: float) -> Arrays:
    """Return the new initializers of a share of the layers, counted from the input."""
    order = list(dict.fromkeys(layer.name for layer in layers))
    taken = set(order[: ceil(share * len(order))])
    names = {name for layer in layers if layer.name in taken for name in (layer.weight, layer.bias)}
    return {name: array for name, array in arrays.items() if name in names}


def _measure_losses(
    teacher: Program, student: Program, options: Sequence[Arrays], head: Head, chunks: Sequence[torch.Tensor]
) -> list[float]:
    """Return the mean distillation loss of the compressed graph with each choice of some initializers replaced."""
    original, compressed, name = Executor(teacher), Executor(student), teacher.inputs[0].name
    overrides = [{key: torch.from_numpy(array) for key, array in arrays.items()} for arrays in options]

    def run(executor: Executor, x: torch.Tensor, changed: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return flatten_logits(executor.run({name: x}, [head.logits], overrides=changed)[head.logits].float(), head)

    totals = np.zeros(len(options))
    for x in chunks:
        target = run(original, x, {})
        losses = [distillation_loss(run(compressed, x, changed), target, head) for changed in overrides]
        totals += [float(loss) / len(target) for loss in losses]
    return [float(total) for total in totals / len(chunks)]
