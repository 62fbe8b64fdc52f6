"""From a plan to a model: cut, re-fit, recover."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx_basisprune.budget import PlannedCut
from onnx_basisprune.calibration.recovery import Distillation
from onnx_basisprune.cutting import cut_network
from onnx_basisprune.foreign import read_program
from onnx_basisprune.graph.head import find_classifier
from onnx_basisprune.graph.rewrite import PairNames, replace_initializers
from onnx_basisprune.hint_tensors import list_hints
from onnx_basisprune.memory import Built
from onnx_basisprune.opening import Images
from onnx_basisprune.refitting import refit_network
from onnx_basisprune.results import RecoveryReport
from onnx_basisprune.rounds import Prospect
from onnx_basisprune.run import Run
from onnx_basisprune.runtime.evaluation import Predictions

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Candidate:
    """A plan that was carried out.

    Attributes:
        planned: The plan.
        model: What came of it.
        recovery: The recovery's course, `None` where there was none.
    """

    planned: PlannedCut
    model: ModelProto
    recovery: RecoveryReport | None


def build_candidate(
    run: Run, prospect: Prospect, planned: PlannedCut, *, tune: bool = True, deadline: float | None = None
) -> Candidate:
    """Carry a plan out: cut the network, re-fit its layers, and recover; or recall what came of it in an earlier run.

    Args:
        run: What is compressed.
        prospect: What the plan was made from.
        planned: The plan.
        tune: Whether to recover as `--recover` says.
        deadline: By when the recovery is to be done, of `time.perf_counter`; `None` for never.
    """
    tune = tune and run.config.is_recovered

    def build() -> Built:
        return _build(run, prospect, planned, tune=tune, deadline=deadline)

    # After several rounds the plan is one of what they left, which isn't part of what is remembered.
    if prospect.network is not run.network:
        return Candidate(planned, *build())
    return Candidate(planned, *run.memory.recall_candidate(planned.plan, build, run.recorder, tune=tune))


def _build(run: Run, prospect: Prospect, planned: PlannedCut, *, tune: bool, deadline: float | None) -> Built:
    """Carry a plan out."""
    run.recorder.start("rewriting")
    model, pairs = cut_network(prospect.network, prospect.assessment, planned.plan)
    gone = prospect.list_gone(planned)
    model = refit_network(
        run.network,
        model,
        pairs,
        gone,
        run.calibration,
        run.images.load,
        run.config,
        run.recorder,
    )
    is_untouched = not pairs and model.graph == run.network.model.graph
    return _recover(run, model, pairs, gone, deadline) if tune and not is_untouched else (model, None)


def predict_candidate(run: Run, candidate: Candidate, images: Images) -> Predictions:
    """Return what onnxruntime makes of a candidate on images."""
    with run.save_for_trial(candidate.model) as path:
        return run.predict_file(path, images, "trying")


def _recover(
    run: Run, model: ModelProto, pairs: Mapping[str, PairNames], gone: Collection[int], deadline: float | None
) -> tuple[ModelProto, RecoveryReport]:
    """Tune the weights that `--recover` names."""
    student, steps = read_program(model), run.config.recover_steps
    run.recorder.start("recovery", steps)
    classifier = find_classifier(student, run.calibration.head)
    scaling_weights = {name: names.scaling for name, names in pairs.items()}
    hints = list_hints(run.network, student, gone)
    distillation = Distillation(run.teacher, student, classifier, scaling_weights, hints)
    arrays, report = distillation.recover(
        run.recorder.advance, restart=lambda: run.recorder.start("recovery", steps), deadline=deadline
    )
    return replace_initializers(model, arrays), report
