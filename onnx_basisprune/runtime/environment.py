"""What a measurement was made on, so that its figures can be read later and elsewhere."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from onnx_basisprune.runtime.session import CPU, find_provider, flushes_subnormals

_PACKAGES = ("basisprune", "onnx", "onnxruntime", "numpy", "torch")


def describe_environment(threads: int | None, provider: str = CPU) -> dict[str, Any]:
    """Describe machine, system and versions without importing what is only named.

    Args:
        threads: onnxruntime's intra-op threads; `None` is onnxruntime's default.
        provider: onnxruntime's execution provider, see `runtime.session.find_provider`.

    Returns:
        Plain values for JSON: `cpu`, `logical_cores`, `physical_cores`, `usable_cores` (those that this
        process may run on), `system`, `machine`, `python`, `versions` (`None` for what isn't installed),
        `execution_provider`, `threads`, `denormals` (as the calling thread treats them by now: a session
        that it has built flushes them, where the processor has such a mode).

    Raises:
        ConfigError: There is no such execution provider.
    """
    import psutil

    return {
        "cpu": _find_cpu_name(),
        "logical_cores": psutil.cpu_count(),
        "physical_cores": psutil.cpu_count(logical=False),
        "usable_cores": _count_usable_cores(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: _find_version(name) for name in _PACKAGES},
        "execution_provider": find_provider(provider),
        "threads": threads,
        "denormals": "flushed to zero" if flushes_subnormals() else "kept",
    }


def _find_version(package: str) -> str | None:
    """Return the installed version of a package, `None` where there is none.

    Several distributions offer the same package: onnxruntime comes as onnxruntime-gpu, too.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        others = packages_distributions().get(package, ())
        return version(others[0]) if others else None


def _count_usable_cores() -> int | None:
    """Return how many logical cores this process may run on: a container or taskset may allow fewer."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _find_cpu_name() -> str:
    """Return the CPU's model as the system names it, at least its architecture."""
    try:
        name = _ask_system_for_cpu()
    except (OSError, subprocess.SubprocessError):
        name = ""
    return name or platform.processor() or platform.machine() or "unknown"


def _ask_system_for_cpu() -> str:
    """Return the CPU's marketing name, empty where the system doesn't tell."""
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()  # noqa: S603  # fixed command
    if sys.platform == "win32":
        import winreg

        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as key:
            return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
    return _parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))


def _parse_cpuinfo(text: str) -> str:
    """Return the CPU's name from Linux's /proc/cpuinfo; ARM boards call it `Model` or `Hardware`."""
    entries: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        entries.setdefault(key.strip(), value.strip())
    return next((entries[key] for key in ("model name", "Model", "Hardware") if entries.get(key)), "")
