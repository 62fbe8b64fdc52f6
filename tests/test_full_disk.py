"""A disk that is really full: a small file system in memory, on which each folder that a run writes to lies in turn."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from onnx_basisprune.cli.main import basisprune
from onnx_basisprune.errors import OutputError
from onnx_basisprune.runtime.cache_folder import CACHE_VARIABLE, find_cache_folder
from onnx_basisprune.runtime.profiling import profile_nodes
from onnx_basisprune.runtime.session import Session

SAMPLE = Path(__file__).resolve().parents[1] / "sample_models"
MODEL = "digits.onnx"
# What the compressed model takes, more or less: the disk is as large as that, and filled up to what a test wants.
DISK_BYTES = 2**20
# Mounted in a name space of its own, which goes with the process that holds it.
HOLDER = 'mount -t tmpfs -o size=$0,mode=777 tmpfs "$1" && echo ready && exec cat'


class Disk:
    """A small file system.

    Attributes:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, free: int) -> None:
        """Leave so many bytes, or a little less: pages are counted."""
        self.free()
        left = shutil.disk_usage(self.folder).free - free
        self._filler.write_bytes(bytes(max(left, 0)))

    def free(self) -> None:
        """Make room."""
        self._filler.unlink(missing_ok=True)

    def list_names(self) -> list[str]:
        """Return what is on it besides what fills it."""
        return sorted(path.name for path in self.folder.iterdir() if path != self._filler)


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Mount a file system without being root, where the system lets its users do so."""
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        pytest.skip("a small file system can be mounted by a user on Linux only, with util-linux")
    point = tmp_path_factory.mktemp("disk")
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", HOLDER, str(DISK_BYTES), str(point)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != b"ready\n":
            pytest.skip(f"the system lets no user mount a file system: {holder.stderr.read().decode().strip()}")
        yield Path(f"/proc/{holder.pid}/root{point}")
        holder.communicate()


@pytest.fixture
def disk(mounted: Path) -> Disk:
    for path in mounted.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert shutil.disk_usage(mounted).total == DISK_BYTES
    return Disk(mounted)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copy(SAMPLE / MODEL, tmp_path / MODEL))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of statistics, so that runs come soon to where they write."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def run(model: Path, kept: Path, fake_clock: object, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that compresses the model in this process; no time is spent on clocks."""
    folder = SAMPLE / "digits"
    arguments = ["compress", str(model), "--data", str(folder / "calib"), "--val", str(folder / "val"), "--limit", "24"]
    arguments += ["--preprocess", "imagenet", "--target-macs", "0.5", "--threads", "1", "--recover", "none", "--force"]
    arguments += ["--isolated", "--quiet"]
    monkeypatch.setattr("onnx_basisprune.cache.find_cache_folder", lambda: kept)
    before = model.read_bytes()

    def compress(*more: str, timed: bool = False) -> Result:
        result = CliRunner().invoke(basisprune, [*arguments, *([] if timed else ["--allow-slower"]), *more])
        assert model.read_bytes() == before
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return compress


def read_error(result: Result) -> str:
    """Return the one line that a failed run says."""
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("Warning: ")]
    assert line.startswith("Error: ")
    return line


def assert_runs(output: Path) -> None:
    assert Session(output).outputs


def test_a_full_output_folder_keeps_the_earlier_output_whatever_room_there_is(
    disk: Disk, run: Callable[..., Result]
) -> None:
    output = disk.folder / "small.onnx"
    assert run("-o", str(output)).exit_code == 0
    before = output.read_bytes()
    for free in (0, 4096, len(before) // 2, len(before) - 4096):
        disk.fill(free)
        line = read_error(run("-o", str(output)))
        found = re.fullmatch(
            r"Error: '.*/small\.onnx' can't be written: No space left on device "
            r"\(([\d,]+) bytes needed, ([\d,]+) bytes free\)\.",
            line,
        )
        assert found is not None, line
        needed, left = (int(figure.replace(",", "")) for figure in found.groups())
        assert needed == len(before)
        assert left <= free
        assert disk.list_names() == ["small.onnx"]
        assert output.read_bytes() == before
    output.unlink()
    disk.fill(4096)
    read_error(run("-o", str(output)))
    assert disk.list_names() == []
    disk.free()
    assert run("-o", str(output)).exit_code == 0
    assert disk.list_names() == ["small.onnx"]
    assert_runs(output)


def test_full_folders_of_other_results_keep_the_earlier_ones(
    disk: Disk, run: Callable[..., Result], tmp_path: Path
) -> None:
    output = tmp_path / "small.onnx"
    places = {option: disk.folder / option[2:] for option in ("--report", "--html", "--save-plan")}
    for path in places.values():
        path.write_bytes(b"earlier")
    disk.fill(0)
    for option, path in places.items():
        line = read_error(run("-o", str(output), option, str(path)))
        told = r"can't be written: No space left on device \([\d,]+ bytes needed, 0 bytes free\)\."
        assert re.fullmatch(rf"Error: '.*/{path.name}' {told}", line)
        assert {path.read_bytes() for path in places.values()} == {b"earlier"}
        assert disk.list_names() == sorted(path.name for path in places.values())
        assert_runs(output)  # it was written first
    disk.free()
    every = [str(item) for pair in places.items() for item in pair]
    assert run("-o", str(output), *every).exit_code == 0
    assert all(path.read_bytes() != b"earlier" for path in places.values())


@pytest.mark.parametrize("free", [0, 8192, 40_000])
def test_a_full_cache_folder_stops_nothing_and_is_told_once(
    free: int, disk: Disk, run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnx_basisprune.cache.find_cache_folder", lambda: disk.folder)
    disk.fill(free)
    output = tmp_path / "small.onnx"
    result = run("-o", str(output))
    assert result.exit_code == 0
    (told,) = [line for line in result.stderr.splitlines() if "No space" in line]
    assert re.fullmatch(
        r"Warning: nothing can be kept for later runs: '.*' can't be written \(No space left on device\)\.", told
    )
    assert_runs(output)
    assert [path for path in (disk.folder / "runs").iterdir() if path.suffix != ".npz"] == []
    disk.free()
    again = run("-o", str(tmp_path / "again.onnx"))
    assert again.exit_code == 0
    assert "No space" not in again.stderr
    assert (tmp_path / "again.onnx").read_bytes() == output.read_bytes()


def test_a_cache_without_room_for_the_times_of_layers_is_told_once(
    disk: Disk, run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnx_basisprune.cache.find_cache_folder", lambda: disk.folder)
    monkeypatch.setenv(CACHE_VARIABLE, str(disk.folder))
    assert find_cache_folder() == disk.folder
    disk.fill(0)
    result = run("-o", str(tmp_path / "small.onnx"), timed=True)
    assert result.exit_code == 0
    told = [line for line in result.stderr.splitlines() if "No space" in line]
    assert len(told) == 1
    assert disk.list_names() in ([], ["runs"])


@pytest.fixture
def temporary(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Let temporary files go to the small file system, which looks usable."""
    monkeypatch.setenv("TMPDIR", str(disk.folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert tempfile.gettempdir() == str(disk.folder)
    return disk


def test_a_full_folder_for_temporary_files_is_named(
    temporary: Disk, run: Callable[..., Result], tmp_path: Path
) -> None:
    output = tmp_path / "small.onnx"
    for free in (0, 65_536):
        temporary.fill(free)
        assert re.fullmatch(
            r"Error: '.*' can't be written: No space left on device \([\d,]+ bytes needed, [\d,]+ bytes free\)\. "
            r".*name another folder in the environment variable TMPDIR\.",
            read_error(run("-o", str(output), timed=True)),
        )
        assert not output.exists()
        assert temporary.list_names() == []
    temporary.free()
    assert run("-o", str(output), timed=True).exit_code == 0
    assert temporary.list_names() == []


def test_a_profile_that_finds_no_room_is_told(temporary: Disk) -> None:
    temporary.fill(4096)
    with pytest.raises(OutputError, match=r"can't be read back .*in the environment variable TMPDIR\.$"):
        profile_nodes(SAMPLE / MODEL, {"image": np.zeros((1, 3, 16, 16), np.float32)}, threads=1)
    assert temporary.list_names() == []


def test_the_installed_command_on_a_full_disk(disk: Disk, model: Path, run: Callable[..., Result], kept: Path) -> None:
    command = Path(sysconfig.get_path("scripts"), "basisprune")
    if not command.exists():
        pytest.skip("the package isn't installed in this environment, so there is no command")
    folder, output = SAMPLE / "digits", disk.folder / "small.onnx"
    arguments = [command, "compress", model, "--data", folder / "calib", "--val", folder / "val", "--limit", "24"]
    arguments += ["--target-macs", "0.5", "--allow-slower", "--recover", "none", "-o", output, "--isolated"]
    disk.fill(100_000)
    environment = {**os.environ, CACHE_VARIABLE: str(kept)}
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert re.fullmatch(r"Error: '.*small\.onnx' can't be written: No space left on device \(.* free\)\.", line)
    assert disk.list_names() == []
    disk.free()
    assert run("-o", str(output)).exit_code == 0
    assert_runs(output)
