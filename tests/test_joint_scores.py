"""Coupled channels that say the same: worth little one by one, and a lot together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

import onnx_basisprune.assessment as assessment
from onnx_basisprune.assessment import Calibration, Prune, assess_network
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.network import Network, read_network
from onnx_basisprune.progress import Silence

TEXT = """
<ir_version: 8, opset_import: ["": 17]>
echo (float[N, 3, 3, 3] x) => (float[N, 4] scores) {
    first = Conv (x, w1, b1)
    a = Relu (first)
    second = Conv (a, w2, b2)
    b = Relu (second)
    g = GlobalAveragePool (b)
    f = Flatten (g)
    logits = Gemm <transB = 1> (f, w3, b3)
    scores = Softmax (logits)
}
"""
COUNT = 12
# Another reader.
TWO = TEXT.replace("b = Relu (second)", "third = Conv (a, w4, b2) both = Add (second, third) b = Relu (both)")


def make_network(signals: int, text: str = TEXT) -> Network:
    """Twelve channels between two Convs, which are copies of so many signals."""
    rng = np.random.default_rng(0)
    filters = rng.standard_normal((signals, 3, 3, 3)) / 5
    values = {
        "w1": filters[np.arange(COUNT) % signals],
        "b1": np.full(COUNT, 0.1),
        "w2": np.abs(rng.standard_normal((16, COUNT, 1, 1))) / 10,
        "b2": np.zeros(16),
        "w3": rng.standard_normal((4, 16)),
        "b3": np.zeros(4),
    }
    if text == TWO:
        values["w4"] = np.abs(rng.standard_normal((16, COUNT, 1, 1))) / 10
    model = onnx.parser.parse_model(text)
    for name, array in values.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return read_network(normalize_model(model), (1, 3, 3, 3), ())


def score(network: Network, calibration: Calibration, prune: Prune) -> list[float]:
    """Return the scores of the channels between the two Convs, ascending."""
    found = assess_network(network, calibration, "fisher", prune, Silence())
    group = next(group for group in network.channels.groups if len(group.channels) == COUNT)
    return sorted(found.channels[int(channel)] for channel in group.channels)


@pytest.mark.parametrize("prune", ["channels", "double"])
def test_the_last_copy_is_worth_what_all_are(
    prune: Prune, calibrate: Callable[..., Calibration], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_network(1)
    # Few images aren't taken at their word.
    calibration = calibrate(network, 2000)
    joint = score(network, calibration, prune)
    monkeypatch.setattr(assessment, "join_channel_scores", lambda _network, scores, *_: scores)
    alone = score(network, calibration, prune)
    # While one is left, its readers lose nothing with the others.
    assert sum(joint[:-1]) < 0.01 * sum(alone)
    assert joint[-1] > 3 * alone[-1]


def test_channels_of_different_signals_lose_in_all_what_they_lose_one_by_one(
    calibrate: Callable[..., Calibration], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_network(COUNT)
    calibration = calibrate(network, 64)
    joint = score(network, calibration, "channels")
    monkeypatch.setattr(assessment, "join_channel_scores", lambda _network, scores, *_: scores)
    alone = score(network, calibration, "channels")
    assert sum(joint) == pytest.approx(sum(alone), rel=1.0)
    assert joint[-1] < 3 * alone[-1]


def test_a_reader_that_cant_be_compensated_loses_each_channel_whatever_is_kept(
    calibrate: Callable[..., Calibration], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_network(1, TWO)
    calibration = calibrate(network, 32)
    listed = assessment.list_compensated
    monkeypatch.setattr(
        assessment,
        "list_compensated",
        lambda network: tuple(item for item in listed(network) if item.weight != "w4"),
    )
    joint = score(network, calibration, "channels")
    monkeypatch.setattr(assessment, "join_channel_scores", lambda _network, scores, *_: scores)
    alone = score(network, calibration, "channels")
    np.testing.assert_array_less(0.99 * np.array(alone), joint)
    # The one that can be loses what all copies said, with the last of them.
    assert sum(joint) > 1.05 * sum(alone)
