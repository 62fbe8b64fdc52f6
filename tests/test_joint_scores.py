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


def make_network(signals: int) -> Network:
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
    model = onnx.parser.parse_model(TEXT)
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
    calibration = calibrate(network, 32)
    joint = score(network, calibration, prune)
    monkeypatch.setattr(assessment, "join_channel_scores", lambda _network, scores, *_: scores)
    alone = score(network, calibration, prune)
    # The others keep their scores.
    np.testing.assert_allclose(joint[:-1], alone[:-1], rtol=1e-6)
    assert joint[-1] > 3 * alone[-1]
    assert joint[-1] > 2 * joint[-2]
