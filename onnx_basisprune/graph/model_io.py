"""Read ONNX files from strangers, and turn models back into the bytes of a file."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from onnx_basisprune.errors import ModelError, quote

OLDEST_OPSET = 7
_PROTOBUF_LIMIT = 2**31 - 1


def load_model(path: Path) -> ModelProto:
    """Read and check an ONNX file, external data included.

    Args:
        path: The file; external data may lie in its folder only.

    Returns:
        The model with all tensor data in memory.

    Raises:
        ModelError: The file is missing, isn't a valid ONNX model, uses an opset outside 7 to the newest
            supported, or names external data outside its own folder.
    """
    if not path.exists():
        raise ModelError(f"{quote(path)}: no such file; expected an ONNX model.")
    if not path.is_file():
        raise ModelError(f"{quote(path)} is a folder; expected an ONNX model file.")
    if path.stat().st_size == 0:
        raise ModelError(f"{quote(path)} is empty; expected an ONNX model: export or copy it again.")
    try:
        model = onnx.load_model(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise ModelError(f"{quote(path)} can't be read as an ONNX model ({_first_line(error)}).") from error
    if not model.HasField("graph") or not model.graph.node:
        raise ModelError(f"{quote(path)} has no graph; expected an ONNX model: is it another kind of file?")
    _load_external_data(model, path)
    _check_opset(model, path)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"{quote(path)} isn't a valid ONNX model: {_first_line(error)}.") from error
    return model


def _load_external_data(model: ModelProto, path: Path) -> None:
    """Load external tensors after checking that each lies inside the model's folder."""
    folder = path.resolve().parent
    found = False
    for tensor in model.graph.initializer:
        if not onnx.external_data_helper.uses_external_data(tensor):
            continue
        found = True
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        pure = PurePosixPath(location.replace("\\", "/"))
        target = (folder / location).resolve()
        if not location or pure.is_absolute() or ".." in pure.parts or not target.is_relative_to(folder):
            raise ModelError(
                f"{quote(path)}: initializer {quote(tensor.name)} has its data at {quote(location)}; "
                f"expected a file inside the model's folder."
            )
        if not target.is_file():
            raise ModelError(
                f"{quote(path)}: the external data file {quote(location)} of initializer "
                f"{quote(tensor.name)} is missing; expected it beside the model."
            )
    if not found:
        return
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{quote(path)}: external data can't be read: {_first_line(error)}.") from error


def _check_opset(model: ModelProto, path: Path) -> None:
    """Refuse operator sets that neither the executor nor onnxruntime was held against."""
    newest = onnx.defs.onnx_opset_version()
    version = read_opset(model)
    if not OLDEST_OPSET <= version <= newest:
        raise ModelError(
            f"{quote(path)} uses opset {version}; expected {OLDEST_OPSET} to {newest}: convert it with "
            f"onnx.version_converter or export it again."
        )


def read_opset(model: ModelProto) -> int:
    """Return the version of ONNX's own operator set, 0 where the model states none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def passes_full_check(model: ModelProto) -> bool:
    """Return whether `onnx.checker` accepts the model with strict shape inference."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError):
        return False
    return True


def serialize_model(model: ModelProto) -> bytes:
    """Return the model as the bytes of an ONNX file.

    Raises:
        ModelError: It is larger than protobuf's 2 GiB.
    """
    if model.ByteSize() > _PROTOBUF_LIMIT:
        raise ModelError("The model is over 2 GiB, more than one ONNX file can hold: compress a smaller part.")
    return bytes(model.SerializeToString(deterministic=True))


def _first_line(error: BaseException) -> str:
    """Return an outside library's message as one line without its final full stop."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(". ")
