"""What killed runs leave goes with the next run; what a live one works in, and what isn't ours, stays."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from onnx_basisprune import leftovers
from onnx_basisprune.files import make_staging_folder, publish_files, write_atomically
from onnx_basisprune.leftovers import claim_folder, clear_leftovers

NAMES = ("model.onnx", "model.onnx.data")
# Makes what is asked for, says so, and waits until it is killed in the middle of it.
SCRIPT = """
import sys
from pathlib import Path
from onnx_basisprune.files import make_staging_folder, publish_files

path, renames = Path(sys.argv[1]), int(sys.argv[2])
real, done = Path.replace, 0

def replace(self, target):
    global done
    if done == renames:
        print("now", flush=True)
        sys.stdin.read()
    done += 1
    return real(self, target)

Path.replace = replace
with make_staging_folder(path, force=True) as staging:
    names = [path.name, path.name + ".data"]
    for name in names:
        (staging / name).write_bytes(b"new")
    publish_files([staging / name for name in names], force=True)
print("now", flush=True)
sys.stdin.read()
"""


def start(path: Path, renames: int) -> subprocess.Popen[str]:
    """Start a run that stops before it moves another file, and wait until it has come so far."""
    command = [sys.executable, "-c", SCRIPT, str(path), str(renames)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def list_contents(folder: Path) -> dict[str, bytes]:
    """Return the visible files."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def list_folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()]


def test_what_a_killed_run_left_goes_and_what_a_live_one_works_in_stays(tmp_path: Path) -> None:
    path = tmp_path / NAMES[0]
    killed = start(path, 0)
    (left,) = list_folders(tmp_path)
    live = start(path, 0)
    (working,) = set(list_folders(tmp_path)) - {left}
    kill(killed)
    write_atomically(b"mine", path, force=False)
    assert list_folders(tmp_path) == [working]
    assert (working / NAMES[1]).read_bytes() == b"new"
    kill(live)
    clear_leftovers(path)
    assert list_contents(tmp_path) == {NAMES[0]: b"mine"}
    assert list_folders(tmp_path) == []


@pytest.mark.parametrize("existing", [(), NAMES[:1], NAMES[1:], NAMES])
def test_a_run_killed_while_it_publishes_is_undone_or_done(tmp_path: Path, existing: tuple[str, ...]) -> None:
    """Before each rename in turn: then all is old or all is new, and nothing of the user's was lost."""
    path, old = tmp_path / NAMES[0], dict.fromkeys(existing, b"old")
    renames = len(existing) + len(NAMES)
    for turn in range(renames + 1):
        for name in NAMES:
            (tmp_path / name).unlink(missing_ok=True)
        for name in existing:
            (tmp_path / name).write_bytes(b"old")
        kill(start(path, turn))
        clear_leftovers(path)
        assert list_contents(tmp_path) == (old if turn < renames else dict.fromkeys(NAMES, b"new"))
        assert list_folders(tmp_path) == []


def test_a_model_that_someone_has_put_there_since_stays(tmp_path: Path) -> None:
    path = tmp_path / NAMES[0]
    for name in NAMES:
        (tmp_path / name).write_bytes(b"old")
    kill(start(path, 3))
    assert list_contents(tmp_path) == {NAMES[1]: b"new"}
    path.write_bytes(b"another")
    clear_leftovers(path)
    assert list_contents(tmp_path) == {NAMES[0]: b"another", NAMES[1]: b"new"}
    assert list_folders(tmp_path) == []


def test_an_empty_folder_of_a_run_killed_at_once_goes(tmp_path: Path) -> None:
    (tmp_path / ".model.onnx.abcd_123.partial").mkdir()
    clear_leftovers(tmp_path / NAMES[0])
    assert list_folders(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [".model.onnx.abcd1234.partial", ".model.onnx.backup.partial", ".other.onnx.abcd1234.partial", "model.onnx.d"],
)
def test_what_is_not_ours_stays(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "thesis.txt").write_bytes(b"mine")
    if "other" in name:
        (folder / leftovers._MARKER).touch()
    clear_leftovers(tmp_path / NAMES[0])
    assert (folder / "thesis.txt").read_bytes() == b"mine"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has links for administrators only")
def test_links_are_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / leftovers._MARKER).touch()
    (tmp_path / ".model.onnx.abcd1234.partial").symlink_to(target)
    clear_leftovers(tmp_path / NAMES[0])
    assert (target / leftovers._MARKER).exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there an open file is locked enough")
def test_a_folder_that_another_run_takes_for_left_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run looks in between the making of the marker and its lock."""
    real, seen = leftovers._try_lock, list[Path]()

    def take(stream: BinaryIO) -> bool | None:
        seen.extend(list_folders(tmp_path))
        return False if len(seen) == 1 else real(stream)

    monkeypatch.setattr(leftovers, "_try_lock", take)
    folder, marker = claim_folder(tmp_path / NAMES[0])
    marker.close()
    assert folder not in seen[:1]
    assert (folder / leftovers._MARKER).exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there an open file is locked enough")
def test_where_there_are_no_locks_results_are_written_and_nothing_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / NAMES[0]
    with make_staging_folder(path, force=False) as staging:
        (staging / path.name).write_bytes(b"whole")
        clear_leftovers(path)
        publish_files([staging / path.name], force=False)
    assert list_contents(tmp_path) == {NAMES[0]: b"whole"}
    assert list_folders(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_a_stopped_run_is_alive(tmp_path: Path) -> None:
    path = tmp_path / NAMES[0]
    process = start(path, 0)
    process.send_signal(signal.SIGSTOP)
    try:
        clear_leftovers(path)
        assert len(list_folders(tmp_path)) == 1
    finally:
        process.send_signal(signal.SIGCONT)
        kill(process)
