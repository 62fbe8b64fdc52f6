"""`--preprocess auto`: find the preset that a model was trained with by trying them all.

With labels the most accurate one wins. Without, the one whose predictions carry the most information about
the image, `H(mean p) - mean H(p)`: decided for each image, and different between images. Confidence alone
would be fooled: unscaled pixels drive a network into saturation, where it is sure of one and the same class
whatever it sees (0.95 against 0.84 with the right preset, on a ResNet-20 of CIFAR-10).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.config import PreprocessConfig
from onnx_basisprune.data.batches import check_sample_shape, fit_images
from onnx_basisprune.data.dataset import Dataset
from onnx_basisprune.data.preprocess import PRESETS, Preprocessing
from onnx_basisprune.data.preprocess_options import feed_as_is, resolve_preprocessing
from onnx_basisprune.errors import ModelError
from onnx_basisprune.planning.types import TensorSpec

Predict = Callable[[NDArray[Any]], NDArray[Any]]

_PROBE_IMAGES = 256
_PROBE_BATCH = 32
_SMALLEST_PROBABILITY = 1e-12
# Of the information that would tell all classes (or images, if fewer) apart. With a mix of classes the
# right preset reached 0.72 to 0.98 on five networks; with one class only, wrong ones reached up to 0.50.
_CLEAR_INFORMATION = 0.6


@dataclass(frozen=True)
class Detection:
    """The preprocessing for a run.

    Attributes:
        preprocessing: What to do with the images.
        preset: Its name, `none` for float arrays.
        message: What was chosen and why, one line.
        warnings: What the user should check.
    """

    preprocessing: Preprocessing
    preset: str
    message: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Trial:
    """How a model does on the probe with one preset.

    Attributes:
        preprocessing: The candidate.
        right: Which images it gets right, bool `[n]`; `None` without labels.
        loss: Mean negative log-likelihood of the labels, nats; 0 without labels.
        information: `H(mean p) - mean H(p)`, nats.
        classes: Classes that the model tells apart.
    """

    preprocessing: Preprocessing
    right: NDArray[np.bool_] | None
    loss: float
    information: float
    classes: int

    @property
    def name(self) -> str:
        return self.preprocessing.name

    @property
    def top1(self) -> float:
        return 0.0 if self.right is None else float(self.right.mean())


def detect_preprocessing(
    dataset: Dataset, predict: Predict, spec: TensorSpec, config: PreprocessConfig, seed: int = 0
) -> Detection:
    """Find out how a dataset's images become a model's input.

    A preset that `config.preprocess` names is taken without a trial, a float array as it is.

    Args:
        dataset: The images; up to 256 are tried, drawn with `seed`, evenly over the classes.
        predict: Runs the model: a batch as `Preprocessing` makes it, to scores `[n, classes]` (logits or
            probabilities, or one column for a binary model). Its errors pass through.
        spec: The model's input.
        config: The options; those given explicitly hold with every preset.
        seed: Same seed, same probe.

    Returns:
        The preprocessing, with a message and warnings.

    Raises:
        ConfigError: An option contradicts another or the model.
        DataError: Images can't be read or don't fit the model, or a label isn't one of its classes.
        ModelError: The model doesn't take images or doesn't return one row of scores per image.
    """
    given = _list_given_options(config)
    if dataset.is_preprocessed:
        preprocessing = feed_as_is(config, spec)
        check_sample_shape(dataset, preprocessing)
        warning = f"The data are floats, which are fed as they are: {', '.join(given)} ignored."
        message = "preprocess: none (the data are floats, fed as they are)"
        return Detection(preprocessing, "none", message, (warning,) if given else ())
    if config.preprocess != "auto":
        preprocessing = resolve_preprocessing(config, spec, config.preprocess)
        return Detection(preprocessing, config.preprocess, f"preprocess: {config.preprocess} (as given)")
    candidates = _list_candidates(config, spec)
    if len(candidates) == 1:
        only = candidates[0]
        reason = "the model takes pixels" if only.dtype == "uint8" else f"set by {', '.join(given)}"
        return Detection(only, only.name, f"preprocess: {only.name} ({reason})")
    probe = dataset.draw(_PROBE_IMAGES, seed)
    choose = _choose_by_information if dataset.labels is None else _choose_by_labels
    return choose(_try_candidates(candidates, probe, predict), len(probe))


def _list_given_options(config: PreprocessConfig) -> list[str]:
    """Return the names of the options that say how values are made."""
    values = {"--mean": config.mean, "--std": config.std, "--scale": config.scale, "--color": config.color,
              "--resize": config.resize, "--crop": config.crop}  # fmt: skip
    preset = [] if config.preprocess == "auto" else ["--preprocess"]
    return preset + [option for option, value in values.items() if value is not None]


def _list_candidates(config: PreprocessConfig, spec: TensorSpec) -> list[Preprocessing]:
    """Return the presets with the options applied, those left out that come to the same."""
    if spec.dtype == "uint8":
        return [resolve_preprocessing(config, spec, "raw")]
    candidates: list[Preprocessing] = []
    for preset in PRESETS:
        candidate = resolve_preprocessing(config, spec, preset)
        if not any(replace(candidate, name=other.name) == other for other in candidates):
            candidates.append(candidate)
    return [replace(candidates[0], name="custom")] if len(candidates) == 1 else candidates


def _try_candidates(candidates: list[Preprocessing], probe: Dataset, predict: Predict) -> list[_Trial]:
    """Run the model on the probe with each candidate; the images are decoded once."""
    scores: list[list[NDArray[np.float64]]] = [[] for _ in candidates]
    for start in range(0, len(probe), _PROBE_BATCH):
        indices = np.arange(start, min(start + _PROBE_BATCH, len(probe)), dtype=np.int64)
        # Candidates differ in values only, so one fitting serves all.
        fitted = fit_images(probe, candidates[0], indices)
        names = [probe.name_of(index) for index, _ in fitted]
        pixels = [item for _, item in fitted]
        for candidate, parts in zip(candidates, scores, strict=True):
            parts.append(_predict_rows(predict, candidate.stack_fitted(pixels, names)))
    return [
        _judge(candidate, np.concatenate(parts), probe) for candidate, parts in zip(candidates, scores, strict=True)
    ]


def _predict_rows(predict: Predict, batch: NDArray[Any]) -> NDArray[np.float64]:
    """Return the model's scores as float64 `[n, classes]`."""
    scores = np.asarray(predict(batch), dtype=np.float64)
    if scores.ndim == 0 or len(scores) != len(batch) or scores.size == 0:
        raise ModelError(
            f"The model returns {list(scores.shape)} for {len(batch)} images; expected one row of class "
            "scores for each: only image classifiers are taken."
        )
    return scores.reshape(len(batch), -1)


def _judge(preprocessing: Preprocessing, scores: NDArray[np.float64], probe: Dataset) -> _Trial:
    """Score one candidate; images on which the model overflows count as wrong and undecided."""
    broken = np.asarray(~np.isfinite(scores).all(axis=1), dtype=np.bool_)
    probabilities = estimate_probabilities(np.where(broken[:, None], 0.0, scores))
    classes = probabilities.shape[1]
    probabilities[broken] = 1.0 / classes
    information = float(_entropy(probabilities.mean(axis=0)) - _entropy(probabilities).mean())
    if probe.labels is None:
        return _Trial(preprocessing, None, 0.0, information, classes)
    probe.check_labels(classes)
    right = (probabilities.argmax(axis=1) == probe.labels) & ~broken
    of_labels = probabilities[np.arange(len(probe)), probe.labels]
    loss = float(-np.log(np.maximum(of_labels, _SMALLEST_PROBABILITY)).mean())
    return _Trial(preprocessing, right, loss, information, classes)


def estimate_probabilities(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return class probabilities of a classifier's scores, whatever its head.

    Args:
        scores: Finite logits, log-probabilities or probabilities, float64 `[n, classes]`, or `[n, 1]` of a
            binary model.

    Returns:
        Rows that sum to 1, float64 `[n, max(classes, 2)]`.
    """
    if ((scores >= 0.0) & (scores <= 1.0)).all():
        if scores.shape[1] == 1:
            return np.concatenate([1.0 - scores, scores], axis=1)
        # Softmax's rows sum to 1 already; those of a multi-label head's sigmoids don't.
        scores = np.maximum(scores, _SMALLEST_PROBABILITY)
        return np.asarray(scores / scores.sum(axis=1, keepdims=True), dtype=np.float64)
    if scores.shape[1] == 1:
        scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), dtype=np.float64)


def _entropy(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy over the last axis, nats."""
    logs = np.log(np.maximum(probabilities, _SMALLEST_PROBABILITY))
    return np.asarray(-(probabilities * logs).sum(axis=-1), dtype=np.float64)


def _choose_by_labels(trials: list[_Trial], count: int) -> Detection:
    """Choose the most accurate candidate; among those that the probe can't tell from it, the least loss."""
    most_accurate = max(trials, key=lambda trial: (trial.top1, -trial.loss))
    contenders = [trial for trial in trials if _is_as_accurate(trial, most_accurate)]
    best = min(contenders, key=lambda trial: trial.loss)
    following = max((trial for trial in trials if trial is not best), key=lambda trial: trial.top1)
    message = (
        f"preprocess: {best.name} ({100 * best.top1:.1f} % top-1 on {count} images; next best "
        f"{following.name} {100 * following.top1:.1f} %)"
    )
    if len(contenders) == 1:
        return Detection(best.preprocessing, best.name, message)
    names = " and ".join(trial.name for trial in contenders)
    warning = (
        f"The presets {names} are about as accurate on {count} images; {best.name} was taken for its lower "
        "loss: give --preprocess if you know better."
    )
    return Detection(best.preprocessing, best.name, message, (warning,))


def _is_as_accurate(trial: _Trial, best: _Trial) -> bool:
    """Return whether a trial loses to the best by at most one standard error of the paired difference."""
    if trial.right is None or best.right is None:
        return False
    lost = int((best.right & ~trial.right).sum())
    won = int((trial.right & ~best.right).sum())
    return lost - won <= math.sqrt(lost + won)


def _choose_by_information(trials: list[_Trial], count: int) -> Detection:
    """Choose the candidate whose predictions say most about the images."""
    ranked = sorted(trials, key=lambda trial: -trial.information)
    best, following = ranked[:2]
    message = (
        f"preprocess: {best.name} (no labels; its predictions on {count} images carry {best.information:.2f} "
        f"nats, next best {following.name} {following.information:.2f})"
    )
    guess = (
        f"Without labels the preset {best.name} is a guess, from how decided and varied the model's "
        "predictions are: give --preprocess if you know it, or --labels."
    )
    unclear = (
        f"With no preset do the model's predictions differ much between the {count} images: they may be too "
        "alike to find the preset by, or not of the model's kind: give --preprocess."
    )
    attainable = math.log(max(min(count, best.classes), 2))
    warnings = (guess,) if best.information >= _CLEAR_INFORMATION * attainable else (guess, unclear)
    return Detection(best.preprocessing, best.name, message, warnings)
