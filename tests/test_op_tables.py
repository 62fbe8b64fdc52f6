"""To support an operator is to add one entry to each table."""

from onnx_basisprune.calibration.torch_ops import TORCH_OPS
from onnx_basisprune.graph.channel_rules import CHANNEL_RULES
from onnx_basisprune.graph.cost import FREE_OPS, MAC_COUNTERS


def test_every_operator_that_runs_is_counted_or_free() -> None:
    assert TORCH_OPS.keys() - FREE_OPS - MAC_COUNTERS.keys() == set()
    assert (FREE_OPS | MAC_COUNTERS.keys()) - TORCH_OPS.keys() == set()


def test_every_operator_that_runs_has_a_channel_rule() -> None:
    assert CHANNEL_RULES.keys() == TORCH_OPS.keys()
