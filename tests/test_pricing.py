"""Prices of a run: one table, measured once, kept with what it was off by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.costing import sum_latency
from onnx_basisprune.errors import ConfigError
from onnx_basisprune.network import Network
from onnx_basisprune.pricing import Pricing, choose_align
from onnx_basisprune.progress import Recorder, Silence

ReadNetwork = Callable[[str], Network]


def open_pricing(batch_size: int = 1, **options: Any) -> Pricing:
    return Pricing(CompressionConfig(threads=1, **options), batch_size, Recorder(Silence()))


@pytest.mark.parametrize(
    ("align", "block", "chosen"),
    [("auto", 16, 16), ("auto", 1, 1), ("auto", None, 1), (8, 16, 8), (8, None, 8), (1, 16, 1)],
)
def test_alignment(align: Any, block: int | None, chosen: int) -> None:
    assert choose_align(CompressionConfig(align=align), "latency", block) == chosen


def test_other_budgets_only_stay_in_the_blocked_layout() -> None:
    config = CompressionConfig()
    assert [choose_align(config, "macs", block) for block in (16, 8, 1, None)] == [4, 4, 1, 1]
    assert choose_align(CompressionConfig(align=8), "params", 16) == 8


def test_nothing_is_measured_twice(named_network: ReadNetwork, fake_clock: Any) -> None:
    network, first = named_network("digits"), open_pricing()
    prices = first.price(network)
    assert (prices.block, first.is_pinned) == (4, False)
    measured = list(fake_clock.layers)
    assert len(measured) == len(set(measured)) > 0
    # In the same run, and in the next one.
    for pricing in (first, open_pricing()):
        again = pricing.price(network)
        assert sum_latency(network, again) == sum_latency(network, prices)
        assert pricing.digest == first.digest
    assert (fake_clock.layers, fake_clock.models) == (measured, 1)
    open_pricing(batch_size=2).price(network)
    assert fake_clock.models == 2
    # Ranks and channels in other steps: only what is new.
    open_pricing(align=1).price(network)
    assert len(fake_clock.layers) == len(set(fake_clock.layers)) > len(measured)


def test_scales_are_kept_by_model_and_batch_size(
    named_network: ReadNetwork, branching: Callable[..., Network], fake_clock: Any
) -> None:
    network, pricing = named_network("digits"), open_pricing()
    pricing.price(network)
    assert pricing.read_scale(network) == 1.0
    before = pricing.digest
    pricing.note_scale(network, 1.25)
    assert pricing.digest != before
    assert open_pricing().read_scale(network) == 1.25
    assert open_pricing(batch_size=2).read_scale(network) == 1.0
    assert open_pricing().read_scale(branching()) == 1.0


def test_a_named_table_is_what_is_pinned(named_network: ReadNetwork, fake_clock: Any, tmp_path: Path) -> None:
    path, network = tmp_path / "t.json", named_network("digits")
    made = open_pricing(latency_table=path)
    prices = made.price(network)
    made.note_scale(network, 1.25)
    content = path.read_bytes()
    pinned = open_pricing(latency_table=path)
    assert pinned.is_pinned
    assert pinned.digest == made.digest == hashlib.sha256(content).hexdigest()
    assert sum_latency(network, pinned.price(network)) == sum_latency(network, prices)
    pinned.note_scale(network, 2.0)
    assert (pinned.read_scale(network), path.read_bytes()) == (1.25, content)
    with pytest.raises(ConfigError, match="--latency-table was not measured for this model"):
        open_pricing(latency_table=path, batch_size=2).price(network)
    with pytest.raises(ConfigError, match="--latency-table has no time for"):
        open_pricing(latency_table=path, align=1).price(network)
    assert path.read_bytes() == content
