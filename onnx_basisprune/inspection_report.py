"""What `inspect` hands back: frozen dataclasses whose field names are the JSON keys."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_basisprune.results import FORMAT_VERSION, GroupReport


@dataclass(frozen=True)
class TensorInfo:
    """A model's input or output.

    Attributes:
        name: As in the file.
        dtype: Type of its elements, such as `float32`.
        shape: Its dimensions, unknown ones are `None`; `None` where their number isn't known.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class NodeInspection:
    """One node of the normalised graph.

    Attributes:
        name: As `--exclude` takes it.
        op_type: ONNX operator.
        output_shape: Of the first output for one image; `None` where it isn't known.
        parameters: Elements of its floating-point weights that no earlier node reads.
        macs: Multiply-adds for one image; `None` where they couldn't be counted.
        full_rank: Components of the full basis; 0 where the node isn't eligible.
        break_even_rank: The largest rank that saves multiply-adds; 0 where the node isn't eligible.
        eligible: Whether the node can be decomposed.
        reason: Why it can't be, empty for an eligible node and for one without multiply-adds.
    """

    name: str
    op_type: str
    output_shape: tuple[int, ...] | None
    parameters: int
    macs: int | None
    full_rank: int
    break_even_rank: int
    eligible: bool
    reason: str


@dataclass(frozen=True)
class Inspection:
    """What a model consists of.

    Attributes:
        model: The file.
        file_bytes: Its size.
        producer: Who exported it, as the file says.
        opset: Version of ONNX's operator set.
        ir_version: Version of the file format.
        inputs: What a caller feeds.
        outputs: What a caller gets.
        macs: Multiply-adds for one image, of the nodes that could be counted.
        parameters: Elements of all floating-point weights in the file as it is.
        normalized_parameters: The same after batch normalisations are folded into the Convs: the sum of `nodes`.
        uncounted_ops: op_types whose multiply-adds couldn't be counted.
        nodes: Of the normalised graph, in its order.
        groups: Channels that can only go together, and why some must stay; all are kept here.
        format_version: Grows when a key changes its meaning or goes.
    """

    model: str
    file_bytes: int
    producer: str
    opset: int
    ir_version: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    macs: int
    parameters: int
    normalized_parameters: int
    uncounted_ops: tuple[str, ...]
    nodes: tuple[NodeInspection, ...]
    groups: tuple[GroupReport, ...] = ()
    format_version: int = FORMAT_VERSION
