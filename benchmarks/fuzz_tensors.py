"""What strangers' tensors may look like: dimensions, types and data that don't fit, and weights that nobody trained."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, numpy_helper

INTEGERS = (0, 1, -1, 2, -2, 3, 7, 255, 65_536, 2**31 - 1, 2**31, 2**32, 2**40, -(2**40), 2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, -1.0, 1e-45, 1e30, 3.4e38, float("inf"), float("-inf"), float("nan"))
NAMES = (
    "", " ", ".", "..", "/", "<script>alert(1)</script>", "\x00", "a\x1b[31mb\r\n\x07", "\u202egnp", "\u2028",
    "x" * 10_000, "[bold red]", "%s%n{0}", "../../etc/passwd", "=cmd|'/c calc'!A1", "\ufffe", "名前", "' OR 1=1 --",
)  # fmt: skip
LOCATIONS = (
    "/etc/passwd", "/dev/zero", "../model.onnx", "..\\x", "", ".", "no.bin", "model.onnx", "link.bin", "a/../../x",
    "C:\\x", "weights.bin", "weights.bin\x00", "\x00", "x" * 5000, "/proc/self/mem", "loop", "//host/share",
)  # fmt: skip
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "custom", "\x00", "x" * 10_000)


def pick_tensor(model: ModelProto, rng: random.Random) -> TensorProto:
    """Return one of all tensors."""
    tensors = [*model.graph.initializer]
    tensors += [a.t for node in model.graph.node for a in node.attribute if a.type == AttributeProto.TENSOR]
    return rng.choice(tensors)


def change_dims(dims: list[int], rng: random.Random) -> list[int]:
    """Return other dimensions."""
    kind = rng.randrange(5)
    if kind == 0 and dims:
        dims[rng.randrange(len(dims))] = rng.choice(INTEGERS)
    elif kind == 1:
        dims.insert(rng.randrange(len(dims) + 1), rng.choice(INTEGERS))
    elif kind == 2 and dims:
        del dims[rng.randrange(len(dims))]
    elif kind == 3:
        rng.shuffle(dims)
    else:
        dims = [rng.choice(INTEGERS) for _ in range(rng.choice((1, 2, 4, 5, 64)))]
    return dims


def change_tensor_dims(model: ModelProto, rng: random.Random) -> None:
    """Other dimensions than the data's."""
    tensor = pick_tensor(model, rng)
    dims = change_dims(list(tensor.dims), rng)
    del tensor.dims[:]
    tensor.dims.extend(dims)


def change_tensor_type(model: ModelProto, rng: random.Random) -> None:
    """Another element type than the data's."""
    pick_tensor(model, rng).data_type = rng.choice((*range(30), 2**31 - 1, -1))


def change_tensor_data(model: ModelProto, rng: random.Random) -> None:
    """Too few or too many bytes, or in two places."""
    tensor = pick_tensor(model, rng)
    kind = rng.randrange(4)
    if kind == 0:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    elif kind == 1:
        tensor.raw_data += rng.randbytes(rng.choice((1, 4, 64)))
    elif kind == 2:
        tensor.ClearField("raw_data")
    else:
        tensor.float_data.extend([1.0] * rng.choice((1, 10, 1000)))
        tensor.int64_data.append(rng.choice(INTEGERS))
        tensor.string_data.append(b"\xff")


def change_weights(model: ModelProto, rng: random.Random) -> None:
    """Weights that no training leaves: NaN, infinite, subnormal, zero."""
    tensor = pick_tensor(model, rng)
    values = numpy_helper.to_array(tensor).copy()
    if values.dtype.kind == "f":
        chosen: Sequence[float] = FLOATS
        flat = values.reshape(-1)
        with np.errstate(over="ignore"):
            if rng.random() < 0.3:
                flat[:] = rng.choice(chosen)
            else:
                flat[rng.randrange(flat.size)] = rng.choice(chosen)
    elif values.dtype == np.int64 and values.size:
        values.reshape(-1)[rng.randrange(values.size)] = rng.choice(INTEGERS)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def change_weights_to_float16(model: ModelProto, rng: random.Random) -> None:
    """One weight in another precision."""
    tensor = rng.choice(model.graph.initializer)
    kind = rng.choice((np.float16, np.float64, np.int8))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(kind), tensor.name))


def move_outside(model: ModelProto, rng: random.Random) -> None:
    """A tensor's data in another file: none that may be read, or past its end."""
    tensor = pick_tensor(model, rng)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": rng.choice(LOCATIONS)}
    for key in ("offset", "length"):
        if rng.random() < 0.5:
            entries[key] = rng.choice((*map(str, INTEGERS), "", "many", "1e3", "0x10", "9" * 5000, "\x00"))
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    if rng.random() < 0.2:
        tensor.external_data.add(key=rng.choice(("location", *NAMES)), value=rng.choice(LOCATIONS))


def add_sparse(model: ModelProto, rng: random.Random) -> None:
    """A sparse tensor instead of a dense one, sound or not."""
    tensor = rng.choice(model.graph.initializer)
    sparse = model.graph.sparse_initializer.add(dims=[rng.choice(INTEGERS)])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(2, np.float32), rng.choice((tensor.name, "other"))))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([0, rng.choice(INTEGERS)]), "i"))
    if rng.random() < 0.5:
        model.graph.initializer.remove(tensor)
