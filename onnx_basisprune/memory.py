"""What a run remembers of earlier ones: the assessment of its network, and candidates that were carried out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.assessment import Assessment
from onnx_basisprune.cache import Arrays, Cache, make_key
from onnx_basisprune.compensating import list_compensated
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.errors import ModelError
from onnx_basisprune.graph.model_io import parse_model, serialize_model
from onnx_basisprune.network import Network
from onnx_basisprune.planning.compensation import ReadStatistics
from onnx_basisprune.planning.triangle import Triangle
from onnx_basisprune.planning.types import Basis, Plan
from onnx_basisprune.progress import Recorder
from onnx_basisprune.results import RecoveryReport

if TYPE_CHECKING:
    from onnx import ModelProto

_ASSESSED_BY = ("basis", "prune", "exclude", "batch_size", "seed")
_TUNED_BY = ("recover", "recover_steps", "augment")
_BASIS_FIELDS = ("R", "A", "center")

Vector = NDArray[np.float64]
Built = tuple["ModelProto", RecoveryReport | None]


class Memory:
    """What earlier runs found out about a model and its images.

    Args:
        cache: Where it is kept; `None` to remember nothing.
        config: The options that decide what is found out are part of every key.
        sources: What else does: the model, the images and their preprocessing, as values that JSON can hold.
        still_holds: Tells whether the sources are what they were: what is found out from others isn't kept.
    """

    def __init__(
        self,
        cache: Cache | None,
        config: CompressionConfig,
        sources: Sequence[Any],
        still_holds: Callable[[], bool] = lambda: True,
    ) -> None:
        self._cache, self._config, self._still_holds = cache, config, still_holds
        self._root = make_key(sources, _pick(config, _ASSESSED_BY))

    def recall_assessment(self, network: Network, assess: Callable[[], Assessment]) -> Assessment:
        """Return the assessment of the original network, from an earlier run where there was one."""
        key = make_key(self._root, "assessment")
        found = self._cache and self._cache.read(key)
        if found:
            return _unpack_assessment(network, *found)
        assessment = assess()
        if self._cache and self._still_holds():
            self._cache.write(key, *_pack_assessment(assessment))
        return assessment

    def recall_candidate(self, plan: Plan, build: Callable[[], Built], recorder: Recorder, *, tune: bool) -> Built:
        """Return the model that a plan gives and its recovery, from an earlier run where there was one.

        One whose recovery had to hurry isn't kept: a later run may have more time.

        Args:
            plan: A plan of the original network.
            build: Carries it out.
            recorder: Told the warnings of the earlier run, too.
            tune: Whether it is recovered.
        """
        tuned_by = _pick(self._config, _TUNED_BY) if tune else None
        key = make_key(self._root, sorted(plan.components.items()), sorted(plan.channels.items()), tuned_by)
        found = self._cache and self._cache.read(key)
        if found:
            arrays, note = found
            for warning in note["warnings"]:
                recorder.warn(warning)
            return parse_model(arrays["model"].tobytes()), _read_recovery(note["recovery"])
        before = len(recorder.warnings)
        model, recovery = build()
        is_hurried = recovery is not None and recovery.hurried
        if self._cache and not is_hurried and self._still_holds():
            note = {"warnings": recorder.warnings[before:], "recovery": recovery and asdict(recovery)}
            # One over protobuf's 2 GiB isn't kept.
            with suppress(ModelError):
                self._cache.write(key, {"model": np.frombuffer(serialize_model(model), np.uint8)}, note)
        return model, recovery


def _pick(config: CompressionConfig, names: Sequence[str]) -> dict[str, Any]:
    """Return some options."""
    return {name: getattr(config, name) for name in names}


def _read_recovery(values: Mapping[str, Any] | None) -> RecoveryReport | None:
    """Return a recovery's report from what JSON made of it."""
    if values is None:
        return None
    return RecoveryReport(**{**values, "curve": tuple(tuple(point) for point in values["curve"])})


def _pack_assessment(assessment: Assessment) -> tuple[Arrays, dict[str, Any]]:
    """Return an assessment as arrays and a note; what can be compensated follows from the moments."""
    bases, reads = list(assessment.bases.values()), list(assessment.reads.values())
    arrays: Arrays = {
        **{f"basis{i}.{field}": getattr(basis, field) for i, basis in enumerate(bases) for field in _BASIS_FIELDS},
        **{f"scores{i}": scores for i, scores in enumerate(assessment.components.values())},
        **{f"read{i}.total": read.total for i, read in enumerate(reads)},
        **{f"read{i}.outer": read.outer.values for i, read in enumerate(reads)},
        "channels": np.array(list(assessment.channels), np.int64),
        "channel_scores": np.array(list(assessment.channels.values()), np.float64),
    }
    note = {
        "bases": list(assessment.bases),
        "components": list(assessment.components),
        "reads": list(assessment.reads),
        "positions": [read.positions for read in reads],
        "images": [read.images for read in reads],
    }
    return arrays, note


def _unpack_assessment(network: Network, arrays: Mapping[str, NDArray[Any]], note: Mapping[str, Any]) -> Assessment:
    """Return what `_pack_assessment` has packed."""
    reads = {
        name: _unpack_read(arrays[f"read{i}.total"], arrays[f"read{i}.outer"], positions, images)
        for i, (name, positions, images) in enumerate(
            zip(note["reads"], note["positions"], note["images"], strict=True)
        )
    }
    return Assessment(
        bases={
            name: Basis(**{field: arrays[f"basis{i}.{field}"] for field in _BASIS_FIELDS})
            for i, name in enumerate(note["bases"])
        },
        components={name: arrays[f"scores{i}"] for i, name in enumerate(note["components"])},
        channels=dict(zip(arrays["channels"].tolist(), arrays["channel_scores"].tolist(), strict=True)),
        reads=reads,
        compensated=tuple(item for item in list_compensated(network) if item.tensor in reads) if reads else (),
    )


def _unpack_read(total: Vector, outer: Vector, positions: int, images: int) -> ReadStatistics:
    """Return moments of one tensor, whose triangle was kept as its values."""
    return ReadStatistics(total, Triangle(len(total), outer), positions, images)
