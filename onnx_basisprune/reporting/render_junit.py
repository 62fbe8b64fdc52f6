"""The gates as a JUnit file, which every CI server reads: a test suite with one case per gate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isfinite
from xml.etree import ElementTree as ET

from onnx_basisprune.numbers import show_gate
from onnx_basisprune.results import Gate

# What XML 1.0 can't hold in any form: control characters, lone surrogates, two non-characters.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_junit(subject: str, gates: Sequence[Gate]) -> str:
    """Return the gates as JUnit XML.

    Args:
        subject: What was judged, such as the report's file; the suite's name.
        gates: A case each: a `failure` where it failed, an `error` where it couldn't be judged.

    Returns:
        XML in ASCII, with a newline at the end.
    """
    kinds = [_classify(gate) for gate in gates]
    totals = {"tests": len(gates), "failures": kinds.count("failure"), "errors": kinds.count("error"), "skipped": 0}
    counts = {key: str(value) for key, value in totals.items()}
    root = ET.Element("testsuites", {"name": "basisprune", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": _clean(subject), **counts})
    for gate, kind in zip(gates, kinds, strict=True):
        line = _clean(show_gate(gate))
        case = ET.SubElement(suite, "testcase", {"classname": "basisprune", "name": _clean(gate.name), "time": "0"})
        if kind == "system-out":
            ET.SubElement(case, kind).text = line
        else:
            ET.SubElement(case, kind, {"message": line, "type": _clean(gate.name)})
    ET.indent(root)
    xml: bytes = ET.tostring(root, encoding="us-ascii", xml_declaration=True)
    return xml.decode() + "\n"


def _classify(gate: Gate) -> str:
    """Return the element that tells a case's outcome."""
    if gate.passed:
        return "system-out"
    return "failure" if isfinite(gate.reached) else "error"


def _clean(text: str) -> str:
    """Return a text with what XML can't hold replaced."""
    return _NOT_XML.sub("\ufffd", text)
