"""What the first image costs: time to load, time of the first run, memory; each in a fresh process.

Run as a module, this file is that process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from onnx_basisprune.errors import BasispruneError, ConfigError, ModelError, quote
from onnx_basisprune.runtime.random_input import draw_input
from onnx_basisprune.runtime.session import CPU, Session
from onnx_basisprune.scratch import make_scratch_folder

_STATUS_FILE = Path("/proc/self/status")


@dataclass(frozen=True)
class ColdStart:
    """What a fresh process needs for its first batch.

    Attributes:
        load_ms: Building the session, from the file to ready kernels; without importing onnxruntime.
        first_run_ms: The first run, with the memory that it allocates.
        peak_memory_bytes: Largest resident size of the process, with session and one run.
        baseline_memory_bytes: Resident size before the model was loaded (Python, numpy, onnxruntime).
    """

    load_ms: float
    first_run_ms: float
    peak_memory_bytes: int
    baseline_memory_bytes: int


def measure_cold_start(
    model: bytes | Path,
    *,
    batch_size: int | None = None,
    image_shape: Sequence[int] | None = None,
    threads: int | None = None,
    provider: str = CPU,
    feed: Sequence[str] = (),
) -> ColdStart:
    """Load a model in a fresh process and run it once on a random batch.

    Args:
        model: The serialized model, or its file.
        batch_size: Images in the run; `None` for the model's fixed batch, or 1 where it is dynamic.
        image_shape: Shape of one image without the batch; needed where the model leaves dimensions open.
        threads: onnxruntime's intra-op threads; `None` is onnxruntime's default.
        provider: Execution provider, see `runtime.session.find_provider`.
        feed: What inputs beside the images are fed, see `runtime.fed_inputs.resolve_feeds`.

    Returns:
        Times and memory of that process.

    Raises:
        ConfigError: The batch size or the image shape doesn't fit the model, or there is no such execution provider.
        ModelError: The model can't be loaded or run, or the process died over it.
    """
    if isinstance(model, bytes):
        with make_scratch_folder() as folder:
            path = folder / "model.onnx"
            path.write_bytes(model)
            return measure_cold_start(
                path, batch_size=batch_size, image_shape=image_shape, threads=threads, provider=provider, feed=feed
            )
    request = {
        "model": str(model.absolute()),
        "batch_size": batch_size,
        "image_shape": None if image_shape is None else list(image_shape),
        "threads": threads,
        "provider": provider,
        "feed": list(feed),
    }
    # `-m` searches the working directory first: that must be the package's own, not wherever the user stands.
    package_home = Path(__file__).resolve().parents[2]
    child = _run_child(json.dumps(request), package_home)
    if child.returncode != 0:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(
            f"{quote(model)}: the process that loaded it for timing stopped with code {child.returncode} "
            f"({quote(last)}); check that the model runs and that memory suffices."
        )
    reply = json.loads(child.stdout)
    if "error" in reply:
        raise (ConfigError if reply["error"] == "ConfigError" else ModelError)(reply["message"])
    return ColdStart(**reply)


def _run_child(request: str, package_home: Path) -> subprocess.CompletedProcess[str]:
    """Run this module in a fresh Python with the request on its stdin."""
    try:
        return subprocess.run(
            [sys.executable, "-m", "onnx_basisprune.runtime.cold_start"],
            input=request,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            cwd=package_home,
            check=False,
        )
    except OSError as error:
        raise ModelError(
            f"A fresh Python for timing the model can't be started from {quote(sys.executable)}: "
            f"{error.strerror}; run from an ordinary Python installation."
        ) from error


def _time_first_run(
    model: Path,
    batch_size: int | None,
    image_shape: Sequence[int] | None,
    threads: int | None,
    provider: str,
    feed: Sequence[str],
) -> ColdStart:
    """Load and run the model in this process, which must be fresh; see `measure_cold_start`."""
    import onnxruntime  # noqa: F401  # imported before the clock starts
    import psutil

    baseline = int(psutil.Process().memory_info().rss)
    start = perf_counter()
    session = Session(model, threads=threads, provider=provider, feed=feed)
    loaded = perf_counter()
    feeds = draw_input(session.inputs, batch_size, image_shape, seed=0)
    before_run = perf_counter()
    session.run(feeds)
    done = perf_counter()
    return ColdStart(1e3 * (loaded - start), 1e3 * (done - before_run), read_peak_memory(), baseline)


def read_peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    if _STATUS_FILE.exists():
        # Linux: ru_maxrss also counts the parent, whose memory a child shares until it starts its program.
        for line in _STATUS_FILE.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def main() -> None:
    """Read a request as JSON from stdin, answer with the measurement or the error as JSON on stdout."""
    request = json.load(sys.stdin)
    try:
        reply = asdict(_time_first_run(Path(request.pop("model")), **request))
    except BasispruneError as error:
        reply = {"error": type(error).__name__, "message": str(error)}
    json.dump(reply, sys.stdout)


if __name__ == "__main__":
    main()
