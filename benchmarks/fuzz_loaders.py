"""Coverage-guided fuzzing of everything that reads a file: models, external data, archives, images, labels, tables.

    pip install atheris
    python benchmarks/fuzz_loaders.py model --seconds 120
    python benchmarks/fuzz_loaders.py all --seconds 60

Each loader gets inputs that atheris grows by what they reach in its code. Only a `BasispruneError` of one printable
line may come of them. Whatever else ends the run, with its input in
`crash-<hash>`; exit code 0 means that nothing was found.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["onnx_basisprune"]):
    from onnx_basisprune.data.decoding import decode_image
    from onnx_basisprune.data.label_file import read_label_file
    from onnx_basisprune.data.npz_file import read_npz
    from onnx_basisprune.errors import BasispruneError
    from onnx_basisprune.inspection import inspect_model
    from onnx_basisprune.plan_file import read_plan
    from onnx_basisprune.reporting.read_report import read_report
    from onnx_basisprune.runtime.latency_table import read_pinned_table

import numpy as np
import onnx
import onnx.parser
from PIL import Image

# What a loader is called with, and the ending of the file's name.
LOADERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "model": (inspect_model, ".onnx"),
    "npz": (read_npz, ".npz"),
    "image": (decode_image, ".png"),
    "labels": (read_label_file, ".json"),
    "table": (read_pinned_table, ".json"),
    "plan": (read_plan, ".json"),
    "report": (read_report, ".json"),
}
MEMORY_MIB = 4096
LONGEST_LINE = 1500


def make_seeds(name: str) -> Iterator[bytes]:
    """Yield small sound files to start from."""
    buffer = io.BytesIO()
    if name == "model":
        text = '<ir_version: 8, opset_import: ["" : 13]> g (float[N, 3, 8, 8] x) => (float[N, 4] y)'
        nodes = "a = Conv (x, w) b = Relu (a) p = Pad (b, s) c = GlobalAveragePool (p) y = Flatten (c)"
        model = onnx.parser.parse_model(f"{text} {{ {nodes} }}")
        for key, values in {"w": np.ones((4, 3, 3, 3), np.float32), "s": np.zeros(8, np.int64)}.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(values, key))
        yield model.SerializeToString()
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": "weights.bin", "offset": "0", "length": "432"}.items():
            tensor.external_data.add(key=key, value=value)
        yield model.SerializeToString()
    elif name == "npz":
        np.savez(buffer, x=np.zeros((3, 4, 4, 3), np.uint8), y=np.arange(3))
        yield buffer.getvalue()
    elif name == "image":
        for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "TGA", "PCX", "PPM"):
            buffer = io.BytesIO()
            Image.new("RGB", (5, 4), (1, 2, 3)).save(buffer, kind)
            yield buffer.getvalue()
    else:
        yield b'{"format_version": 1, "cat": 3, "dog": [1.5, null, true], "layers": {}}'


def make_target(name: str, folder: Path) -> Callable[[bytes], None]:
    """Return what atheris calls with each input."""
    load, suffix = LOADERS[name]
    path = folder / f"input{suffix}"
    (folder / "weights.bin").write_bytes(bytes(432))

    def run(data: bytes) -> None:
        path.write_bytes(data)
        try:
            load(path)
        except BasispruneError as error:
            if not str(error).isprintable() or len(str(error)) > LONGEST_LINE:
                raise AssertionError(f"not one printable line: {error!r}") from error

    return run


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loader", choices=["all", *LOADERS])
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    if options.loader == "all":
        commands = [[sys.executable, __file__, name, "--seconds", str(options.seconds)] for name in LOADERS]
        failed = [command[2] for command in commands if subprocess.run(command, check=False).returncode != 0]
        print(f"{len(LOADERS)} loaders, crashes in: {', '.join(failed) or 'none'}")
        sys.exit(bool(failed))
    with tempfile.TemporaryDirectory(prefix="basisprune-fuzz-") as name:
        corpus = Path(name) / "corpus"
        corpus.mkdir()
        for number, content in enumerate(make_seeds(options.loader)):
            (corpus / str(number)).write_bytes(content)
        limits = [f"-max_total_time={options.seconds}", f"-rss_limit_mb={MEMORY_MIB}", "-timeout=30", "-verbosity=0"]
        atheris.Setup(
            [sys.argv[0], *limits, "-print_final_stats=1", str(corpus)], make_target(options.loader, Path(name))
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
