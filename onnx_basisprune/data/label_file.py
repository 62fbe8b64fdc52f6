"""The `--labels` file: JSON from folder or file name to class index."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.documents import read_document
from onnx_basisprune.errors import DataError, quote


def read_label_file(path: Path) -> dict[str, int]:
    """Read a JSON object from folder or file name to class index.

    Args:
        path: The JSON file, UTF-8.

    Returns:
        Name to class index.

    Raises:
        DataError: The file is unreadable, isn't a JSON object, or a value isn't an integer of 0 or more.
    """
    try:
        content = json.loads(read_document(path))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"--labels {quote(path)} can't be read ({reason}): check the path.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"--labels {quote(path)} isn't valid JSON ({quote(error)}): correct the file.") from error
    if not isinstance(content, dict):
        raise DataError(
            f"--labels {quote(path)} holds a JSON {type(content).__name__}; expected an object from folder "
            "or file "
            'name to class index, such as {"cat": 3}.'
        )
    for name, index in content.items():
        # bool is an int in Python, and `true` no class.
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < 2**31:
            raise DataError(
                f"--labels {quote(path)}: {quote(name)} has the value {quote(json.dumps(index))}; expected a "
                "class index, an integer of 0 or more."
            )
    return content


def match_labels(entries: Mapping[str, int], files: Sequence[str], path: Path) -> NDArray[np.int64]:
    """Find each file's class index: by its relative path, its bare name, then its folders, innermost first.

    Args:
        entries: Name to class index.
        files: Image paths relative to the data folder, with forward slashes.
        path: The label file, for messages.

    Returns:
        Class indices, int64 `[len(files)]`.

    Raises:
        DataError: A file has no entry.
    """
    found = [next((entries[key] for key in _list_keys(file) if key in entries), None) for file in files]
    missing = [file for file, index in zip(files, found, strict=True) if index is None]
    if missing:
        raise DataError(
            f"--labels {quote(path)} has no entry for {len(missing)} of {len(files)} images, the first is "
            f"{quote(missing[0])}; expected its file name or a folder's name as key: add it."
        )
    return np.array(found, dtype=np.int64)


def name_classes(entries: Mapping[str, int], files: Sequence[str]) -> dict[int, str]:
    """Return the names of classes: those of their folders, where a class has just one.

    Args:
        entries: Name to class index.
        files: Image paths relative to the data folder, with forward slashes.

    Returns:
        Class index to name.
    """
    folders = {key for parent in {PurePosixPath(file).parent for file in files} for key in _list_folders(parent)}
    found: dict[int, list[str]] = {}
    for name, index in entries.items():
        if name in folders:
            found.setdefault(index, []).append(name)
    return {index: names[0] for index, names in found.items() if len(names) == 1}


def _list_keys(file: str) -> Iterator[str]:
    """Yield the keys that may stand for a file, the most specific first."""
    relative = PurePosixPath(file)
    yield file
    yield relative.name
    yield from _list_folders(relative.parent)


def _list_folders(innermost: PurePosixPath) -> Iterator[str]:
    """Yield the keys that may stand for a folder and those around it, innermost first."""
    for folder in (innermost, *innermost.parents):
        if folder.name:
            yield str(folder)
            yield folder.name
