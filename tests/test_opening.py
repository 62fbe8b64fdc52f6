"""Opening models and images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.data.dataset import open_dataset
from onnx_basisprune.errors import DataError, ModelError
from onnx_basisprune.opening import choose_labels, open_data, open_subject
from onnx_basisprune.progress import Recorder, Silence

TEMPLATE = """
<ir_version: 8, opset_import: ["" : 17]>
small ({inputs}) => (float[N, 3] z)
{{
    p = GlobalAveragePool (x)
    f = Flatten (p)
    z = {head}
}}
"""


def write_model(folder: Path, head: str = "Identity (f)", inputs: str = "float[N, 3, 4, 4] x") -> Path:
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(TEMPLATE.format(head=head, inputs=inputs)), path)
    return path


def write_images(folder: Path, name: str = "data.npz", count: int = 50) -> Path:
    generator = np.random.default_rng(count)
    x = generator.integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)
    # The brightest channel is the class that the model tells.
    np.savez(folder / name, x=x, y=x.mean(axis=(1, 2)).argmax(axis=1))
    return folder / name


def configure(folder: Path, **options: object) -> CompressionConfig:
    defaults = {"model": folder / "model.onnx", "data": folder / "data.npz", "preprocess": "unit"}
    return CompressionConfig(**{**defaults, **options})


@pytest.mark.parametrize(
    ("head", "kind"),
    [("Identity (f)", "logits"), ("Softmax (f)", "softmax"), ("LogSoftmax (f)", "softmax"), ("Sigmoid (f)", "sigmoid")],
)
def test_heads(tmp_path: Path, head: str, kind: str) -> None:
    path = write_model(tmp_path, head)
    write_images(tmp_path)
    subject, _, _ = open_data(open_subject(path), configure(tmp_path), Recorder(Silence()))
    assert subject.head.kind == kind
    assert subject.predict(np.zeros((2, 3, 4, 4), np.float32)).shape == (2, 3)


def test_outputs_that_sum_to_one_are_probabilities(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(TEMPLATE.format(head="Div (e, t)", inputs="float[N, 3, 4, 4] x"))
    nodes = [
        onnx.helper.make_node("Exp", ["f"], ["e"]),
        onnx.helper.make_node("ReduceSum", ["e", "axes"], ["t"]),
    ]
    for offset, node in enumerate(nodes):
        model.graph.node.insert(2 + offset, node)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axes"))
    onnx.save(model, tmp_path / "model.onnx")
    write_images(tmp_path)
    subject, _, _ = open_data(open_subject(tmp_path / "model.onnx"), configure(tmp_path), Recorder(Silence()))
    assert subject.head.kind == "probabilities"


def test_models_with_two_inputs_are_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path, "Add (f, mask)", "float[N, 3, 4, 4] x, float[N, 3] mask")
    with pytest.raises(ModelError, match="2 inputs"):
        open_subject(path)


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_what_is_no_model_is_refused_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        open_subject(path)
    assert "\n" not in str(caught.value)
    assert "model.onnx" in str(caught.value)


def test_split_and_limit(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    write_images(tmp_path)
    recorder = Recorder(Silence())
    config = configure(tmp_path, limit=12, target_macs=0.5)
    _, calibration, validation = open_data(open_subject(path), config, recorder)
    # The limit is on what is calibrated on.
    assert (len(calibration), len(validation)) == (12, 10)
    # A search needs as many again to choose on.
    searched = open_data(open_subject(path), configure(tmp_path, limit=12), recorder)
    assert [len(part) for part in searched[1:]] == [12, 20]
    assert "half of the 20 images" in recorder.warnings[-1]
    names = [{part.dataset.name_of(i) for i in range(len(part))} for part in (calibration, validation)]
    assert not names[0] & names[1]
    assert "10 images" in recorder.warnings[0]


def test_separate_validation_images(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    write_images(tmp_path)
    write_images(tmp_path, "val.npz", 20)
    recorder = Recorder(Silence())
    config = configure(tmp_path, val=tmp_path / "val.npz", limit=None)
    _, calibration, validation = open_data(open_subject(path), config, recorder)
    assert (len(calibration), len(validation)) == (50, 20)
    assert recorder.warnings == []


@pytest.mark.parametrize("shared", [0, 3])
def test_images_that_are_given_for_both_parts_are_told(tmp_path: Path, shared: int) -> None:
    data, val = write_images(tmp_path), write_images(tmp_path, "val.npz", 20)
    with np.load(data) as one, np.load(val) as other:
        x = np.concatenate([one["x"][:shared], other["x"]])
    np.savez(val, x=x, y=x.mean(axis=(1, 2)).argmax(axis=1))
    config, recorder = CompressionConfig(data=data, val=val, seed=1), Recorder(Silence())
    open_data(open_subject(write_model(tmp_path)), config, recorder)
    told = [warning for warning in recorder.warnings if "are in --data, too" in warning]
    assert [warning.split(" images")[0] for warning in told] == ["3 of the 23"] * (shared > 0)


def test_copies_among_the_images_for_the_figures_are_told(tmp_path: Path) -> None:
    data, val = write_images(tmp_path), write_images(tmp_path, "val.npz", 20)
    with np.load(val) as other:
        x, y = (np.concatenate([other[name], other[name][:4]]) for name in ("x", "y"))
    np.savez(val, x=x, y=y)
    config, recorder = CompressionConfig(data=data, val=val, seed=1), Recorder(Silence())
    open_data(open_subject(write_model(tmp_path)), config, recorder)
    assert [warning for warning in recorder.warnings if "4 of the 24 images of --val are copies" in warning]


def test_files_that_cannot_be_read_are_not_the_same_image(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "empty.png").touch()
    parts = [set(open_dataset(tmp_path / name, None).hash_items()) for name in ("one", "other")]
    assert parts == [{""}, {""}]


def test_pixels_to_calibrate_on_and_floats_to_validate_on(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    data = write_images(tmp_path)
    with np.load(data) as arrays:
        floats = arrays["x"].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        np.savez(tmp_path / "val.npz", x=floats, y=arrays["y"])
    config = configure(tmp_path, val=tmp_path / "val.npz", limit=None)
    _, calibration, validation = open_data(open_subject(path), config, Recorder(Silence()))
    index = np.array([3, 7])
    # float32
    np.testing.assert_allclose(calibration.load(index), validation.load(index), rtol=0, atol=1e-6)


def test_one_image_cannot_be_split(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    write_images(tmp_path, count=1)
    with pytest.raises(DataError, match="--val"):
        open_data(open_subject(path), configure(tmp_path), Recorder(Silence()))


def test_labels_are_for_folders(tmp_path: Path) -> None:
    labels = tmp_path / "labels.json"
    assert choose_labels(tmp_path, labels) == labels
    assert choose_labels(tmp_path / "data.npz", labels) is None
