"""Finding image files: class folders or one flat folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from onnx_basisprune.data.decoding import IMAGE_SUFFIXES
from onnx_basisprune.errors import DataError, quote

# What macOS's archiver leaves beside the real folders.
_IGNORED_FOLDERS = frozenset({"__MACOSX"})


def find_images(folder: Path, *, classes_wanted: bool) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """List the images under a folder, hidden and other files left out, symbolic links followed.

    Args:
        folder: A folder of class folders (nested at will) or of images.
        classes_wanted: Whether the folders tell the classes; else any arrangement will do.

    Returns:
        The images' paths relative to `folder`, with forward slashes, sorted; and the sorted names of the
        class folders, or `None` for a flat folder or where no classes are wanted.

    Raises:
        DataError: There are no images, images lie beside class folders, a class folder has none, or a folder
            can't be read.
    """
    files = tuple(sorted(_walk(folder, "", (os.path.realpath(folder),))))
    if not files:
        raise DataError(
            f"{quote(folder)} has no images; expected class folders with images, or images (such as .png, "
            ".jpg): check the path."
        )
    if not classes_wanted:
        return files, None
    loose = [file for file in files if "/" not in file]
    if len(loose) == len(files):
        return files, None
    if loose:
        raise DataError(
            f"{quote(folder)} has {len(loose)} images (such as {quote(loose[0])}) beside class folders; "
            "expected either: move the images into class folders, or name every image's class with --labels."
        )
    return files, _list_classes(folder, files)


def _list_classes(folder: Path, files: tuple[str, ...]) -> tuple[str, ...]:
    """Return the sorted names of the class folders, none of them empty."""
    with_images = {file.split("/", 1)[0] for file in files}
    names = sorted(entry.name for entry in _list_entries(folder) if entry.is_dir())
    for name in names:
        # Left out, it would shift the indices of all classes after it.
        if name not in with_images:
            raise DataError(
                f"{quote(folder / name)} has no images, but as a class folder it takes a class index; "
                "expected images: add some, remove the folder, or give the indices with --labels."
            )
    return tuple(names)


def _list_entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """Return a folder's entries that aren't hidden, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            visible = [e for e in entries if not e.name.startswith(".") and e.name not in _IGNORED_FOLDERS]
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"{quote(folder)} can't be read ({reason}): check its permissions.") from error
    return sorted(visible, key=lambda entry: entry.name)


def _walk(folder: Path | str, prefix: str, ancestors: tuple[str, ...]) -> Iterator[str]:
    """Yield the relative paths of the images below a folder; a link back to an ancestor isn't followed."""
    for entry in _list_entries(folder):
        if entry.is_dir():
            real = os.path.realpath(entry.path)
            if real not in ancestors:
                yield from _walk(entry.path, f"{prefix}{entry.name}/", (*ancestors, real))
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 - a Path each is slow
            # A dangling link is listed too: opening it tells which one, leaving it out would hide it.
            yield f"{prefix}{entry.name}"
