"""Folders and `.npz` files as one `Dataset`; seeded, class-balanced draws and splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.data.broken_images import BrokenImages
from onnx_basisprune.data.decoding import decode_image
from onnx_basisprune.data.folder import find_images
from onnx_basisprune.data.label_file import match_labels, name_classes, read_label_file
from onnx_basisprune.data.npz_file import read_npz
from onnx_basisprune.errors import ConfigError, DataError, quote

Indices = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images, with labels where known; decoded only by `load`, so that memory doesn't grow with them.

    Attributes:
        source: The folder or `.npz`.
        labels: Class indices, int64 `[len(self)]`, or `None`.
        class_names: Class index → name of the class's folder, where it has one.
    """

    source: Path
    labels: NDArray[np.int64] | None
    class_names: Mapping[int, str]
    _items: tuple[str, ...] | NDArray[Any]
    """All of the source's files (relative, forward slashes), or the whole array `x`."""
    _positions: NDArray[np.int64]
    """Which of `_items` this set holds, in order."""
    broken: BrokenImages = field(default_factory=lambda: BrokenImages(0))
    """Those of the source that couldn't be decoded so far."""

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def is_preprocessed(self) -> bool:
        """Whether the source is a float array, which goes into the model as it is."""
        return isinstance(self._items, np.ndarray) and self._items.dtype != np.uint8

    @property
    def sample_shape(self) -> tuple[int, ...] | None:
        """Shape of one item of an array source, without the batch axis; `None` for image files."""
        return self._items.shape[1:] if isinstance(self._items, np.ndarray) else None

    def name_of(self, index: int) -> str:
        """Return what to call an image in a message: its file's path, or `x[12]`."""
        position = int(self._positions[index])
        if isinstance(self._items, np.ndarray):
            return f"{self.source.name}: x[{position}]"
        return str(self.source / self._items[position])

    def select(self, indices: Indices) -> Dataset:
        """Return the images at these indices, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            labels=None if self.labels is None else self.labels[chosen],
            _positions=self._positions[chosen],
        )

    def draw(self, count: int, seed: int) -> Dataset:
        """Draw images at random, as evenly over the classes as their sizes allow, in mixed order.

        Args:
            count: Images to draw; all are returned, in their order, where there are no more.
            seed: Same seed, same draw.

        Returns:
            A set of `min(count, len(self))` images.

        Raises:
            ConfigError: `count` is below 1.
        """
        if count < 1:
            raise ConfigError(f"{count} images can't be drawn from {quote(self.source)}; expected at least 1.")
        if count >= len(self):
            return self
        generator = np.random.default_rng(seed)
        members = self._group_by_class()
        quotas = _share_evenly(count, np.array([len(group) for group in members]), generator)
        chosen = _choose(members, quotas, generator)
        return self.select(generator.permutation(chosen))

    def split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        """Split in two disjoint parts with the same mix of classes, each of at least one image.

        Args:
            fraction: Share of the second part, between 0 and 1.
            seed: Same seed, same split.

        Returns:
            The rest, and the part of `round(fraction * len(self))` images; both in the order of this set.

        Raises:
            ConfigError: `fraction` isn't between 0 and 1.
            DataError: There are fewer than two images.
        """
        if not 0.0 < fraction < 1.0:
            raise ConfigError(f"A split of {fraction:g} leaves nothing; expected a fraction between 0 and 1.")
        if len(self) < 2:
            raise DataError(
                f"{len(self)} image of {quote(self.source)} is to be split in two parts; expected at least 2: add "
                "images, or give others with --val."
            )
        generator = np.random.default_rng(seed)
        members = self._group_by_class()
        count = min(max(round(fraction * len(self)), 1), len(self) - 1)
        quotas = _share_in_proportion(count, np.array([len(group) for group in members]), generator)
        in_part = np.zeros(len(self), dtype=bool)
        in_part[_choose(members, quotas, generator)] = True
        return self.select(np.flatnonzero(~in_part)), self.select(np.flatnonzero(in_part))

    def check_labels(self, classes: int) -> None:
        """Check that every label is one of the model's classes.

        Args:
            classes: Classes that the model tells apart.

        Raises:
            DataError: A label is `classes` or more.
        """
        if self.labels is None:
            return
        beyond = np.flatnonzero(self.labels >= classes)
        if len(beyond):
            first = int(beyond[0])
            raise DataError(
                f"{quote(self.name_of(first))} has the class index {self.labels[first]}, but the model has "
                f"{classes} classes; expected data of the model's own classes: use that, or map folders to "
                "indices with --labels."
            )

    def load(self, indices: Indices) -> list[NDArray[np.uint8]] | NDArray[np.float32]:
        """Decode some of the images.

        Args:
            indices: Which, counted in this set.

        Returns:
            RGB pixels, a list of uint8 `[height, width, 3]`; of a float source float32 `[n, ...]`.

        Raises:
            DataError: A file can't be decoded, or a float isn't finite.
        """
        positions = self._positions[np.asarray(indices, dtype=np.int64)]
        if not isinstance(self._items, np.ndarray):
            return [decode_image(self.source / self._items[position]) for position in positions]
        picked = self._items[positions]
        if picked.dtype == np.uint8:
            return [_repeat_to_rgb(pixels) for pixels in picked]
        return self._convert_to_float32(picked, positions)

    def hash_content(self) -> str:
        """Return the SHA-256 of all images and labels, in order, undecoded; as hexadecimal digits."""
        digest = hashlib.sha256()
        for index, item in enumerate(self.hash_items()):
            digest.update(f"{item} {-1 if self.labels is None else int(self.labels[index])} ".encode())
        return digest.hexdigest()

    def hash_items(self) -> Iterator[str]:
        """Go through the SHA-256 of each image, undecoded, as hexadecimal digits.

        A file that can't be read has none, `""`: whoever loads it says so.
        """
        for position in self._positions:
            if isinstance(self._items, np.ndarray):
                content = f"{self._items.dtype.str} {self._items.shape[1:]}".encode() + self._items[position].tobytes()
            else:
                content = _read_file(self.source / self._items[position])
            yield hashlib.sha256(content).hexdigest() if content else ""

    def _convert_to_float32(self, picked: NDArray[Any], positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return finite float32 values of a float source's items."""
        with np.errstate(over="ignore"):  # what overflows is infinite, and told just below
            values = picked.astype(np.float32)
        broken = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
        if len(broken):
            raise DataError(
                f"{quote(self.source)}: x[{positions[broken[0]]}] holds NaN or infinite values; expected "
                "finite float32 values: repair or remove it."
            )
        return values

    def _group_by_class(self) -> list[NDArray[np.int64]]:
        """Return the indices of each class's images; one group where there are no labels."""
        if self.labels is None:
            return [np.arange(len(self), dtype=np.int64)]
        order = np.argsort(self.labels, kind="stable")
        boundaries = np.flatnonzero(np.diff(self.labels[order])) + 1
        return [np.asarray(group, dtype=np.int64) for group in np.split(order, boundaries)]


def _read_file(path: Path) -> bytes:
    """Return a file's bytes, none where it can't be read or is a pipe or a device."""
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError:
        return b""


def _repeat_to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return uint8 `[h, w, 3]` of `[h, w]`, `[h, w, 1]`, `[h, w, 3]` or `[h, w, 4]` (alpha is dropped)."""
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[:, :, :3]


def _share_evenly(count: int, sizes: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Share `count` over groups so that no two differ by more than one unless the smaller is used up."""
    quotas: NDArray[np.int64] = np.zeros(len(sizes), dtype=np.int64)
    while (left := count - int(quotas.sum())) > 0:
        open_groups = np.flatnonzero(quotas < sizes)
        share = left // len(open_groups)
        if share == 0:
            quotas[generator.choice(open_groups, left, replace=False)] += 1
        else:
            quotas[open_groups] = np.minimum(quotas[open_groups] + share, sizes[open_groups])
    return quotas


def _share_in_proportion(count: int, sizes: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Share `count` over groups by their sizes (largest remainder, ties at random)."""
    exact = sizes * (count / int(sizes.sum()))
    quotas: NDArray[np.int64] = np.minimum(np.floor(exact + 1e-9).astype(np.int64), sizes)
    remainders = exact - quotas
    order = np.lexsort((generator.random(len(sizes)), -np.round(remainders, 9)))
    left = count - int(quotas.sum())
    quotas[[group for group in order if quotas[group] < sizes[group]][:left]] += 1
    return quotas


def _choose(
    members: list[NDArray[np.int64]], quotas: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Choose `quotas[i]` of `members[i]` at random, without replacement."""
    picks = [generator.choice(group, quota, replace=False) for group, quota in zip(members, quotas, strict=True)]
    return np.concatenate(picks)


def open_dataset(path: Path, labels: Path | None = None) -> Dataset:
    """Describe a folder of class folders, a flat folder of images, or an `.npz` with `x` and optional `y`.

    Args:
        path: The folder or file.
        labels: JSON from folder or file name to class index; for folders.

    Returns:
        The images; those of a folder sorted by path, and labelled by its class folders in sorted order unless
        `labels` says otherwise. A flat folder has no labels of its own.

    Raises:
        DataError: Nothing usable is there, or the labels don't fit.
        ConfigError: `labels` is given with an `.npz`.
    """
    if path.is_dir():
        files, folders = find_images(path, classes_wanted=labels is None)
        class_names: dict[int, str] = {}
        if labels is not None:
            entries = read_label_file(labels)
            indices: NDArray[np.int64] | None = match_labels(entries, files, labels)
            class_names = name_classes(entries, files)
        elif folders is not None:
            class_names = dict(enumerate(folders))
            index_of = {name: index for index, name in class_names.items()}
            indices = np.array([index_of[file.split("/", 1)[0]] for file in files], dtype=np.int64)
        else:
            indices = None
        everything = np.arange(len(files), dtype=np.int64)
        return Dataset(path, indices, class_names, files, everything, BrokenImages(len(files)))
    if not path.exists():
        raise DataError(f"{quote(path)} doesn't exist; expected a folder of images or an .npz: check the path.")
    if path.suffix.lower() != ".npz":
        raise DataError(f"{quote(path)} is neither a folder nor an .npz; expected a folder of images or an .npz.")
    if labels is not None:
        raise ConfigError(
            f"--labels is for folders, but {quote(path)} is an .npz; expected its labels inside, as array 'y'."
        )
    x, y = read_npz(path)
    return Dataset(path, y, {}, x, np.arange(len(x), dtype=np.int64))
