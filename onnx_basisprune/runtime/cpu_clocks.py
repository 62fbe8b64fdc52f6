"""Whether other programs use the cores while something is timed."""

from __future__ import annotations

from time import perf_counter

# Others disturb where they use this much of a core while the machine as a whole is this busy.
_LEAST_DISTURBANCE = 0.2
_CROWDED_SHARE = 0.9


class CpuClocks:
    """Tells whether other programs took cores from this process since it was made."""

    def __init__(self) -> None:
        self._start, self._busy, self._own = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float]:
        """Return seconds now, seconds that all cores together were busy, and those of this process."""
        import psutil

        system, own = psutil.cpu_times(), psutil.Process().cpu_times()
        busy = sum(getattr(system, field, 0.0) for field in ("user", "nice", "system", "irq", "softirq", "steal"))
        return perf_counter(), busy, own.user + own.system

    def count_disturbed_cores(self) -> float:
        """Return how many cores others kept busy on average, 0 where that left enough of them."""
        import psutil

        now, busy, own = self._read()
        seconds = max(now - self._start, 1e-9)
        all_busy, own_busy = (busy - self._busy) / seconds, (own - self._own) / seconds
        others = all_busy - own_busy
        crowded = all_busy > _CROWDED_SHARE * (psutil.cpu_count() or 1)
        return others if crowded and others > _LEAST_DISTURBANCE else 0.0
