"""Read ONNX files from strangers, and turn models back into the bytes of a file."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, EncodeError, Message
from onnx import ModelProto, TensorProto

from onnx_basisprune.errors import ModelError, OutputError, describe_write_error, quote, summarize_error
from onnx_basisprune.graph.external_data import can_be_external, load_external_data, write_external_data
from onnx_basisprune.graph.inner_graphs import count_inlined_nodes
from onnx_basisprune.graph.tensors import copy_without_weights, iterate_tensors

OLDEST_OPSET = 7
# Protobuf takes no more.
LARGEST_MODEL_FILE = 2**31
# onnxruntime puts functions in their place when it loads a model; a few that call each other twice may make billions.
_MOST_NODES = 1_000_000
# Protobuf takes 2 GiB in all; what isn't a weight gets an eighth of it.
_LARGEST_FILE = 7 * 2**28


def load_model(path: Path) -> ModelProto:
    """Read and check an ONNX file, external data included; see `read_model`."""
    return read_model(path)[0]


def read_model(path: Path) -> tuple[ModelProto, tuple[Path, ...]]:
    """Read and check an ONNX file, external data included.

    Args:
        path: The file; external data may lie in its folder only.

    Returns:
        The model with all tensor data in memory, and the files that it was read from, `path` first.

    Raises:
        ModelError: The file is missing, isn't a valid ONNX model, uses an opset outside 7 to the newest
            supported, or names external data outside its own folder.
    """
    _check_file(path)
    try:
        # Without the format, onnx would go by the file's extension.
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise ModelError(f"{quote(path)} can't be read as an ONNX model ({summarize_error(error)}).") from error
    if not model.HasField("graph") or not model.graph.node:
        raise ModelError(f"{quote(path)} has no graph; expected an ONNX model: is it another kind of file?")
    _check_opset(model, path)
    text = _find_broken_text(model)
    if text is not None:
        raise ModelError(
            f"{quote(path)} is damaged: the text {quote(text)} in it isn't UTF-8; export or copy the model again."
        )
    _check_types(model, path)
    data_files = load_external_data(model, path)
    _check_tensors(model, path)
    try:
        onnx.checker.check_model(copy_without_weights(model))
        nodes = count_inlined_nodes(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError, ModelError) as error:
        raise ModelError(f"{quote(path)} isn't a valid ONNX model: {summarize_error(error)}.") from error
    if nodes > _MOST_NODES:
        raise ModelError(
            f"{quote(path)} has {nodes:.3g} nodes with its local functions put in their place; expected at most "
            f"{_MOST_NODES:,}: functions that call others many times over are no classifier's."
        )
    return model, (path, *data_files)


def _check_file(path: Path) -> None:
    """Refuse what can't be a model file before onnx is asked to read it."""
    if not path.exists():
        raise ModelError(f"{quote(path)}: no such file; expected an ONNX model.")
    if path.is_dir():
        raise ModelError(f"{quote(path)} is a folder; expected an ONNX model file.")
    if not path.is_file():
        raise ModelError(f"{quote(path)} isn't a regular file; expected an ONNX model file.")
    size = path.stat().st_size
    if size == 0:
        raise ModelError(f"{quote(path)} is empty; expected an ONNX model: export or copy it again.")
    if size > LARGEST_MODEL_FILE:
        raise ModelError(
            f"{quote(path)} has {size:,} bytes; an ONNX file holds at most 2 GiB, larger weights lie in files "
            "beside it: is it another kind of file?"
        )


def _find_broken_text(message: Message) -> bytes | None:
    """Return a text of a message that isn't UTF-8: protobuf hands it out as bytes, and onnx.checker lets it pass."""
    if isinstance(message, TensorProto):  # its data is no text, and may be large
        texts: list[object] = [message.name, message.doc_string]
        texts += [text for entry in message.external_data for text in (entry.key, entry.value)]
    else:
        texts = []
        for field, value in message.ListFields():
            items = [value] if isinstance(value, (Message, str, bytes)) else value
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                texts += [_find_broken_text(item) for item in items]
            elif field.type == FieldDescriptor.TYPE_STRING:
                texts += items
    return next((text for text in texts if isinstance(text, bytes)), None)


def _check_types(model: ModelProto, path: Path) -> None:
    """Refuse inputs and outputs of element types that onnx doesn't know."""
    known = {0, *onnx.helper.get_all_tensor_dtypes()}
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.tensor_type.elem_type
        if kind not in known:
            raise ModelError(
                f"{quote(path)}: {quote(value.name)} has element type {kind}, which isn't known; expected a "
                f"floating-point tensor: export the model again."
            )


def _check_tensors(model: ModelProto, path: Path) -> None:
    """Refuse tensors whose data don't fit their type and shape."""
    for tensor in iterate_tensors(model):
        if not tensor.ByteSize():
            continue
        try:
            onnx.numpy_helper.to_array(tensor)
        except (ValueError, LookupError, TypeError) as error:
            raise ModelError(
                f"{quote(path)}: the data of tensor {quote(tensor.name)} don't fit its shape {list(tensor.dims)[:8]} "
                f"and type {tensor.data_type} ({summarize_error(error)}); export or copy the model again."
            ) from error


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
    """Return whether `onnx.checker` accepts the model with strict shape inference, whatever its size."""
    try:
        onnx.checker.check_model(copy_without_weights(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError):
        return False
    return True


def save_model(
    model: ModelProto, path: Path, *, external_data: bool = False, final: Path | None = None
) -> tuple[Path, ...]:
    """Write a model, its weights to a second file, `<name>.data`, where one file can't hold them.

    Args:
        model: Not changed.
        path: The new file.
        external_data: Whether the weights go to a second file even where one file could hold them.
        final: Where the file will be moved to, for errors; `None` for nowhere.

    Returns:
        The files that were written, `path` first.

    Raises:
        ModelError: It is larger than protobuf's 2 GiB even without its initializers.
        OutputError: A file can't be written.
    """
    files = (path, name_data_file(path))
    sizes = [len(tensor.raw_data) for tensor in model.graph.initializer if can_be_external(tensor)]
    is_split = bool(sizes) and (external_data or sum(sizes) > _LARGEST_FILE)
    needed = sum(sizes)
    try:
        content = serialize_model(write_external_data(model, files[1]) if is_split else model)
        needed = len(content) + sum(sizes) * is_split
        path.write_bytes(content)
    except OSError as error:
        raise OutputError(describe_write_error(final or path, error, needed)) from error
    return files if is_split else files[:1]


def name_data_file(path: Path) -> Path:
    """Return where the weights of a model go that don't go into its own file."""
    return path.with_name(f"{path.name}.data")


def parse_model(content: bytes) -> ModelProto:
    """Return the model that `serialize_model` made these bytes of."""
    return onnx.load_model_from_string(content)


def serialize_model(model: ModelProto) -> bytes:
    """Return the model as the bytes of a single ONNX file.

    Raises:
        ModelError: It is larger than protobuf's 2 GiB.
    """
    try:
        return bytes(model.SerializeToString(deterministic=True))
    except (EncodeError, ValueError) as error:
        raise ModelError(
            f"The model is over 2 GiB, more than one ONNX file can hold ({summarize_error(error)}): "
            "give it as a file with external data."
        ) from error
