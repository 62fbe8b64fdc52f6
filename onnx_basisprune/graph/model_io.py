"""Read ONNX files from strangers, and turn models back into the bytes of a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

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
    _check_file(path)
    try:
        # Without the format, onnx would go by the file's extension.
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise ModelError(f"{quote(path)} can't be read as an ONNX model ({_summarize(error)}).") from error
    if not model.HasField("graph") or not model.graph.node:
        raise ModelError(f"{quote(path)} has no graph; expected an ONNX model: is it another kind of file?")
    _check_opset(model, path)
    text = _find_broken_text(model)
    if text is not None:
        raise ModelError(
            f"{quote(path)} is damaged: the text {quote(text)} in it isn't UTF-8; export or copy the model again."
        )
    _check_types(model, path)
    _load_external_data(model, path)
    _check_tensors(model, path)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise ModelError(f"{quote(path)} isn't a valid ONNX model: {_summarize(error)}.") from error
    return model


def _check_file(path: Path) -> None:
    """Refuse what can't be a model file before onnx is asked to read it."""
    if not path.exists():
        raise ModelError(f"{quote(path)}: no such file; expected an ONNX model.")
    if path.is_dir():
        raise ModelError(f"{quote(path)} is a folder; expected an ONNX model file.")
    if not path.is_file():
        raise ModelError(f"{quote(path)} isn't a regular file; expected an ONNX model file.")
    if path.stat().st_size == 0:
        raise ModelError(f"{quote(path)} is empty; expected an ONNX model: export or copy it again.")


def _find_broken_text(message: Message) -> bytes | None:
    """Return a text of a message that isn't UTF-8: protobuf hands it out as bytes, and onnx.checker lets it pass."""
    if isinstance(message, TensorProto):  # its data is no text, and may be large
        texts: list[object] = [message.name, message.doc_string]
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
        if not tensor.ByteSize() or tensor.data_type == TensorProto.STRING:
            continue
        try:
            onnx.numpy_helper.to_array(tensor)
        except (ValueError, LookupError, TypeError) as error:
            raise ModelError(
                f"{quote(path)}: the data of tensor {quote(tensor.name)} don't fit its shape {list(tensor.dims)[:8]} "
                f"and type {tensor.data_type} ({_summarize(error)}); export or copy the model again."
            ) from error


def _load_external_data(model: ModelProto, path: Path) -> None:
    """Load external tensors after checking that each lies inside the model's folder."""
    # Not that of a link's target: what lies beside the name that was given is the model's.
    folder = path.parent.resolve()
    tensors = [tensor for tensor in iterate_tensors(model) if onnx.external_data_helper.uses_external_data(tensor)]
    for tensor in tensors:
        _check_location(tensor, folder, path)
    for tensor in tensors:
        try:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
            raise ModelError(
                f"{quote(path)}: the external data of tensor {quote(tensor.name)} can't be read: {_summarize(error)}."
            ) from error
        tensor.ClearField("data_location")
        del tensor.external_data[:]


def _check_location(tensor: TensorProto, folder: Path, path: Path) -> None:
    """Refuse external data that is missing or not inside the model's folder."""
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


def iterate_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Go through every tensor of a model: initializers and attributes, in inner graphs and functions too."""
    yield from _iterate_graph(model.graph)
    for function in model.functions:
        yield from _iterate_nodes(function.node)


def _iterate_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _iterate_nodes(graph.node)


def _iterate_nodes(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _iterate_graph(graph)


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


def _summarize(error: BaseException) -> str:
    """Return an outside library's message as one short line."""
    lines = str(error).strip().splitlines()
    return quote((lines[0] if lines else type(error).__name__).rstrip(". "))
