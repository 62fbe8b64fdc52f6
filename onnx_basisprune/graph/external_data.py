"""Weights in files beside the model: read from inside the model's folder only, and written one after the other."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

import onnx
from onnx import ModelProto, TensorProto

from onnx_basisprune.errors import ModelError, quote, summarize_error
from onnx_basisprune.graph.tensors import copy_fields, copy_without, is_shape_operand, iterate_tensors

# Runtimes map the file into memory page by page.
_ALIGNMENT = 4096
# In bytes. Many tensors may name the same part of a file, so files on disk are no bound for what is read from them.
LARGEST_WEIGHTS = 2**34


def load_external_data(model: ModelProto, path: Path) -> tuple[Path, ...]:
    """Load external tensors, in place, after checking that each lies inside the model's folder.

    Args:
        model: As read from the file.
        path: The file.

    Returns:
        The files that were read, in the order of their first tensors.

    Raises:
        ModelError: External data are outside the folder, missing, or shorter than the tensors say.
    """
    # Not that of a link's target: what lies beside the name that was given is the model's.
    folder = path.parent.resolve()
    tensors = [tensor for tensor in iterate_tensors(model) if onnx.external_data_helper.uses_external_data(tensor)]
    files = dict.fromkeys(_find_file(tensor, folder, path) for tensor in tensors)
    room = LARGEST_WEIGHTS
    for tensor in tensors:
        try:
            tensor.raw_data = _read_data(tensor, _find_file(tensor, folder, path), room)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{quote(path)}: the external data of tensor {quote(tensor.name)} can't be read: "
                f"{summarize_error(error)}."
            ) from error
        room -= len(tensor.raw_data)
        tensor.ClearField("data_location")
        del tensor.external_data[:]
    return tuple(files)


def _read_data(tensor: TensorProto, file: Path, room: int) -> bytes:
    """Return a tensor's bytes, after holding what it says against the file: nothing is read that isn't there.

    Args:
        tensor: It says where in the file its data are; everything up to the end where it doesn't say how many.
        file: The file.
        room: The most bytes that may be read.

    Raises:
        ValueError: What it says doesn't fit.
        OSError: The file can't be read.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    size = file.stat().st_size
    offset = int(entries.get("offset", "0"))
    length = int(entries["length"]) if "length" in entries else size - offset
    if offset < 0 or length < 0 or offset + length > size:
        raise ValueError(f"expected within the file's {size:,} bytes, found offset {offset} and length {length}")
    if length > room:
        raise ValueError(f"all weights together take more than {LARGEST_WEIGHTS // 2**30} GiB, which is the limit")
    with file.open("rb") as stream:
        stream.seek(offset)
        return stream.read(length)


def _find_file(tensor: TensorProto, folder: Path, path: Path) -> Path:
    """Return where a tensor's data are; refuse external data that are missing or not inside the model's folder."""
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    pure = PureWindowsPath(location)  # takes both kinds of slashes, and drives
    try:
        target = (folder / location).resolve()
        is_file = target.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, with a NUL in it, or a link that leads back to itself
        target, is_file = Path(), False
    if not location or pure.anchor or ".." in pure.parts or not target.is_relative_to(folder):
        raise ModelError(
            f"{quote(path)}: tensor {quote(tensor.name)} has its data at {quote(location)}; "
            f"expected a file inside the model's folder."
        )
    if not is_file:
        raise ModelError(
            f"{quote(path)}: the external data file {quote(location)} of tensor "
            f"{quote(tensor.name)} is missing; expected it beside the model."
        )
    return target


def write_external_data(model: ModelProto, path: Path) -> ModelProto:
    """Write a model's large initializers to a file, one at a time, and return the model without their data.

    Args:
        model: Not changed.
        path: The new file, to lie beside the model's.

    Returns:
        A copy that names the file's last part as the place of these data.

    Raises:
        OSError: The file can't be written.
    """
    light = copy_without(model, ("initializer",))
    with path.open("wb") as stream:
        for tensor in model.graph.initializer:
            if not can_be_external(tensor):
                light.graph.initializer.append(tensor)
                continue
            stream.write(bytes(-stream.tell() % _ALIGNMENT))
            place = light.graph.initializer.add()
            copy_fields(tensor, place, without=("raw_data",))
            place.data_location = TensorProto.EXTERNAL
            offset, length = stream.tell(), stream.write(tensor.raw_data)
            for key, value in {"location": path.name, "offset": str(offset), "length": str(length)}.items():
                place.external_data.add(key=key, value=value)
    return light


def can_be_external(tensor: TensorProto) -> bool:
    """Return whether a tensor's data can and should lie in a file of their own."""
    return tensor.HasField("raw_data") and not is_shape_operand(tensor)
