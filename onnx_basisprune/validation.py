"""The step that can fail: a compressed model is never written before it has shown that it does what was planned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.errors import ValidationError
from onnx_basisprune.foreign import read_program
from onnx_basisprune.graph.cost import measure_cost
from onnx_basisprune.graph.fed_inputs import feed_inputs
from onnx_basisprune.graph.half_precision import has_half
from onnx_basisprune.graph.model_io import passes_full_check, read_opset
from onnx_basisprune.graph.program import describe_value, list_inputs
from onnx_basisprune.graph.working_form import take_working_form
from onnx_basisprune.planning.types import TensorSpec
from onnx_basisprune.results import ModelMeasurement
from onnx_basisprune.runtime.fed_inputs import list_free, resolve_feeds
from onnx_basisprune.runtime.session import Session

if TYPE_CHECKING:
    from onnx import ModelProto

_TOLERANCE = 1e-3
# onnxruntime rounds what lies between two nodes to float16.
_HALF_TOLERANCE = 1e-2
_BATCH_SIZES = (1, 7)
# Two measurements of the same noise may be so far apart.
_NOISE_FACTOR = 3.0

MeasureNoise = Callable[[NDArray[Any]], float]


def validate_model(
    compressed: ModelProto,
    written: bytes | Path,
    original: ModelProto,
    images: NDArray[Any],
    predicted: ModelMeasurement,
    measure_noise: MeasureNoise | None = None,
    feed: Sequence[str] = (),
) -> str | None:
    """Check the file that is about to become the result.

    It must pass `onnx.checker` in full (where the original did), keep inputs, outputs and opset, cost exactly what
    the plan predicted, and give in onnxruntime what PyTorch computes, with batches of 1 and of 7: within the tolerance
    of the largest output, so that the best class is the same but for ties that are closer than twice that.

    Args:
        compressed: The compressed model.
        written: The same, serialized or in a file.
        original: The model as it was given; the data of its weights aren't needed.
        images: Model input that was never calibrated on, up to 7 images are used.
        predicted: Multiply-adds and parameters as planned.
        measure_noise: Returns how far the original's own outputs for a batch are apart in the two runtimes, as a
            fraction of the largest; asked only where the compressed model's are.
        feed: What inputs beside the images are fed, see `runtime.fed_inputs.resolve_feeds`.

    Returns:
        A warning where rounding alone changes the original's outputs so much that these can't be compared closely.

    Raises:
        ValidationError: One of these isn't so.
    """
    if passes_full_check(original) and not passes_full_check(compressed):
        raise ValidationError("the compressed model fails onnx.checker; the original passes: please report this.")
    inputs, outputs = _read_interface(compressed)
    if _read_interface(original) != (inputs, outputs):
        raise ValidationError("the compressed model's inputs or outputs differ from the original's.")
    if read_opset(original) != read_opset(compressed):
        raise ValidationError("the compressed model's opset differs from the original's.")
    fed = resolve_feeds(feed, inputs)
    image = list_free(inputs, fed)[0].name
    working = take_working_form(feed_inputs(compressed, fed, image))
    cost = measure_cost(working, {image: (1, *images.shape[1:])})
    if (cost.macs, cost.parameters) != (predicted.macs, predicted.parameters):
        raise ValidationError(
            f"the compressed model has {cost.macs:,} MACs and {cost.parameters:,} parameters; the plan predicted "
            f"{predicted.macs:,} and {predicted.parameters:,}."
        )
    program = read_program(working)
    batch = program.inputs[0].shape[0] if program.inputs[0].shape else None
    sizes = _BATCH_SIZES if batch is None else (batch,)
    batches = [np.resize(images, (size, *images.shape[1:])) for size in sizes]
    tolerance = _HALF_TOLERANCE if has_half(compressed) else _TOLERANCE
    return _compare_batches(Session(written, feed=feed), Executor(program), batches, tolerance, measure_noise)


def _read_interface(model: ModelProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return a model's inputs and outputs."""
    return list_inputs(model.graph), tuple(describe_value(value) for value in model.graph.output)


def _compare_batches(
    session: Session,
    executor: Executor,
    batches: Sequence[NDArray[Any]],
    tolerance: float,
    measure_noise: MeasureNoise | None,
) -> str | None:
    """Run the same images in onnxruntime and in PyTorch."""
    warning = None
    for x in batches:
        error = compare_runtimes(session, executor, x)
        # Written so that NaN fails.
        if error <= tolerance:
            continue
        noise = 0.0 if measure_noise is None else measure_noise(x)
        if not error <= _NOISE_FACTOR * noise:
            raise ValidationError(
                f"the compressed model's outputs in onnxruntime differ from PyTorch's by {error:.3g} of the largest at "
                f"a batch of {len(x)}; expected at most {tolerance:g}: please report this.",
                {f"{len(x)}:{key}": array for key, array in run_both(session, executor, x).items()},
            )
        warning = (
            f"rounding alone changes the original's outputs by {noise:.2g} of the largest (onnxruntime against "
            "PyTorch), so the compressed model's could be compared no closer than that."
        )
    return warning


def compare_runtimes(session: Session, executor: Executor, x: NDArray[Any]) -> float:
    """Return how far a model's outputs in onnxruntime are from PyTorch's, as a fraction of each one's largest.

    Args:
        session: The model in onnxruntime.
        executor: The same in PyTorch, computing in float32.
        x: A batch of its input; of one image where the model has no batch axis.

    Returns:
        The largest of all outputs; infinite where a shape differs. Of outputs that aren't floating-point (a label,
        say) only shapes are compared: where scores are equal but for rounding, labels differ.
    """
    results = run_both(session, executor, x)
    names = [spec.name for spec in session.outputs]
    return max(_compare_arrays(results[f"onnxruntime:{name}"], results[f"pytorch:{name}"]) for name in names)


def run_both(session: Session, executor: Executor, x: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return a batch as `input:<name>`, and what both runtimes make of it as `onnxruntime:<name>` and `pytorch:<name>`.

    Args:
        session: The model in onnxruntime.
        executor: The same in PyTorch, computing in float32.
        x: A batch of its input.
    """
    spec, outputs = session.inputs[0], [spec.name for spec in session.outputs]
    fed = x[0] if spec.shape is not None and len(spec.shape) < x.ndim else x
    found = session.run({spec.name: fed.astype(spec.dtype, copy=False)}, outputs)
    expected = executor.compute({spec.name: x}, outputs)
    arrays = {f"input:{spec.name}": x}
    arrays.update((f"onnxruntime:{output}", array) for output, array in zip(outputs, found, strict=True))
    arrays.update((f"pytorch:{output}", expected[output]) for output in outputs)
    return arrays


def _compare_arrays(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return how far an output is from what is expected, as a fraction of the largest."""
    if found.shape != expected.shape:
        return float("inf")
    if expected.dtype.kind != "f":
        return 0.0
    scale = float(np.abs(expected).max(initial=0.0))
    difference = np.abs(found.astype(np.float32) - expected.astype(np.float32)).max(initial=0.0)
    return float(difference) / max(scale, float(np.finfo(np.float32).tiny))
