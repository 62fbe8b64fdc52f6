"""What is kept of a model that failed its validation: the model itself goes, what showed its fault stays."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np

import onnx_basisprune
from onnx_basisprune.errors import OutputError, ValidationError, quote
from onnx_basisprune.files import hash_files, write_atomically


def keep_evidence(error: ValidationError, output: Path, staged: Path) -> ValidationError:
    """Write why a model was refused beside the place where it would have been.

    Args:
        error: What is wrong with it.
        output: Where it would have been.
        staged: Where it is now.

    Returns:
        The same error, saying where the evidence is: `<output>.rejected.npz` with the arrays that the error holds, and
        under `about` a JSON text of what was refused and why.
    """
    about = {
        "reason": str(error),
        "output": str(output),
        "sha256": hash_files([staged]),
        "basisprune": onnx_basisprune.__version__,
    }
    path = _find_evidence(output)
    content = io.BytesIO()
    # By position in the file's own names: those of tensors may hold anything, and become names in an archive.
    names = {f"array_{at}": name for at, name in enumerate(sorted(error.evidence))}
    arrays = {key: error.evidence[name] for key, name in names.items()}
    arrays["about"] = np.array(json.dumps({**about, "arrays": names}))
    np.savez(content, allow_pickle=False, **arrays)
    try:
        write_atomically(content.getvalue(), path, force=True)
    except OutputError:
        return error
    return ValidationError(f"{error} Nothing was written but the evidence, {quote(path)}.", error.evidence)


def drop_evidence(output: Path) -> None:
    """Remove the evidence against an earlier model, now that a sound one has its place; never a file of the user's."""
    path = _find_evidence(output)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as evidence:
            about = json.loads(str(evidence["about"]))
        if about.keys() >= {"reason", "basisprune"}:
            path.unlink()
    # It isn't there, isn't ours, or can't be removed, and this is no reason to fail a run that has succeeded.
    except Exception:  # noqa: BLE001  # zipfile, zlib, ast and numpy each have their own errors for other files
        return


def _find_evidence(output: Path) -> Path:
    """Return where the evidence against a model goes."""
    return output.with_name(f"{output.name}.rejected.npz")
