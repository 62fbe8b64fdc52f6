"""Weights in files beside the model: read from inside the model's folder only, and written one after the other."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

import onnx
from onnx import ModelProto, TensorProto

from onnx_basisprune.errors import ModelError, quote, summarize_error
from onnx_basisprune.graph.tensors import copy_fields, copy_without, is_shape_operand, iterate_tensors

# Runtimes map the file into memory page by page.
_ALIGNMENT = 4096


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
    for tensor in tensors:
        try:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
            raise ModelError(
                f"{quote(path)}: the external data of tensor {quote(tensor.name)} can't be read: "
                f"{summarize_error(error)}."
            ) from error
        tensor.ClearField("data_location")
        del tensor.external_data[:]
    return tuple(files)


def _find_file(tensor: TensorProto, folder: Path, path: Path) -> Path:
    """Return where a tensor's data are; refuse external data that are missing or not inside the model's folder."""
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    pure = PureWindowsPath(location)  # takes both kinds of slashes, and drives
    target = (folder / location).resolve()
    if not location or pure.anchor or ".." in pure.parts or not target.is_relative_to(folder):
        raise ModelError(
            f"{quote(path)}: tensor {quote(tensor.name)} has its data at {quote(location)}; "
            f"expected a file inside the model's folder."
        )
    if not target.is_file():
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
