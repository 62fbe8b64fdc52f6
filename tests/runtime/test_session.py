"""Sessions on small models, and the one-line errors for models and feeds that don't work."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_basisprune.errors import ConfigError, DataError, ModelError
from onnx_basisprune.planning.types import TensorSpec
from onnx_basisprune.runtime import run_watch
from onnx_basisprune.runtime.session import Session, find_provider


def build_model(signature: str, body: str = "y = MatMul (x, w)") -> bytes:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g {signature} <float[3, 2] w = {{1, 2, 3, 4, 5, 6}}> {{ {body} }}"""
    return onnx.parser.parse_model(text).SerializeToString()


DYNAMIC = build_model("(float[N, 3] x) => (float[N, 2] y)")
WEIGHT = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)


def draw_inputs(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)


def test_describes_inputs_and_outputs() -> None:
    session = Session(DYNAMIC, threads=1)
    assert session.inputs == (TensorSpec("x", "float32", (None, 3)),)
    assert session.outputs == (TensorSpec("y", "float32", (None, 2)),)
    assert session.fixed_batch is None


def test_overridable_initializers_are_no_inputs() -> None:
    session = Session(build_model("(float[N, 3] x, float[3, 2] w) => (float[N, 2] y)"))
    assert [spec.name for spec in session.inputs] == ["x"]


def test_runs_the_outputs_asked_for() -> None:
    model = build_model("(float[N, 3] x) => (float[N, 2] y, float[N, 2] z)", "y = MatMul (x, w) z = Neg (y)")
    x = draw_inputs(4)
    session = Session(model, threads=1)
    (z,) = session.run({"x": x}, ["z"])
    np.testing.assert_allclose(z, -x @ WEIGHT, rtol=1e-5, atol=1e-6)
    assert len(session.run({"x": x})) == 2
    np.testing.assert_allclose(session.predict(x, "z"), z, rtol=0, atol=0)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("n", [1, 4, 6, 8])
def test_fixed_batch_is_split_and_filled_up(batch: int, n: int) -> None:
    session = Session(build_model(f"(float[{batch}, 3] x) => (float[{batch}, 2] y)"), threads=1)
    assert session.fixed_batch == batch
    x = draw_inputs(n)
    np.testing.assert_allclose(session.predict(x), x @ WEIGHT, rtol=1e-5, atol=1e-6)


def test_casts_only_where_harmless() -> None:
    session = Session(DYNAMIC, threads=1)
    x = draw_inputs(2)
    np.testing.assert_allclose(session.predict(x.astype(np.float64)), session.predict(x), rtol=0, atol=0)
    images = np.arange(6, dtype=np.uint8).reshape(2, 3)
    np.testing.assert_allclose(session.predict(images), images @ WEIGHT, rtol=1e-6)
    whole = Session(build_model("(uint8[N, 3] x) => (float[N, 2] y)", "f = Cast <to = 1> (x) y = MatMul (f, w)"))
    with pytest.raises(DataError, match="float32, but input 'x' of the model takes uint8"):
        whole.predict(x)


def test_reads_external_data_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "split model ü.onnx"
    model = onnx.load_model_from_string(DYNAMIC)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(WEIGHT, "w"))
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size == WEIGHT.nbytes
    x = draw_inputs(3)
    np.testing.assert_allclose(Session(path).predict(x), x @ WEIGHT, rtol=1e-5, atol=1e-6)


def check_one_line(message: str) -> None:
    assert len(message.splitlines()) == 1
    assert "ONNXRuntimeError" not in message


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_refuses_what_is_no_model(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad\nname.onnx"
    with pytest.raises(ModelError, match="can't load it") as caught:
        Session(content)
    check_one_line(str(caught.value))
    with pytest.raises(ModelError, match=r"bad\\nname\.onnx': onnxruntime can't load it") as caught:
        Session(path)
    check_one_line(str(caught.value))


@pytest.mark.parametrize("threads", [4097, 10**30])
def test_refuses_more_threads_than_any_machine_has(threads: int) -> None:
    with pytest.raises(ConfigError, match="expected at most 4,096"):
        Session(DYNAMIC, threads=threads)


def test_names_the_missing_operator() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "foo" : 1]>
        g (float[N, 3] x) => (float[N, 3] y) { y = foo.Bar (x) }"""
    with pytest.raises(ModelError, match="Bar") as caught:
        Session(onnx.parser.parse_model(text).SerializeToString())
    check_one_line(str(caught.value))


def test_refuses_feeds_that_do_not_fit(capfd: pytest.CaptureFixture[str]) -> None:
    session = Session(DYNAMIC, threads=1)
    bad_feeds = [
        {},
        {"q": draw_inputs(1)},
        {"x": np.zeros((1, 4), np.float32)},
        {"x": np.zeros((1, 3), np.int64)},
    ]
    for feeds in bad_feeds:
        with pytest.raises(ModelError, match="can't run it") as caught:
            session.run(feeds)
        check_one_line(str(caught.value))
    with pytest.raises(ModelError, match="can't run it"):
        session.run({"x": draw_inputs(1)}, ["q"])
    with pytest.raises(DataError, match="No images"):
        session.predict(draw_inputs(0))
    assert capfd.readouterr().err == ""


def test_a_failing_kernel_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    # The reshape can't be done for every batch: it fails inside the run.
    model = build_model(
        "(float[N, 3] x) => (float[M, 7] y)", "s = Constant <value = int64[2] {-1, 7}> () y = Reshape (x, s)"
    )
    with pytest.raises(ModelError, match="can't run it"):
        Session(model).predict(draw_inputs(2))
    assert capfd.readouterr().err == ""


def test_refuses_outputs_without_a_row_per_image() -> None:
    baked = build_model(
        "(float[N, 3] x) => (float[1, M] y)", "s = Constant <value = int64[2] {1, -1}> () y = Reshape (x, s)"
    )
    with pytest.raises(ModelError, match=r"output 'y' has shape \(1, 6\) for a batch of 2"):
        Session(baked).predict(draw_inputs(2))


def test_refuses_to_predict_with_several_inputs() -> None:
    two = build_model("(float[N, 3] x, float[N, 3] q) => (float[N, 2] y)", "z = Add (x, q) y = MatMul (z, w)")
    with pytest.raises(ModelError, match="2 inputs \\('x', 'q'\\)"):
        Session(two).predict(draw_inputs(1))


@pytest.mark.parametrize("name", ["cpu", "CPU", "CPUExecutionProvider", "cpuexecutionprovider"])
def test_providers_are_found_by_short_and_long_names(name: str) -> None:
    assert find_provider(name) == "CPUExecutionProvider"
    assert len(Session(DYNAMIC, provider=name).predict(draw_inputs(2))) == 2


def test_an_unknown_provider_is_refused_with_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider", "Odd"])
    assert find_provider("cuda") == "CUDAExecutionProvider"
    assert find_provider("odd") == "Odd"
    for name in ("cpu", "", "Execution"):
        with pytest.raises(ConfigError, match="expected one of cuda, odd") as caught:
            Session(DYNAMIC, provider=name)
        check_one_line(str(caught.value))


def test_a_provider_that_does_not_work_here_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # A release built for a GPU offers its provider on any machine, and leaves it out where no driver is found.
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr("onnxruntime.InferenceSession.get_providers", lambda _: ["OtherExecutionProvider"])
    with pytest.raises(ConfigError, match="offers the execution provider CPUExecutionProvider, but can't use it"):
        Session(DYNAMIC)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("output", "body"), [
    ("float[2] y", "y = MatMul (x, w)"),
    ("float[1, 2] y", "z = Constant <value_ints = [0]> () r = Unsqueeze (x, z) y = MatMul (r, w)"),
])  # fmt: skip
def test_a_model_without_a_batch_axis_takes_one_example_at_a_time(output: str, body: str) -> None:
    session, x = Session(build_model(f"(float[3] x) => ({output})", body)), draw_inputs(4)
    np.testing.assert_allclose(session.predict(x), x @ WEIGHT, rtol=1e-6, atol=1e-6)  # float32 rounding


def build_loop(results: str, rest: str) -> bytes:
    """Return a model of a Loop whose condition stays true."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3] x) => (float[K, 3] y) {{
        {results} = Loop (, yes, x) <body = t (int64 i, bool go, float[K, 3] v) =>
            (bool again, float[K, 3] w{rest}> }}"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
    return model.SerializeToString()


ENDLESS = build_loop("y", ") { again = Identity (go) w = Neg (v) }")


def test_a_run_without_an_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_watch, "LONGEST_RUN_SECONDS", 0.2)
    session = Session(ENDLESS, threads=1)
    with pytest.raises(ModelError, match=r"^the model: one run took over 0.2 s, which is the limit") as caught:
        session.run({"x": draw_inputs(1)})
    assert "\n" not in str(caught.value)
    # The watch goes on, and lets the next run start afresh.
    with pytest.raises(ModelError, match="one run took over"):
        session.run({"x": draw_inputs(1)})
    other = Session(DYNAMIC, threads=1)
    for _ in range(3):
        other.run({"x": draw_inputs(2)})


def test_a_run_that_fills_the_memory_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_watch, "_LEAST_AVAILABLE", 1e6)  # more than any machine has
    with pytest.raises(MemoryError, match="next to no memory"):
        Session(ENDLESS, threads=1).run({"x": draw_inputs(1)})
