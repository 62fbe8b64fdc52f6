"""Ends runs that would go on for ever, or fill the memory: a Loop of a stranger's model may have no end."""

from __future__ import annotations

import threading
from time import monotonic, sleep
from typing import Any
from weakref import WeakSet

from onnx_basisprune.errors import ModelError

# What one run may take: a batch of large images on a slow machine takes a minute.
LONGEST_RUN_SECONDS = 300.0
# How often all runs are looked at; shorter ones aren't disturbed.
_PERIOD_SECONDS = 1.0
# Of the machine's memory, what must stay available while a run takes longer than that.
_LEAST_AVAILABLE = 0.02
_TIME, _MEMORY = "time", "memory"


class RunWatch:
    """Tells onnxruntime to stop a session's run that takes too long or too much.

    `begin` and `end` cost well under a microsecond, since they are part of what is timed: one thread looks at all.

    Args:
        options: onnxruntime's `RunOptions`, given to every run.
    """

    def __init__(self, options: Any) -> None:
        self._options = options
        self._started: float | None = None
        self._reason = ""
        _watch(self)

    def begin(self) -> None:
        """Start the clock."""
        if self._reason:
            self._options.terminate, self._reason = False, ""
        self._started = monotonic()

    def end(self) -> None:
        """Stop the clock."""
        self._started = None

    def look(self) -> None:
        """End the run that is going on, if any, where it is over a limit."""
        started = self._started
        reason = "" if started is None else _find_reason(monotonic() - started)
        if reason:
            self._reason, self._options.terminate = reason, True

    def explain(self, label: str, error: Exception) -> None:
        """Raise what a failed run really failed of, where it was ended from here.

        Args:
            label: The model, for the message.
            error: What onnxruntime said.

        Raises:
            ModelError: It took too long.
            MemoryError: It took too much.
        """
        if self._reason == _TIME:
            raise ModelError(
                f"{label}: one run took over {LONGEST_RUN_SECONDS:g} s, which is the limit: it has a Loop without an "
                "end, or needs a smaller batch size."
            ) from error
        if self._reason == _MEMORY:
            raise MemoryError(f"{label}: a run left next to no memory") from error


def _find_reason(seconds: float) -> str:
    """Return why a run that has taken so long must end, nothing where it may go on."""
    if seconds > LONGEST_RUN_SECONDS:
        return _TIME
    if seconds > _PERIOD_SECONDS:
        import psutil

        memory = psutil.virtual_memory()
        if memory.available < _LEAST_AVAILABLE * memory.total:
            return _MEMORY
    return ""


_watches: WeakSet[RunWatch] = WeakSet()
_lock = threading.Lock()


def _watch(watch: RunWatch) -> None:
    """Have a watch looked at for as long as it lives; the first one starts the thread that does so."""
    with _lock:
        _watches.add(watch)
        if not any(thread.name == __name__ for thread in threading.enumerate()):  # nor is it there after a fork
            threading.Thread(target=_look_at_all, name=__name__, daemon=True).start()


def _look_at_all() -> None:
    """Look at all watches, for as long as the process lives."""
    while True:
        sleep(_PERIOD_SECONDS)
        with _lock:
            watches = list(_watches)
        while watches:
            watches.pop().look()
