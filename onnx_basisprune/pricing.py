"""Measured prices for a run: the table it reads and adds to, and what is timed on."""

from __future__ import annotations

from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.costing import Prices, Unit
from onnx_basisprune.latency import digest_model, price_network
from onnx_basisprune.network import Network
from onnx_basisprune.planning.prices import BLOCKED_MULTIPLE
from onnx_basisprune.progress import Recorder
from onnx_basisprune.runtime.layer_timing import TimingSettings
from onnx_basisprune.table_file import TableFile


def choose_align(config: CompressionConfig, unit: Unit, block: int | None) -> int:
    """Return what ranks and kept channels are multiples of.

    Under a budget of time, the block. Under another one whatever isn't slower than the original will do: a multiple of
    4 stays in the blocked layout and takes what the next multiple of the block takes.

    Args:
        config: `align`.
        unit: What the budget is counted in.
        block: What the machine's kernels want, `None` where time doesn't matter.
    """
    if config.align != "auto":
        return config.align
    if block is None:
        return 1
    return block if unit == "latency" else min(BLOCKED_MULTIPLE, block)


class Pricing:
    """Prices networks by the latency table, which grows by what it lacks.

    Args:
        config: `threads`, `provider`, `latency_table`, `prune`, `align`.
        batch_size: Images in a run.
        recorder: Told how far it is.

    Raises:
        BasispruneError: The table that the user names can't be used.
    """

    def __init__(self, config: CompressionConfig, batch_size: int, recorder: Recorder) -> None:
        self._config, self._recorder = config, recorder
        self._batch_size = batch_size
        self._settings = TimingSettings(config.threads, config.provider)
        self._file = TableFile(config.latency_table, self._settings)

    @property
    def is_pinned(self) -> bool:
        """Whether nothing is measured any more."""
        return self._file.table.pinned

    @property
    def digest(self) -> str:
        """The table's SHA-256."""
        return self._file.table.digest()

    def price(self, network: Network) -> Prices:
        """Return what the forms of a network take."""
        table = self._file.table
        align = choose_align(self._config, "latency", table.block)
        prices = price_network(
            network, table, self._settings, self._batch_size, self._config.prune, align, self._recorder
        )
        self._file.save(self._recorder)
        return prices

    def read_scale(self, network: Network) -> float:
        """Return what `note_scale` kept, 1 where there is nothing yet."""
        return self._file.table.scales.get(digest_model(network, self._batch_size), 1.0)

    def note_scale(self, network: Network, scale: float) -> None:
        """Keep how much less than the target a plan for a network had to be given by the table."""
        if not self.is_pinned:
            self._file.table.scales[digest_model(network, self._batch_size)] = scale
            self._file.save(self._recorder)
