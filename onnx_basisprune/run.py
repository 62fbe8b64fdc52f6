"""What every step of a compression run shares: the model, its images, and how good it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.assessment import Calibration
from onnx_basisprune.cache import open_cache
from onnx_basisprune.calibration.batching import can_batch
from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.calibration.lessons import RecoverySettings
from onnx_basisprune.calibration.precision import describe_arithmetic
from onnx_basisprune.calibration.teacher import Teacher
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.destination import check_data_files
from onnx_basisprune.errors import DataError, quote
from onnx_basisprune.files import count_bytes
from onnx_basisprune.foreign import list_black_boxes, record_opaque_shapes
from onnx_basisprune.graph.cost import measure_cost
from onnx_basisprune.graph.fed_inputs import unfeed_inputs
from onnx_basisprune.graph.model_io import save_model
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.graph.quantized import refuse_quantized
from onnx_basisprune.graph.shortcuts import convolve_shortcuts
from onnx_basisprune.graph.tensors import drop_weights
from onnx_basisprune.graph.working_form import leave_working_form, take_working_form
from onnx_basisprune.memory import Memory
from onnx_basisprune.network import Network, read_network
from onnx_basisprune.opening import Images, Subject, open_data, open_subject, predict_all
from onnx_basisprune.progress import Recorder
from onnx_basisprune.results import ModelMeasurement
from onnx_basisprune.runtime.baseline import check_above_chance
from onnx_basisprune.runtime.environment import describe_environment
from onnx_basisprune.runtime.evaluation import Predictions, summarize_accuracy
from onnx_basisprune.runtime.session import Session
from onnx_basisprune.scratch import make_scratch_folder
from onnx_basisprune.validation import compare_runtimes

if TYPE_CHECKING:
    from onnx import ModelProto


# Images per step of the recovery; large ones cost more and teach more each.
_RECOVERY_BATCH = 128
_RECOVERY_BATCH_LARGE = 32
_LARGE_IMAGE = 3 * 64 * 64


@dataclass(frozen=True)
class Trial:
    """Images that candidates of a search are chosen on.

    Attributes:
        images: Neither calibrated on nor used for the figures.
        baseline: What the original says to them.
    """

    images: Images
    baseline: Predictions


@dataclass(frozen=True)
class Run:
    """What every step of a compression run shares.

    Attributes:
        config: Every option.
        recorder: Told what goes on.
        subject: The original model; its weights are in `plain`.
        plain: The same, normalised.
        network: What is planned for: `plain`, or a form of it whose strided shortcuts are Convs (`graph.shortcuts`).
        original: Its size and accuracy.
        images: To calibrate on and to learn from.
        calibration: The same, as the gradient passes read them.
        validation: Images for the figures, never calibrated on.
        baseline: What the original says to them.
        memory: What earlier runs of the same found out.
        trial: Other images to choose on, of a search only.
    """

    config: CompressionConfig
    recorder: Recorder
    subject: Subject
    plain: Network
    network: Network
    original: ModelMeasurement
    images: Images
    calibration: Calibration
    validation: Images
    baseline: Predictions
    memory: Memory
    trial: Trial | None = None

    @property
    def sample(self) -> NDArray[Any]:
        """Up to 7 images that are never calibrated on, as model input."""
        return self.validation.load(np.arange(min(7, len(self.validation))))

    @property
    def is_convolved(self) -> bool:
        """Whether strided shortcuts became Convs."""
        return self.network is not self.plain

    @property
    def class_names(self) -> Mapping[int, str]:
        """Class index → name, as far as the images' folders tell."""
        return {**self.images.dataset.class_names, **self.validation.dataset.class_names}

    @contextmanager
    def save_for_trial(self, model: ModelProto) -> Iterator[Path]:
        """Write a compressed model as it would be in the end, to try it; yields the file, which is gone afterwards."""
        with make_scratch_folder() as folder:
            yield save_model(self.restore_form(model), folder / "model.onnx")[0]

    def predict_file(self, path: Path, images: Images, stage: str) -> Predictions:
        """Return what onnxruntime makes of images with a model file that has the original's inputs and outputs."""
        config = self.config
        session = Session(path, threads=config.threads, provider=config.provider, feed=config.feed)
        return predict_all(replace(self.subject, session=session), images, config.batch_size, stage, self.recorder)

    @cached_property
    def teacher(self) -> Teacher:
        """The original as the teacher of every candidate that is recovered."""
        config, fixed_batch = self.config, self.calibration.fixed_batch
        is_large = np.prod([size or 1 for size in self.images.load(np.arange(1)).shape]) > _LARGE_IMAGE
        settings = RecoverySettings(
            steps=config.recover_steps,
            batch_size=_RECOVERY_BATCH_LARGE if is_large else _RECOVERY_BATCH,
            chunk_size=fixed_batch or config.batch_size,
            augmentation=config.augment,
            layout=self.images.preprocessing.layout,
            seed=config.seed,
            fixed_batch=fixed_batch,
            mode="full" if config.recover == "full" else "scale",
        )
        return Teacher(self.network.program, self.calibration.head, self.images.load, len(self.images), settings)

    def measure_noise(self, x: NDArray[Any]) -> float:
        """Return how far the original's outputs in onnxruntime are from PyTorch's, as a fraction of the largest."""
        return compare_runtimes(self.subject.session, Executor(self.network.program), x)

    def restore_form(self, model: ModelProto) -> ModelProto:
        """Return a compressed model in the original's types and with its input, ready to be written."""
        return unfeed_inputs(leave_working_form(model, self.subject.model), self.subject.fed)


def open_run(config: CompressionConfig, output: Path | None, recorder: Recorder, *, convolve: bool) -> Run:
    """Open the model and the images, and measure the original.

    Args:
        config: Every option.
        output: Where the compressed model will be, `None` for nowhere.
        recorder: Told what goes on.
        convolve: Whether strided shortcuts become Convs: that takes less time, and a few more multiply-adds.

    Raises:
        BasispruneError: The model, the images or an option can't be used.
    """
    subject = open_subject(config.model, config.threads, config.provider, config.scores, config.feed)
    refuse_quantized(subject.model)
    if config.scores is None and len(subject.session.outputs) > 1:
        recorder.note(f"class scores are read from output {quote(subject.head.output)}; --scores chooses another.")
    subject, images, validation = open_data(subject, config, recorder)
    check_data_files(output, subject.files, config)
    trial = None
    if config.bound is not None:
        chosen_on, claimed_on = validation.dataset.split(0.5, config.seed)
        trial, validation = replace(validation, dataset=chosen_on), replace(validation, dataset=claimed_on)
    baseline = measure_baseline(subject, validation, config, recorder)
    images.dataset.check_labels(baseline.class_count)
    sample = validation.load(np.arange(min(7, len(validation))))
    shape = (1, *sample.shape[1:])
    # Of the file, before anything is folded.
    parameters = measure_cost(subject.model).parameters
    normalized = normalize_model(take_working_form(subject.model))
    record_opaque_shapes(normalized, sample, subject.fixed_batch)
    # The normalised copy has all that is needed of the weights, and they may take half of the memory.
    subject = replace(subject, model=drop_weights(subject.model))
    plain = read_network(normalized, shape, config.exclude)
    network = plain
    if convolve:
        faster = convolve_shortcuts(normalized, plain.input_shapes, plain.cost.macs, config.exclude)
        if faster is not normalized:
            recorder.note("strided shortcuts (Slice, Pad) become Convs, which onnxruntime computes faster.")
            network = read_network(faster, shape, config.exclude)
    for operation in list_black_boxes(network.program, subject.head.logits):
        recorder.warn(
            f"no gradient passes node {quote(operation.name)} ({operation.op_type}, domain {quote(operation.domain)}): "
            "what acts on the class scores only through it stays as it is."
        )
    original = ModelMeasurement(
        plain.cost.macs,
        parameters,
        count_bytes(subject.files),
        plain.cost.uncounted_ops,
        accuracy=summarize_accuracy(baseline),
    )
    fixed_batch = find_fixed_batch(network, subject, sample)
    calibration = Calibration(
        subject.head,
        lambda: images.stream(fixed_batch or config.batch_size),
        len(images),
        config.seed,
        fixed_batch,
    )
    memory = open_memory(config, subject, images, (fixed_batch, network is not plain), recorder)
    run = Run(config, recorder, subject, plain, network, original, images, calibration, validation, baseline, memory)
    if trial is None:
        return run
    return replace(run, trial=Trial(trial, predict_all(subject, trial, config.batch_size, "baseline", recorder)))


def open_memory(
    config: CompressionConfig, subject: Subject, images: Images, form: tuple[int | None, bool], recorder: Recorder
) -> Memory:
    """Return what earlier runs with the same model, images and options found out; nothing with `--no-cache`.

    Args:
        config: Every option.
        subject: The original.
        images: To calibrate on.
        form: The batch size that the graph insists on, and whether its shortcuts became Convs.
        recorder: Told what goes wrong with the cache.
    """
    if not config.cache:
        return Memory(None, config, ())
    environment = describe_environment(config.threads, config.provider)
    content = images.dataset.hash_content()
    sources = (
        subject.sha256,
        content,
        images.preprocessing.describe(),
        (asdict(subject.head), form, config.feed),
        # Other kernels and sums over other parts round otherwise: a cache that machines share gives each its own.
        [environment["cpu"], environment["versions"], describe_arithmetic()],
    )

    def still_holds() -> bool:
        """Look again only where an image couldn't be read: another stood in for it, perhaps since the first look."""
        return not images.dataset.broken.describe() or images.dataset.hash_content() == content

    return Memory(open_cache(recorder.warn_once), config, sources, still_holds)


def measure_baseline(
    subject: Subject, validation: Images, config: CompressionConfig, recorder: Recorder
) -> Predictions:
    """Evaluate the original model; refuse to go on where it is no better than guessing.

    Raises:
        DataError: The accuracy is near chance and the preprocessing wasn't set by `--preprocess`.
    """
    baseline = predict_all(subject, validation, config.batch_size, "baseline", recorder)
    problem = check_above_chance(baseline)
    if problem is not None:
        if config.preprocess == "auto":
            raise DataError(problem)
        recorder.warn(problem)
    return baseline


def find_fixed_batch(network: Network, subject: Subject, sample: NDArray[Any]) -> int | None:
    """Return the only batch size that PyTorch can run the graph with, `None` where any will do."""
    fixed = subject.fixed_batch
    if fixed is None or not subject.head.has_batch:
        return fixed
    executor, name = Executor(network.program), network.program.inputs[0].name
    return None if can_batch(executor, name, subject.head, sample, fixed) else fixed
