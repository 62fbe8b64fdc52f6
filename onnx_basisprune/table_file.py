"""Where the latency table of this machine is kept, or which one the user pins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnx_basisprune.cache import describe_unwritable
from onnx_basisprune.errors import OutputError
from onnx_basisprune.files import write_atomically
from onnx_basisprune.graph.layer_models import make_layer_model, make_stack_model
from onnx_basisprune.planning.prices import ConvShape
from onnx_basisprune.progress import Recorder
from onnx_basisprune.runtime.cache_folder import find_cache_folder
from onnx_basisprune.runtime.environment import describe_environment
from onnx_basisprune.runtime.latency_table import LatencyTable, name_table, read_pinned_table, read_table
from onnx_basisprune.runtime.layer_timing import TimingSettings, detect_block, measure_overhead

# A Conv of which onnxruntime's CPU kernels make the best: what is tried out to get to know the machine.
_PROBE = ConvShape(64, 64, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), "NOTSET", 1, (14, 14))
_STACK_DEPTH = 8


class TableFile:
    """A latency table and the file it belongs to.

    Args:
        path: What the user names: a table that must not change, or a file to be made; `None` for the one in the
            user's cache folder.
        settings: What is timed on.

    Attributes:
        table: The table.

    Raises:
        ConfigError: The named file is no latency table.
    """

    def __init__(self, path: Path | None, settings: TimingSettings) -> None:
        environment = _describe_machine(settings)
        self._is_named = path is not None
        self._path = path or find_cache_folder() / name_table(environment)
        if path is not None and path.exists():
            self.table = read_pinned_table(path)
            return
        found = read_table(self._path)
        # A damaged table, or one from elsewhere, is measured again.
        usable = found is not None and found.environment == environment
        self.table = found if found is not None and usable else _start_table(environment, settings)

    def save(self, recorder: Recorder) -> None:
        """Keep what was measured; a cache that can't be written is no reason to fail."""
        if self.table.pinned:
            return
        try:
            if not self._is_named:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            # What another process has measured in the meantime stays.
            other = read_table(self._path)
            if other is not None:
                self.table.merge(other)
            text = self.table.render(sealed=not self._is_named)
            write_atomically(text.encode(), self._path, force=True)
        except (OSError, OutputError) as error:
            if self._is_named:
                raise
            recorder.warn_once(describe_unwritable(self._path.parent, error))


def _describe_machine(settings: TimingSettings) -> dict[str, Any]:
    """Return what times depend on."""
    everything = describe_environment(settings.threads, settings.provider)
    kept = ("cpu", "usable_cores", "execution_provider", "threads")
    return {**{key: everything[key] for key in kept}, "onnxruntime": everything["versions"]["onnxruntime"]}


def _start_table(environment: dict[str, Any], settings: TimingSettings) -> LatencyTable:
    """Get to know the machine: its block and what the profiler costs."""
    block = detect_block(make_layer_model(_PROBE.with_channels(_PROBE.in_channels, 1)), settings)
    return LatencyTable(environment, block, measure_overhead(make_stack_model(_PROBE, _STACK_DEPTH), settings))
