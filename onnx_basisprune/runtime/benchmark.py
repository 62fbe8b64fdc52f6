"""Latency of one model, or of two against each other, run in turns so that the machine's drift cancels."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.results import Latency, Speedup
from onnx_basisprune.runtime.cpu_clocks import CpuClocks
from onnx_basisprune.runtime.intervals import bootstrap_median_ratio
from onnx_basisprune.runtime.random_input import draw_input
from onnx_basisprune.runtime.session import CPU, Session

# Below these a median says nothing, however slow the models are.
_FEWEST_ROUNDS = 5
# A sample lasts at least this long, so that the clock's resolution and its own cost don't count.
_SAMPLE_SECONDS = 5e-3
# Below this, it counts what the other model's run has left of a model's weights in the CPU's caches. Measured in turns
# with VGG-16 for CIFAR-10 (4.5 ms, 59 MB), one of 1.7 million parameters takes 1.14 ms in its first run, 0.91 in its
# second, and 0.80 alone; where another program uses the last-level cache, too, 1.52 and 1.40.
_CACHED_SECONDS = 20e-3
_WARMUP_SHARE = 0.1
_NOISY_WIDTH = 0.1


@dataclass(frozen=True)
class BenchmarkSettings:
    """How long and on what a benchmark runs.

    Attributes:
        threads: onnxruntime's intra-op threads; `None` is onnxruntime's default.
        min_rounds: Rounds wanted; in each, every model is timed once.
        min_seconds: Rounds go on until this time has passed, too.
        max_seconds: No round starts after this time, except the first five.
        warmup: Runs of each model before the timing; fewer where they would take a tenth of `max_seconds`.
        seed: Seeds the input and the interval.
        provider: Execution provider, see `runtime.session.find_provider`.
        feed: What inputs beside the images are fed, see `runtime.fed_inputs.resolve_feeds`.
    """

    threads: int | None = None
    min_rounds: int = 30
    min_seconds: float = 2.0
    max_seconds: float = 10.0
    warmup: int = 10
    seed: int = 0
    provider: str = CPU
    feed: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class PairedLatency:
    """Times of two models from the same rounds.

    Attributes:
        a: Of the first model.
        b: Of the second; `None` where there is none, as are the other fields about it.
        speedup: Time of `a` divided by time of `b`.
        throughput_a: Images per second, from the median.
        throughput_b: The same for the second model.
        samples_a: float64 `[rounds]`, milliseconds of one run, in order of time.
        samples_b: The same for the second model.
        warnings: Why the figures are not to be trusted fully; mostly empty.
    """

    a: Latency
    b: Latency | None
    speedup: Speedup | None
    throughput_a: float
    throughput_b: float | None
    samples_a: NDArray[np.float64]
    samples_b: NDArray[np.float64] | None
    warnings: tuple[str, ...] = ()


class _Contender:
    """A loaded model with its input and the times it took."""

    def __init__(
        self,
        model: bytes | Path,
        batch_size: int | None,
        image_shape: Sequence[int] | None,
        settings: BenchmarkSettings,
    ) -> None:
        # Threads that spin on after a run take the cores from the other session. Measured with 2 threads on 2
        # cores, VGG-16 and ResNet-20 for CIFAR-10, milliseconds (`session.` settings of onnxruntime):
        #                            VGG alone / in turns with itself   ResNet alone / with itself: A/B ratio
        #   default                        2.4 / 7.3                         0.42 / 0.46 to 0.60: 0.76 to 1.17
        #   intra_op.allow_spinning 0      2.8 / 3.3                         0.80 / 0.72: 0.98 to 1.02
        #   force_spinning_stop 1          2.4 / 3.0                         0.45 / 0.47: 1.00 to 1.03
        # The last is both unbiased and as fast as what users deploy: it spins within a run only.
        self._session = Session(
            model,
            threads=settings.threads,
            provider=settings.provider,
            spin_between_runs=False,
            feed=settings.feed,
        )
        self._feeds = draw_input(self._session.inputs, batch_size, image_shape, settings.seed)
        (batch,) = self._feeds.values()
        # Of one image's own number of dimensions: the model has no batch axis.
        self._batch_size = 1 if image_shape is not None and batch.ndim == len(image_shape) else len(batch)
        self._repeats = 1
        self.samples: list[float] = []

    def warm_up(self, runs: int, seconds: float) -> float:
        """Run until onnxruntime has planned its memory; fix the runs of a sample.

        Returns:
            Seconds of the quickest run.
        """
        quickest, start = math.inf, perf_counter()
        for _ in range(max(1, runs)):
            quickest = min(quickest, self._time_runs(1))
            if perf_counter() - start > seconds:
                break
        self._repeats = max(1, math.ceil(_SAMPLE_SECONDS / max(quickest, 1e-6)))
        return quickest

    def take_sample(self, *, rewarm: bool) -> None:
        """Append the milliseconds of one run, averaged over the runs of a sample.

        Args:
            rewarm: Whether a run that doesn't count goes before them, as it fills the CPU's caches again.
        """
        if rewarm:
            self._time_runs(1)
        self.samples.append(1e3 * self._time_runs(self._repeats) / self._repeats)

    def _time_runs(self, runs: int) -> float:
        """Return the seconds that so many runs take."""
        start = perf_counter()
        for _ in range(runs):
            self._session.run(self._feeds)
        return perf_counter() - start

    def summarize(self) -> Latency:
        """Return median and 90th percentile of the samples."""
        median, p90 = np.quantile(self.samples, [0.5, 0.9])
        return Latency(float(median), float(p90), self._batch_size, len(self.samples) * self._repeats)


def benchmark_pair(
    a: bytes | Path,
    b: bytes | Path | None = None,
    *,
    batch_size: int | None = None,
    image_shape: Sequence[int] | None = None,
    settings: BenchmarkSettings | None = None,
    progress: Callable[[float], None] | None = None,
) -> PairedLatency:
    """Time one model, or two in turns.

    Args:
        a: The first model: serialized, or its file.
        b: The second, if any.
        batch_size: Images in a run; `None` for the model's fixed batch, or 1 where it is dynamic.
        image_shape: Shape of one image without the batch; needed where a model leaves dimensions open.
        settings: How long and with how many threads; `None` for the defaults.
        progress: Called with the fraction done after each round.

    Returns:
        Latencies, their ratio with a 95 % interval, throughput and the samples.

    Raises:
        ConfigError: The batch size or the image shape doesn't fit a model, or there is no such execution provider.
        ModelError: A model can't be loaded or run, or has several inputs.
    """
    settings = settings or BenchmarkSettings()
    models = [a] if b is None else [a, b]
    contenders = [_Contender(model, batch_size, image_shape, settings) for model in models]
    with _paused_garbage_collection():
        quickest = min([item.warm_up(settings.warmup, _WARMUP_SHARE * settings.max_seconds) for item in contenders])
        clocks = CpuClocks()
        rewarm = len(contenders) > 1 and quickest < _CACHED_SECONDS
        _run_rounds(contenders, settings, progress, rewarm=rewarm)
        others = clocks.count_disturbed_cores()
    samples = [np.array(contender.samples) for contender in contenders]
    latencies = [contender.summarize() for contender in contenders]
    throughputs = [1e3 * latency.batch_size / latency.median_ms for latency in latencies]
    speedup = None if b is None else bootstrap_median_ratio(samples[0], samples[1], settings.seed)
    return PairedLatency(
        a=latencies[0],
        b=None if b is None else latencies[1],
        speedup=speedup,
        throughput_a=throughputs[0],
        throughput_b=None if b is None else throughputs[1],
        samples_a=samples[0],
        samples_b=None if b is None else samples[1],
        warnings=_find_warnings(speedup, len(samples[0]), others, settings),
    )


def _run_rounds(
    contenders: Sequence[_Contender],
    settings: BenchmarkSettings,
    progress: Callable[[float], None] | None,
    *,
    rewarm: bool,
) -> None:
    """Time every contender once a round, A B B A …: a steady drift then hits both alike."""
    start = perf_counter()
    rounds, done = 0, 0.0
    while done < 1.0:
        for contender in contenders if rounds % 2 == 0 else reversed(contenders):
            contender.take_sample(rewarm=rewarm)
        rounds += 1
        done = _measure_progress(rounds, perf_counter() - start, settings)
        if progress is not None:
            progress(done)


def _measure_progress(rounds: int, seconds: float, settings: BenchmarkSettings) -> float:
    """Return the fraction of the benchmark that is done, 1.0 where it may stop.

    It may where rounds and time wanted are both reached, or where time is up and the fewest rounds are done.
    """
    wanted = min(_divide(rounds, settings.min_rounds), _divide(seconds, settings.min_seconds))
    time_is_up = min(_divide(rounds, _FEWEST_ROUNDS), _divide(seconds, settings.max_seconds))
    return max(wanted, time_is_up)


def _divide(part: float, whole: float) -> float:
    """Return part / whole, at most 1, and 1 where nothing is wanted."""
    return min(1.0, part / whole) if whole > 0 else 1.0


def _find_warnings(speedup: Speedup | None, rounds: int, others: float, settings: BenchmarkSettings) -> tuple[str, ...]:
    """Return what makes the figures doubtful, each as a readable line."""
    warnings = []
    if rounds < settings.min_rounds:
        warnings.append(
            f"Only {rounds} of {settings.min_rounds} rounds fitted into {settings.max_seconds:g} s: the "
            "latency is rough; allow more time or a smaller batch."
        )
    if others > 0:
        warnings.append(
            f"Other programs kept {others:.1f} cores busy during the benchmark and no core was left idle: "
            "the figures can be off however narrow their interval is; stop them and measure again."
        )
    doubt = None if speedup is None else _doubt_speedup(speedup)
    if doubt is not None:
        warnings.append(doubt)
    return tuple(warnings)


def _doubt_speedup(speedup: Speedup) -> str | None:
    """Return why a ratio can't be relied on, `None` for a good one: its interval is wide, or holds 1."""
    holds_one = speedup.low <= 1 <= speedup.high
    interval = f"{speedup.low:.2f} to {speedup.high:.2f}"
    if speedup.high - speedup.low > _NOISY_WIDTH * speedup.median:
        question = "whether the second model is faster or slower" if holds_one else "the speed-up well"
        return (
            f"The machine is too noisy to tell {question} ({interval}): stop other programs, measure longer, or use "
            "fewer threads than cores."
        )
    return f"The models' times don't differ by more than this machine's noise ({interval})." if holds_one else None


@contextmanager
def _paused_garbage_collection() -> Iterator[None]:
    """Keep Python's garbage collector from running inside a sample."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
