from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from onnx_basisprune.config import PreprocessConfig
from onnx_basisprune.data.dataset import Dataset, open_dataset
from onnx_basisprune.data.detection import detect_preprocessing, estimate_probabilities
from onnx_basisprune.errors import ConfigError, DataError, ModelError
from onnx_basisprune.planning.types import TensorSpec

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
AUTO = PreprocessConfig()

Predict = Callable[[np.ndarray], np.ndarray]


def _load(model: Path) -> tuple[Predict, TensorSpec]:
    if not model.exists():
        pytest.skip(f"{model.name} isn't beside the repository: ../shared is absent")
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    value = session.get_inputs()[0]
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return lambda x: session.run(None, {value.name: x})[0], TensorSpec(value.name, "float32", shape)


REAL_MODELS = [
    (ROOT / "sample_models" / "digits.onnx", ROOT / "sample_models" / "digits" / "calib", "imagenet"),
    (SHARED / "models" / "resnet20_cifar10.onnx", SHARED / "data" / "cifar10" / "calib", "imagenet"),
    (SHARED / "models" / "vgg16_cifar10.onnx", SHARED / "data" / "cifar10" / "calib", "imagenet"),
    (SHARED / "models" / "vgg16_mnist.onnx", SHARED / "data" / "mnist_calib.npz", "imagenet"),
    (SHARED / "models" / "efficientnet_lite0_imagenet.onnx", SHARED / "data" / "imagenet1k_sample", "tf"),
]


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(("model", "data", "preset"), REAL_MODELS, ids=lambda value: getattr(value, "stem", None))
def test_real_models_get_the_preset_they_were_trained_with(
    model: Path, data: Path, preset: str, labelled: bool
) -> None:
    predict, spec = _load(model)
    # Fewer images than the probe takes, to keep the test short.
    dataset = open_dataset(data).draw(48, 0)
    detection = detect_preprocessing(
        dataset if labelled else replace(dataset, labels=None), predict, spec, AUTO, seed=0
    )
    assert detection.preset == detection.preprocessing.name == preset
    assert f"preprocess: {preset} (" in detection.message
    assert "48 images; next best" in detection.message or "48 images carry" in detection.message
    if not labelled:
        assert len(detection.warnings) == 1
        assert "is a guess" in detection.warnings[0]


def test_images_of_one_class_without_labels_are_warned_about() -> None:
    predict, spec = _load(ROOT / "sample_models" / "digits.onnx")
    dataset = open_dataset(ROOT / "sample_models" / "digits" / "calib")
    zeros = replace(dataset.select(np.flatnonzero(dataset.labels == 0)), labels=None)
    warnings = detect_preprocessing(zeros, predict, spec, AUTO).warnings
    assert len(warnings) == 2
    assert "too alike" in warnings[1]


SPEC = TensorSpec("input", "float32", (None, 3, 4, 4))


LEVELS = np.array([40, 128, 215])


def _make(count: int = 42) -> Dataset:
    """Uniform images: dark ones of class 0, middling ones of class 1, bright ones of class 2, in turn."""
    labels = np.arange(count) % 3
    items = np.broadcast_to(LEVELS.astype(np.uint8)[labels, None, None], (count, 4, 4)).copy()
    return Dataset(Path("x.npz"), labels, {}, items, np.arange(count))


def _expect_levels(scale: float, offset: float) -> Predict:
    """A classifier that takes the nearest of the three levels, as they are after `level * scale + offset`."""
    centres = LEVELS * scale + offset

    def predict(x: np.ndarray) -> np.ndarray:
        means = x.mean(axis=(1, 2, 3), dtype=np.float64)
        return -20.0 * np.abs(means[:, None] - centres) / np.ptp(centres)

    return predict


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(
    ("scale", "offset", "preset"), [(1 / 255, 0.0, "unit"), (1 / 127.5, -1.0, "tf"), (1.0, 0.0, "raw")]
)
def test_model_of_levels_gets_its_scale(scale: float, offset: float, preset: str, labelled: bool) -> None:
    dataset = _make() if labelled else replace(_make(), labels=None)
    assert detect_preprocessing(dataset, _expect_levels(scale, offset), SPEC, AUTO).preset == preset


def test_presets_of_equal_accuracy_are_settled_by_the_loss_and_told() -> None:
    # With `imagenet` the three levels fall nearest to their own centres too, but the middle one less clearly.
    detection = detect_preprocessing(_make(), _expect_levels(1 / 127.5, -1.0), SPEC, AUTO)
    assert "100.0 % top-1 on 42 images; next best imagenet 100.0 %" in detection.message
    assert "The presets imagenet and tf are about as accurate" in detection.warnings[0]
    assert "tf was taken for its lower loss" in detection.warnings[0]


def test_explicit_preset_is_taken_without_running_the_model() -> None:
    def fail(x: np.ndarray) -> np.ndarray:
        raise AssertionError("the model was run")

    detection = detect_preprocessing(_make(), fail, SPEC, PreprocessConfig(preprocess="caffe"))
    assert (detection.preset, detection.message) == ("caffe", "preprocess: caffe (as given)")


def test_options_hold_with_every_preset() -> None:
    config = PreprocessConfig(color="bgr", mean=(0.25,))
    detection = detect_preprocessing(_make(), _expect_levels(1 / 255, -0.25), SPEC, config)
    assert detection.preprocessing.mean == (0.25,) * 3
    assert detection.preprocessing.color == "bgr"
    assert detection.preset == "unit"


def test_options_that_leave_no_choice_need_no_trial() -> None:
    config = PreprocessConfig(color="rgb", mean=(0.5,), std=(0.5,), scale=1 / 255)
    detection = detect_preprocessing(_make(), lambda x: x[:0], SPEC, config)
    assert detection.preset == "custom"
    assert "--mean, --std, --scale, --color" in detection.message
    assert detection.preprocessing.describe()["mean"] == [0.5] * 3


def test_contradicting_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--mean has 2 numbers"):
        detect_preprocessing(_make(), lambda x: x, SPEC, PreprocessConfig(mean=(1.0, 2.0)))


def test_uint8_models_get_raw_pixels() -> None:
    spec = TensorSpec("input", "uint8", (None, 4, 4, 3))
    detection = detect_preprocessing(_make(), lambda x: x[:0], spec, AUTO)
    assert (detection.preset, detection.preprocessing.dtype) == ("raw", "uint8")


def test_floats_are_fed_as_they_are_and_ignored_options_told() -> None:
    floats = Dataset(Path("x.npz"), None, {}, np.zeros((3, 3, 4, 4), dtype=np.float32), np.arange(3))
    assert detect_preprocessing(floats, lambda x: x, SPEC, AUTO).warnings == ()
    detection = detect_preprocessing(floats, lambda x: x, SPEC, PreprocessConfig(mean=(1.0,)))
    assert detection.preset == "none"
    assert "--mean ignored" in detection.warnings[0]
    wrong = TensorSpec("input", "float32", (None, 3, 8, 8))
    with pytest.raises(DataError, match=r"expected \[\?, 3, 8, 8\]"):
        detect_preprocessing(floats, lambda x: x, wrong, AUTO)


@pytest.mark.parametrize("result", [np.zeros(()), np.zeros((1, 10)), np.zeros((32, 0)), np.zeros((64, 10))], ids=str)
def test_scores_that_are_no_rows_per_image_are_refused(result: Any) -> None:
    with pytest.raises(ModelError, match=r"expected one row of class scores"):
        detect_preprocessing(_make(), lambda _: result, SPEC, AUTO)


def test_labels_beyond_the_models_classes_are_refused() -> None:
    dataset = _make()
    beyond = replace(dataset, labels=dataset.labels + 1)
    with pytest.raises(DataError, match=r"class index 3, but the model has 3 classes"):
        detect_preprocessing(beyond, _expect_levels(1 / 255, 0.0), SPEC, AUTO)


def test_errors_of_the_model_pass_through() -> None:
    def fail(x: np.ndarray) -> np.ndarray:
        raise ModelError("broken")

    with pytest.raises(ModelError, match=r"^broken$"):
        detect_preprocessing(_make(), fail, SPEC, AUTO)


def test_overflowing_preset_loses() -> None:
    def overflow(x: np.ndarray) -> np.ndarray:
        scores = _expect_levels(1 / 255, 0.0)(x)
        scores[np.abs(x).max(axis=(1, 2, 3)) > 10] = np.nan
        return scores

    for dataset in (_make(), replace(_make(), labels=None)):
        assert detect_preprocessing(dataset, overflow, SPEC, AUTO).preset == "unit"


LOGITS = np.array([[2.0, -1.0, 0.5], [-3.0, 4.0, 0.0]])
SOFTMAX = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("scores", [LOGITS, SOFTMAX, np.log(SOFTMAX), LOGITS + 1000.0])
def test_probabilities_of_every_head(scores: np.ndarray) -> None:
    # float64 rounding, and for probabilities the floor of 1e-12.
    np.testing.assert_allclose(estimate_probabilities(scores), SOFTMAX, rtol=1e-9)


def test_probabilities_of_one_unit() -> None:
    sigmoid = np.array([[0.2], [0.9]])
    expected = [[0.8, 0.2], [0.1, 0.9]]
    # float64 rounding.
    np.testing.assert_allclose(estimate_probabilities(sigmoid), expected, rtol=1e-12)
    np.testing.assert_allclose(estimate_probabilities(np.log(sigmoid / (1 - sigmoid))), expected, rtol=1e-12)
