"""Keep what a run worked out, so that a later run of the same goes on from there.

An entry is a file of arrays named by what it was made from: the SHA-256 of the model, the images, the options and this
package's own code. So an entry never goes stale, several processes can share the folder, and nothing needs a lock: an
entry is written under another name and moved into place, and two that write the same one write the same. It holds its
own name and the digest of each array: whatever happened to the file, what is read is what was written, or nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.errors import OutputError, quote
from onnx_basisprune.runtime.cache_folder import find_cache_folder

Arrays = dict[str, NDArray[Any]]

# All entries together; those not used for longest go first.
_MOST_BYTES = 4 << 30
# What a killed run left half-written is removed after so many seconds.
_STALE_SECONDS = 24 * 3600.0
_META = "meta"


class Cache:
    """A folder of entries.

    Args:
        folder: Where they are; made when the first is written.
        warn: Told once if one can't be written.
        most_bytes: What all entries together may take.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None], most_bytes: int = _MOST_BYTES) -> None:
        self._folder, self._warn, self._most_bytes = folder, warn, most_bytes
        self._is_broken = False

    def read(self, key: str) -> tuple[Arrays, Any] | None:
        """Return an entry's arrays and its note; `None` where there is none, or a damaged one."""
        path = self._find(key)
        try:
            # Opened here, since `np.load` leaves a damaged file open.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            note = _check_entry(key, arrays)
        except FileNotFoundError:
            return None
        except Exception:  # noqa: BLE001  # zipfile, zlib, ast and numpy each have their own errors for a damaged file
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        with suppress(OSError):
            os.utime(path)  # the time of its last use
        return arrays, note

    def write(self, key: str, arrays: Mapping[str, NDArray[Any]], note: Any = None) -> None:
        """Keep an entry, unless there is no room for it; a folder that can't be written is no reason to fail.

        Args:
            key: From `make_key`.
            arrays: Of any type but object.
            note: Anything that JSON can hold.
        """
        # What is larger than the room for all would take minutes to hash and write, and go at once.
        if self._is_broken or sum(array.nbytes for array in arrays.values()) > self._most_bytes:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=self._folder, suffix=".partial")
            try:
                members: dict[str, Any] = {_META: _describe_entry(key, arrays, note), **arrays}
                with os.fdopen(handle, "wb") as stream:
                    np.savez(stream, **members)
                Path(partial).replace(self._find(key))
            finally:
                Path(partial).unlink(missing_ok=True)
            self._make_room()
        except OSError as error:
            self._is_broken = True
            self._warn(describe_unwritable(self._folder.parent, error))

    def _find(self, key: str) -> Path:
        return self._folder / f"{key}.npz"

    def _make_room(self) -> None:
        """Remove what was left half-written, and the entries that weren't used for longest."""
        for path, state in self._list_files(".partial"):
            if time.time() - state.st_mtime > _STALE_SECONDS:
                path.unlink(missing_ok=True)
        entries = self._list_files(".npz")
        excess = sum(state.st_size for _, state in entries) - self._most_bytes
        for path, state in sorted(entries, key=lambda item: item[1].st_mtime):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= state.st_size

    def _list_files(self, suffix: str) -> list[tuple[Path, os.stat_result]]:
        """Return the folder's files of one kind, but for those that another process takes away in the meantime."""
        found = []
        for path in self._folder.glob(f"*{suffix}"):
            with suppress(FileNotFoundError):
                found.append((path, path.stat()))
        return [(path, state) for path, state in found if stat.S_ISREG(state.st_mode)]


def _describe_entry(key: str, arrays: Mapping[str, NDArray[Any]], note: Any) -> NDArray[np.uint8]:
    """Return what an entry says about itself, as bytes."""
    about = {"key": key, "arrays": {name: _hash_array(values) for name, values in arrays.items()}, "note": note}
    return np.frombuffer(json.dumps(about).encode(), np.uint8)


def _check_entry(key: str, arrays: Arrays) -> Any:
    """Take what an entry says about itself off its arrays; return its note.

    Raises:
        ValueError: It is another's, or its arrays aren't those that were written.
    """
    about = json.loads(bytes(arrays.pop(_META)))
    # As JSON knows them, without tuples.
    found = json.loads(json.dumps({name: _hash_array(values) for name, values in arrays.items()}))
    if (about["key"], about["arrays"]) != (key, found):
        raise ValueError("not what was written")
    return about["note"]


def describe_unwritable(folder: Path, error: OSError | OutputError) -> str:
    """Return the warning that what a run finds out can't be kept in the cache folder."""
    cause = error if isinstance(error, OSError) else error.__cause__
    reason = cause.strerror if isinstance(cause, OSError) else None
    return f"nothing can be kept for later runs: {quote(folder)} can't be written ({reason or str(error).rstrip('.')})."


def open_cache(warn: Callable[[str], None]) -> Cache:
    """Return the cache in the user's cache folder.

    Args:
        warn: Told if the folder can't be written.
    """
    return Cache(find_cache_folder() / "runs", warn)


def make_key(*parts: Any) -> str:
    """Return the key of what was made from all this.

    Args:
        *parts: Anything that JSON can hold; arrays count by their type, shape and values.
    """
    digest = hashlib.sha256(_hash_code().encode())
    digest.update(json.dumps(parts, sort_keys=True, default=_hash_array).encode())
    return digest.hexdigest()


def _hash_array(array: NDArray[Any]) -> list[Any]:
    """Return an array in words."""
    return [array.dtype.str, array.shape, hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()]


@cache
def _hash_code() -> str:
    """Return the SHA-256 of this package's modules: other code may work out something else."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
