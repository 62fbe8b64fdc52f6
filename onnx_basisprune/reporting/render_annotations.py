"""The gates as workflow commands, which GitHub Actions shows beside the run."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_basisprune.numbers import show_gate, show_name
from onnx_basisprune.results import Gate


def render_annotations(gates: Sequence[Gate]) -> str:
    """Return one workflow command per line: `::error` for gates that failed, `::notice` for the others."""
    return "".join(
        f"::{'notice' if gate.passed else 'error'} "
        f"title={_escape_property(f'basisprune: {show_name(gate.name)}')}::{_escape(show_gate(gate))}\n"
        for gate in gates
    )


def _escape(text: str) -> str:
    """Return a message as the runner's `toCommandValue` does it: the line is all that a command has."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    """Return a property's value; a colon or comma would end it."""
    return _escape(text).replace(":", "%3A").replace(",", "%2C")
