"""Open what a run works on: the model with its head, the images with their preprocessing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.config import DEFAULT_PROVIDER, CompressionConfig, PreprocessConfig
from onnx_basisprune.data.batches import Batch, iterate_batches, load_batch
from onnx_basisprune.data.dataset import Dataset, open_dataset
from onnx_basisprune.data.detection import Detection, detect_preprocessing
from onnx_basisprune.data.preprocess import Preprocessing
from onnx_basisprune.errors import ConfigError, ModelError, quote
from onnx_basisprune.files import hash_files
from onnx_basisprune.graph.batch_axis import lacks_batch_axis
from onnx_basisprune.graph.fed_inputs import feed_inputs
from onnx_basisprune.graph.head import find_head
from onnx_basisprune.graph.model_io import read_model
from onnx_basisprune.graph.program import extract_program, list_inputs
from onnx_basisprune.graph.shapes import check_sizes
from onnx_basisprune.planning.types import FedInput, Head, TensorSpec
from onnx_basisprune.progress import Progress
from onnx_basisprune.runtime.evaluation import Predictions, evaluate, to_scores
from onnx_basisprune.runtime.fed_inputs import list_free, resolve_feeds
from onnx_basisprune.runtime.session import Session

if TYPE_CHECKING:
    from onnx import ModelProto

_PROBE_IMAGES = 16
# Of --data, without --val, what is kept from calibration for the reported figures.
_VALIDATION_FRACTION = 0.2
# For a search, which needs images to choose on beside those for the figures.
_SEARCH_FRACTION = 0.4
# Fewer copies among the images for the figures change nothing that is told of them.
_FEW_COPIES = 0.01
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Subject:
    """A model that can be asked for predictions.

    Attributes:
        files: Its file, and those beside it that its weights lie in.
        model: As read, with what `fed` says as defaults.
        session: onnxruntime's view of it.
        head: Where the scores come from; `probe_head` settles a `logits` head.
        fed: Inputs beside the images.
    """

    files: tuple[Path, ...]
    model: ModelProto
    session: Session
    head: Head
    fed: tuple[FedInput, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Of its files, which may be gigabytes."""
        return hash_files(self.files)

    @property
    def input(self) -> TensorSpec:
        """The image input, as it is fed: with a batch axis even where the model has none."""
        spec = self.session.inputs[0]
        return spec if self.head.has_batch else replace(spec, shape=(1, *(spec.shape or ())))

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the model takes, `None` where it takes any."""
        return self.session.fixed_batch if self.head.has_batch else 1

    def predict(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the class scores `[n, classes]` of a batch of inputs."""
        return to_scores(self.session.predict(x, self.head.output))


@dataclass(frozen=True)
class Images:
    """A data set with the preprocessing that fits the model."""

    dataset: Dataset
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.dataset)

    def stream(self, batch_size: int) -> Iterator[Batch]:
        """Go through all images once, in order."""
        return iterate_batches(self.dataset, self.preprocessing, batch_size)

    def load(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return some images as the model's input."""
        return load_batch(self.dataset, self.preprocessing, indices).x


def open_subject(
    path: Path,
    threads: int | None = None,
    provider: str = DEFAULT_PROVIDER,
    scores: str | None = None,
    feed: Sequence[str] = (),
) -> Subject:
    """Load a classifier.

    Args:
        path: An ONNX file.
        threads: onnxruntime's intra-op threads; `None` leaves the choice to onnxruntime.
        provider: Execution provider, see `runtime.session.find_provider`.
        scores: Name of the output that holds the class scores; `None` for the first floating-point one.
        feed: What inputs beside the images are fed, see `runtime.fed_inputs.resolve_feeds`.

    Raises:
        ConfigError: There is no such execution provider, output or input.
        ModelError: The file can't be read, or isn't a model with one image input and class scores.
    """
    model, files = read_model(path)
    inputs = list_inputs(model.graph)
    fed = resolve_feeds(feed, inputs)
    free = list_free(inputs, fed)
    if len(free) != 1:
        raise ModelError(
            f"{quote(path)} has {len(free)} inputs ({_list_inputs(free)}); expected one, for the images: give each of "
            "the others a value by --feed NAME=VALUE."
        )
    model = feed_inputs(model, fed, free[0].name)
    program = extract_program(model)
    check_sizes(model, path)
    head = replace(find_head(program, scores), has_batch=not lacks_batch_axis(program))
    return Subject(files, model, Session(path, threads=threads, provider=provider, feed=feed), head, fed)


def check_file(path: Path) -> None:
    """Refuse a file that onnxruntime mustn't be handed: it isn't sound, or no memory holds what it declares.

    Older releases of onnxruntime read external data from wherever a file says.

    Raises:
        ModelError: It is such a file.
    """
    model, _ = read_model(path)
    check_sizes(model, path)


def _list_inputs(inputs: Sequence[TensorSpec]) -> str:
    """Return inputs with their types and shapes for a message."""
    texts = []
    for spec in inputs:
        sizes = "..." if spec.shape is None else ", ".join("?" if size is None else str(size) for size in spec.shape)
        texts.append(f"{quote(spec.name)} {spec.dtype or 'no tensor'}[{sizes}]")
    return ", ".join(texts) or "none"


def open_data(subject: Subject, config: CompressionConfig, progress: Progress) -> tuple[Subject, Images, Images]:
    """Open calibration and validation images; where an image is in both, a warning says so.

    Args:
        subject: The model.
        config: `data`, `val`, `labels`, `limit`, `seed` and the preprocessing options.
        progress: Told what preprocessing was chosen.

    Returns:
        The model with its head settled, the calibration images and the validation images.

    Raises:
        ConfigError: `val` and `data` are the same.
        BasispruneError: Images or labels can't be read, or don't fit the model.
    """
    if config.val is not None and config.val.exists() and config.data.exists() and config.val.samefile(config.data):
        raise ConfigError(
            f"--val and --data are both {quote(config.val)}; expected other images for the figures: leave --val out to "
            "hold a fifth of --data back for them."
        )
    data = open_dataset(config.data, choose_labels(config.data, config.labels))
    if config.val is None:
        fraction = _VALIDATION_FRACTION if config.bound is None else _SEARCH_FRACTION
        data, held_back = data.split(fraction, config.seed)
        share = "" if config.bound is None else "half of the "
        progress.warn(
            f"no --val: the figures are on {share}{len(held_back):,} images held back from --data, which the model may "
            "have been trained on."
        )
    else:
        held_back = open_dataset(config.val, choose_labels(config.val, config.labels))
    if config.limit is not None:
        data = data.draw(config.limit, config.seed)
    if config.val is not None:
        _warn_of_overlap(data, held_back, progress)
    calibration, _ = open_images(subject, data, config, progress, config.seed)
    if held_back.is_preprocessed == data.is_preprocessed:
        validation = Images(held_back, calibration.preprocessing)
    else:
        validation, _ = open_images(subject, held_back, config, progress, config.seed)
    return probe_head(subject, calibration), calibration, validation


def _warn_of_overlap(data: Dataset, held_back: Dataset, progress: Progress) -> None:
    """Say so where images are given for both parts: on these the compressed model looks better than it is."""
    seen, items = set(data.hash_items()) - {""}, [item for item in held_back.hash_items() if item]
    count, again = sum(item in seen for item in items), len(items) - len(set(items))
    if count:
        progress.warn(
            f"{count:,} of the {len(held_back):,} images of --val are in --data, too: the figures are on images that "
            "the compressed model was fitted to; give others, or leave --val out."
        )
    if again > _FEW_COPIES * len(held_back):
        progress.warn(
            f"{again:,} of the {len(held_back):,} images of --val are copies of others there: the figures are less "
            "certain than their intervals say; leave the copies out."
        )


def choose_labels(source: Path, labels: Path | None) -> Path | None:
    """Return the label file for a source: an `.npz` carries its own labels."""
    return labels if source.is_dir() else None


def open_images(
    subject: Subject, dataset: Dataset, config: PreprocessConfig, progress: Progress, seed: int = 0
) -> tuple[Images, Detection]:
    """Find out how a data set's images become the model's input, and say what was found.

    Raises:
        BasispruneError: As `detect_preprocessing`.
    """
    detection = detect_preprocessing(dataset, subject.predict, subject.input, config, seed)
    progress.note(detection.message)
    for warning in detection.warnings:
        progress.warn(warning)
    return Images(dataset, detection.preprocessing), detection


def probe_head(subject: Subject, images: Images) -> Subject:
    """Settle whether a head without Softmax gives probabilities all the same (METHOD section 2)."""
    if subject.head.kind != "logits":
        return subject
    scores = subject.predict(images.load(np.arange(min(_PROBE_IMAGES, len(images)))))
    is_distribution = bool((scores >= 0).all()) and np.allclose(scores.sum(axis=1), 1.0, atol=_SUM_TOLERANCE)
    if scores.shape[1] > 1 and is_distribution:
        return replace(subject, head=replace(subject.head, kind="probabilities"))
    return subject


def predict_all(subject: Subject, images: Images, batch_size: int, stage: str, progress: Progress) -> Predictions:
    """Evaluate a model on all images, with progress."""
    progress.start(stage, len(images))
    return evaluate(subject.predict, images.stream(batch_size), subject.head.kind, progress.advance)
