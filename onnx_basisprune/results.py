"""What a run hands back: frozen dataclasses whose field names are the report's JSON keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnx_basisprune.course_report import FrontierPoint, RecoveryReport, SearchLook, SearchReport, TimingReport
from onnx_basisprune.figures import Accuracy, Interval, Latency, ModelMeasurement, Speedup

__all__ = [
    "FORMAT_VERSION",
    "Accuracy",
    "ClassReport",
    "CompressionReport",
    "EvaluationReport",
    "FrontierPoint",
    "Gate",
    "GroupReport",
    "Interval",
    "Latency",
    "LayerReport",
    "ModelMeasurement",
    "RecoveryReport",
    "SearchLook",
    "SearchReport",
    "Speedup",
    "TimingReport",
]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class LayerReport:
    """What became of one Conv.

    Attributes:
        name: The node's name in the input model (made unique where it had none).
        op_type: Always `Conv` for a decomposed layer.
        decomposed: Whether it was rewritten into basis conv + scaling conv.
        reason: Why it wasn't, else empty.
        full_rank: Components of the full basis; 0 where the layer isn't eligible.
        rank: Components kept; `full_rank` where undecomposed.
        macs_before: Multiply-adds for one image in the input model.
        macs_after: The same in the compressed model.
        parameters_before: Weights and biases in the input model.
        parameters_after: The same in the compressed model.
        removed_score: Sum of the removed components' scores: the predicted loss of this layer.
        ms_before: Milliseconds within the original model, of one run of the benchmark's batch, predicted from the
            latency table; `None` where time wasn't looked at, or this node's isn't known.
        ms_after: The same of what it became, by the table alone: plans held to the clock are scaled as a whole.
    """

    name: str
    op_type: str
    decomposed: bool
    reason: str
    full_rank: int
    rank: int
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    removed_score: float
    ms_before: float | None = None
    ms_after: float | None = None


@dataclass(frozen=True)
class GroupReport:
    """What became of one dependency group: channels that can only go together.

    Attributes:
        name: The first node that makes its channels.
        channels: How many there were.
        kept: How many stay.
        blocked_by: Why they must stay, else empty.
    """

    name: str
    channels: int
    kept: int
    blocked_by: str


@dataclass(frozen=True)
class Gate:
    """One pass-or-fail line.

    Attributes:
        name: The option that asked, such as `max_drop`.
        asked: Its value.
        reached: What was measured, in the same unit; NaN where nothing was, which fails.
        passed: Whether that will do.
        explanation: How sure the figure is, or why there is none.
    """

    name: str
    asked: float
    reached: float
    passed: bool
    explanation: str = ""


@dataclass(frozen=True)
class ClassReport:
    """How accurate both models are on the `n` images of one class.

    Attributes:
        index: The class's index in the models' output.
        name: Its folder's name; `None` where there is none.
        n: Images with this label, at least 1.
        top1_before: Fraction of them that the original model has right.
        top1_after: The same for the compressed model.
        drop_pp: Before minus after, in percentage points.
    """

    index: int
    name: str | None
    n: int
    top1_before: float
    top1_after: float
    drop_pp: float


@dataclass(frozen=True)
class CompressionReport:
    """Everything a run found out; `reporting.render_json` writes it with these keys.

    Attributes:
        config: Every option by its name, with the output and the `preprocessing` that were really used.
        environment: Versions, CPU, threads of onnxruntime and of the calibration, execution provider, seed, and SHA-256
            of both models.
        original: The model that was given.
        compressed: The one that was made; of a dry run what is predicted.
        speedup: `None` in a dry run.
        drop_pp: Loss of accuracy in percentage points; without labels 100 minus the agreement in percent. `None` in a
            dry run.
        layers: Every Conv of the original, in graph order.
        groups: Every group of channels that can only go together.
        gates: What had to be reached.
        recovery: `None` where nothing was tuned.
        timings: Stage → seconds.
        timing: How time entered the plan; `None` where it didn't.
        search: The course of a search for `--max-drop`; `None` where a target was given.
        warnings: What the user should look at.
        frontier: Several sizes with their accuracy and speed, the largest first; empty without `--frontier`.
        per_class: Accuracy class by class; empty without labels.
        varies_with: What could make the same command on the same files write other bytes in another run.
        format_version: Grows when a key changes its meaning or goes.
    """

    config: dict[str, Any]
    environment: dict[str, Any]
    original: ModelMeasurement
    compressed: ModelMeasurement
    speedup: Speedup | None
    drop_pp: Interval | None
    layers: tuple[LayerReport, ...]
    groups: tuple[GroupReport, ...]
    gates: tuple[Gate, ...]
    recovery: RecoveryReport | None
    timings: dict[str, float]
    timing: TimingReport | None = None
    search: SearchReport | None = None
    warnings: tuple[str, ...] = ()
    frontier: tuple[FrontierPoint, ...] = ()
    per_class: tuple[ClassReport, ...] = ()
    varies_with: tuple[str, ...] = ()
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class EvaluationReport:
    """How often a model is right; accuracies are fractions, `drop_pp` percentage points.

    Attributes:
        config: Every option.
        environment: What it was measured on.
        preprocess: The preset that was used, `none` for float data.
        accuracy: Of the model; `agreement` is with the reference.
        reference: Of the reference on the same images; `None` where none was given.
        drop_pp: Reference minus model; without labels 100 minus the agreement in percent.
        warnings: What the user should look at.
        format_version: Grows when a key changes its meaning or goes.
    """

    config: dict[str, Any]
    environment: dict[str, Any]
    preprocess: str
    accuracy: Accuracy
    reference: Accuracy | None = None
    drop_pp: Interval | None = None
    warnings: tuple[str, ...] = ()
    format_version: int = FORMAT_VERSION
