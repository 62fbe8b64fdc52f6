"""A model of over 2 GiB of weights through the installed command: it goes in and comes out as external data.

    python benchmarks/large.py
    python benchmarks/large.py --layers 12 --keep 0.5 --folder /somewhere/with/room

Makes a small stem and a stack of wide Gemm layers with random weights, which no single ONNX file holds, runs
`inspect`, `compress`, `evaluate` and `benchmark` on it, and loads what was written into onnxruntime. Prints seconds and
the peak memory of each command; takes as much room on disk as the weights twice, and memory for a few copies of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx.parser
import onnxruntime
from onnx import TensorProto

GIB = 2**30
CLASSES, SIDE, STEM = 10, 8, 16
CALIBRATION_IMAGES, IMAGES = 64, 32


def write_model(path: Path, layers: int, width: int) -> int:
    """Write the model and its weights, one after the other; return their bytes."""
    shapes = {"conv": (STEM, 3, 3, 3), "first": (width, STEM * SIDE * SIDE)}
    shapes |= {f"w{index}": (width, width) for index in range(layers)}
    shapes |= {"last": (CLASSES, width)}
    nodes = ["c = Conv <pads = [1, 1, 1, 1]> (x, conv) r = Relu (c) f = Flatten (r)"]
    nodes += ["g = Gemm <transB = 1> (f, first) h0 = Relu (g)"]
    nodes += [f"g{i} = Gemm <transB = 1> (h{i}, w{i}) h{i + 1} = Relu (g{i})" for i in range(layers)]
    nodes += [f"y = Gemm <transB = 1> (h{layers}, last)"]
    signature = f"g (float[N, 3, {SIDE}, {SIDE}] x) => (float[N, {CLASSES}] y)"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {signature} {{ {" ".join(nodes)} }}')
    rng = np.random.default_rng(0)
    with path.with_suffix(".bin").open("wb") as stream:
        for name, shape in shapes.items():
            fan_in = int(np.prod(shape[1:]))
            weights = rng.standard_normal(shape, dtype=np.float32) * np.float32((2 / fan_in) ** 0.5)
            tensor = model.graph.initializer.add(name=name, dims=shape, data_type=TensorProto.FLOAT)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in {
                "location": f"{path.stem}.bin",
                "offset": stream.tell(),
                "length": weights.nbytes,
            }.items():
                tensor.external_data.add(key=key, value=str(value))
            stream.write(weights.tobytes())
    path.write_bytes(model.SerializeToString())
    return path.with_suffix(".bin").stat().st_size


def run(*arguments: object) -> None:
    """Run the installed command; print its seconds and its peak memory."""
    started = time.monotonic()
    process = subprocess.Popen([Path(sys.executable).with_name("basisprune"), *map(str, arguments), "-q"])
    # Of this child alone.
    _, status, usage = os.wait4(process.pid, 0)
    seconds, code = time.monotonic() - started, os.waitstatus_to_exitcode(status)
    print(f"{arguments[0]:<10} exit {code}  {seconds:6.0f} s  {usage.ru_maxrss / 2**20:5.1f} GiB at most", flush=True)
    if code not in (0, 3):
        sys.exit(f"basisprune {arguments[0]} failed")


def predict(path: Path, x: np.ndarray) -> np.ndarray:
    """Return onnxruntime's scores."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("--keep", type=float, default=0.9, help="fraction of the parameters")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where there is room; the system's for temporary files by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="basisprune-large-", dir=options.folder) as name:
        model, output = Path(name, "large.onnx"), Path(name, "small.onnx")
        size = write_model(model, options.layers, options.width)
        print(f"{size / GIB:.2f} GiB of weights")
        rng = np.random.default_rng(1)
        for file, count in (("calib", CALIBRATION_IMAGES), ("val", IMAGES)):
            np.savez(Path(name, f"{file}.npz"), x=rng.standard_normal((count, 3, SIDE, SIDE), dtype=np.float32))
        val = Path(name, "val.npz")
        run("inspect", model)
        run(
            "compress", model, "--data", Path(name, "calib.npz"), "--val", val, "-o", output,
            "--threads", options.threads, "--target-params", options.keep,
            "--recover", "none", "--allow-slower", "--no-cache", "--batch-size", 16,
        )  # fmt: skip
        run("evaluate", output, "--reference", model, "--data", val, "--threads", options.threads)
        run("benchmark", model, output, "--threads", options.threads, "--max-seconds", 20)
        written = [path for path in (output, output.with_name("small.onnx.data")) if path.exists()]
        print("written: " + ", ".join(f"{path.name} {path.stat().st_size / GIB:.2f} GiB" for path in written))
        x = np.load(val)["x"]
        agreement = float((predict(model, x).argmax(1) == predict(output, x).argmax(1)).mean())
        print(f"onnxruntime loads and runs it; {agreement:.0%} of {len(x)} images as before")


if __name__ == "__main__":
    main()
