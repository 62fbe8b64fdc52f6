"""The sample model that the README's first command compresses."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from onnx_basisprune.config import PreprocessConfig
from onnx_basisprune.data.batches import iterate_batches
from onnx_basisprune.data.dataset import Dataset, open_dataset
from onnx_basisprune.data.detection import detect_preprocessing
from onnx_basisprune.planning.types import TensorSpec

FOLDER = Path(__file__).resolve().parents[1] / "sample_models"
SPEC = TensorSpec("image", "float32", (None, 3, 16, 16))


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(FOLDER / "digits.onnx", providers=["CPUExecutionProvider"])


def test_everything_is_under_two_megabytes() -> None:
    sizes = [file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()]
    assert len(sizes) > 1000
    assert sum(sizes) < 2_000_000


def test_model_is_valid_and_of_the_documented_form() -> None:
    model = onnx.load(FOLDER / "digits.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 17}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    channels = {
        tensor.dims[0]
        for node in model.graph.node
        if node.op_type == "Conv"
        for tensor in model.graph.initializer
        if tensor.name == node.input[1]
    }
    assert channels == {16, 32, 64}


def test_held_out_accuracy_with_the_detected_preset(session: onnxruntime.InferenceSession) -> None:
    val = open_dataset(FOLDER / "digits" / "val")
    detection = detect_preprocessing(
        val, lambda x: session.run(None, {"image": x})[0], SPEC, PreprocessConfig(), seed=0
    )
    assert detection.preset == "imagenet"
    assert detection.warnings == ()
    right = 0
    for batch in iterate_batches(val, detection.preprocessing, 100):
        assert batch.y is not None
        right += int((session.run(None, {"image": batch.x})[0].argmax(axis=1) == batch.y).sum())
    assert right / len(val) > 0.97


def test_no_image_is_in_both_sets_and_classes_are_balanced() -> None:
    sets = [open_dataset(FOLDER / "digits" / name) for name in ("calib", "val")]
    hashes = [_hash_images(dataset) for dataset in sets]
    assert [len(dataset) for dataset in sets] == [600, 600]
    assert not set(hashes[0]) & set(hashes[1])
    for dataset in sets:
        assert dataset.class_names == dict(enumerate("0123456789"))
        counts = np.bincount(dataset.labels)
        assert counts.min() >= 55


def _hash_images(dataset: Dataset) -> list[str]:
    return [hashlib.sha256(np.ascontiguousarray(dataset.load([i])[0])).hexdigest() for i in range(len(dataset))]
