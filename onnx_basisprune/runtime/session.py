"""The one place that builds onnxruntime sessions: everything measured here runs through `Session`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.errors import ConfigError, DataError, ModelError, is_out_of_memory, quote
from onnx_basisprune.planning.types import TensorSpec
from onnx_basisprune.runtime.fed_inputs import list_free, resolve_feeds
from onnx_basisprune.runtime.run_watch import RunWatch

CPU = "cpu"
_PROVIDER_SUFFIX = "ExecutionProvider"

# onnxruntime's element types whose numpy name isn't what stands between the brackets of "tensor(...)".
_NUMPY_NAMES = {"float": "float32", "double": "float64", "string": "str"}
# Only fatal messages: whatever else goes wrong is raised, and comes out as one line of ours.
_LOG_FATAL = 4
# More than any machine has cores; each one takes memory, and onnxruntime starts as many as it is told.
_MOST_THREADS = 4096


def find_provider(name: str) -> str:
    """Return onnxruntime's own name of an execution provider.

    Args:
        name: Such as `cpu`, `CUDA` or `CUDAExecutionProvider`, in any case.

    Raises:
        ConfigError: The installed onnxruntime doesn't offer it.
    """
    import onnxruntime

    offered: list[str] = onnxruntime.get_available_providers()
    for provider in offered:
        if name.lower() in (provider.lower(), provider.removesuffix(_PROVIDER_SUFFIX).lower()):
            return provider
    known = ", ".join(sorted(provider.removesuffix(_PROVIDER_SUFFIX).lower() for provider in offered))
    raise ConfigError(
        f"The installed onnxruntime has no execution provider {quote(name)}; expected one of {known}; choose "
        "one of these, or install the onnxruntime package that offers it."
    )


class Session:
    """An ONNX model, loaded into onnxruntime; subnormal numbers count as zero in it.

    Args:
        model: The serialized model, or its file (needed where weights lie in files beside it).
        threads: Threads inside one operator; `None` leaves the choice to onnxruntime.
        provider: Execution provider, see `find_provider`; what it can't run goes to the CPU.
        spin_between_runs: Whether the threads go on waiting busily after a run, as they do by default. Where
            several sessions take turns, they then fight for the cores.
        feed: What inputs beside the images are fed in every run, see `resolve_feeds`.
        profile_prefix: Where onnxruntime's profiler writes, without the end of the name; `None` for no profile.

    Attributes:
        inputs: What `run` must be fed; neither initializers that may be overridden nor what `feed` names.
        outputs: What `run` returns by default, in this order.
        fixed_batch: The first input's first dimension where the model fixes it, else `None`.

    Raises:
        ConfigError: The execution provider isn't offered, or doesn't work on this machine; the threads are too many;
            `feed` doesn't fit.
        ModelError: onnxruntime can't read the model or has no kernel for one of its operators.
    """

    def __init__(
        self,
        model: bytes | Path,
        *,
        threads: int | None = None,
        provider: str = CPU,
        spin_between_runs: bool = True,
        feed: Sequence[str] = (),
        profile_prefix: Path | None = None,
    ) -> None:
        import onnxruntime

        if threads is not None and threads > _MOST_THREADS:
            raise ConfigError(f"--threads is {threads:,}; expected at most {_MOST_THREADS:,}.")
        self._label = "the model" if isinstance(model, bytes) else quote(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = _LOG_FATAL
        options.add_session_config_entry("session.force_spinning_stop", "0" if spin_between_runs else "1")
        # Subnormals slow a CPU down tenfold. For the pool's threads that holds session by session, for the
        # calling thread the first session of the process decides: `flushes_subnormals` tells.
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        if profile_prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile_prefix)
        source = model if isinstance(model, bytes) else str(model)
        wanted = find_provider(provider)
        _cache_float_limits()
        with self._explained("onnxruntime can't load it", "check the file with onnx.checker"):
            # By default a provider that fails is replaced, with prints to stdout.
            self._session = onnxruntime.InferenceSession(source, options, providers=[wanted], enable_fallback=0)
        if wanted not in self._session.get_providers():
            raise ConfigError(
                f"onnxruntime offers the execution provider {wanted}, but can't use it on this machine (a driver or "
                f"library is missing); install what it needs, or choose {CPU}."
            )
        self._run_options = onnxruntime.RunOptions()
        self._run_options.log_severity_level = _LOG_FATAL
        self._watch = RunWatch(self._run_options)
        inputs = tuple(_describe_tensor(value) for value in self._session.get_inputs())
        self._fed = resolve_feeds(feed, inputs)
        self.inputs = list_free(inputs, self._fed)
        self.outputs = tuple(_describe_tensor(value) for value in self._session.get_outputs())
        shape = self.inputs[0].shape if self.inputs else None
        self.fixed_batch = shape[0] if shape else None

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """Run the model once.

        Args:
            feeds: An array for every one of `inputs`, by name.
            outputs: Names of the outputs wanted; `None` for all of them.

        Returns:
            One array per output, in the order asked for.

        Raises:
            ModelError: The feeds don't fit the inputs, an output doesn't exist, a kernel fails, or it takes longer than
                `LONGEST_RUN_SECONDS`.
            MemoryError: Memory doesn't suffice.
        """
        names = None if outputs is None else list(outputs)
        feeds = dict(feeds)
        if self._fed:
            count = len(next(iter(feeds.values())))
            feeds.update((item.name, item.make_batch(count)) for item in self._fed)
        self._watch.begin()
        try:
            with self._explained("onnxruntime can't run it", "check the input's shape and type"):
                results: list[NDArray[Any]] = self._session.run(names, feeds, self._run_options)
        except ModelError as error:
            self._watch.explain(self._label, error)
            raise
        finally:
            self._watch.end()
        return results

    def end_profiling(self) -> Path:
        """Return the file that the profiler wrote, complete now; only where `profile_prefix` was given."""
        return Path(self._session.end_profiling())

    def predict(self, x: NDArray[Any], output: str | None = None) -> NDArray[Any]:
        """Run a model of one input on any number of examples.

        A model without a batch axis gets them one by one. One with a fixed batch gets them in pieces of that size;
        the last one is filled up by repeating the last example, and what the fillers gave is cut off.

        Args:
            x: `[n, ...]`; cast to the input's type where that is harmless (float64 to float16, say).
            output: The output wanted; `None` for the first.

        Returns:
            `[n, ...]`.

        Raises:
            DataError: `x` is empty or its type can't become the input's.
            ModelError: The model has several inputs, rejects the shape, or its output has no row per example.
        """
        name = self.outputs[0].name if output is None else output
        x = self._fit_input(x)
        shape = self.inputs[0].shape
        if shape is not None and len(shape) == x.ndim - 1:
            return np.stack([self._drop_batch(self.run({self.inputs[0].name: image}, [name])[0]) for image in x])
        size = self.fixed_batch or len(x)
        pieces = []
        for start in range(0, len(x), size):
            piece = x[start : start + size]
            rows = len(piece)
            if rows < size:
                piece = np.concatenate([piece, np.repeat(piece[-1:], size - rows, axis=0)])
            result = self.run({self.inputs[0].name: piece}, [name])[0]
            shape = result.shape if isinstance(result, np.ndarray) else None
            if not shape or shape[0] != size:
                raise ModelError(
                    f"{self._label}: output {quote(name)} has shape {shape} for a batch of {size}; expected "
                    "its first dimension to be the batch; export the model with a dynamic batch, or choose "
                    "the output that holds the class scores."
                )
            pieces.append(result[:rows])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    @staticmethod
    def _drop_batch(result: NDArray[Any]) -> NDArray[Any]:
        """Return one image's output without a batch axis of 1, which it may have though the input has none."""
        return result[0] if result.ndim > 1 and result.shape[0] == 1 else result

    def _fit_input(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return `x` contiguous and in the only input's type; see `predict` for what is refused."""
        if len(self.inputs) != 1:
            names = ", ".join(quote(spec.name) for spec in self.inputs)
            raise ModelError(
                f"{self._label} has {len(self.inputs)} inputs ({names}); expected the images only; give "
                "each of the others a value by --feed NAME=VALUE."
            )
        if x.ndim == 0 or len(x) == 0:
            raise DataError(f"No images to run {self._label} on: got shape {x.shape}; expected at least one.")
        try:
            dtype = np.dtype(self.inputs[0].dtype)
        except TypeError:
            return x  # a type numpy doesn't know (bfloat16): onnxruntime says what it wants
        if not np.can_cast(x.dtype, dtype, "same_kind"):
            raise DataError(
                f"Images are {x.dtype}, but input {quote(self.inputs[0].name)} of {self._label} takes "
                f"{dtype}; feed {dtype}."
            )
        return np.ascontiguousarray(x, dtype=dtype)

    @contextmanager
    def _explained(self, problem: str, remedy: str) -> Iterator[None]:
        """Turn onnxruntime's exceptions into a `ModelError` of one line."""
        try:
            yield
        except _list_error_kinds() as error:
            if is_out_of_memory(error):
                raise MemoryError(str(error)) from error
            # A message opens with "[ONNXRuntimeError] : 1 : FAIL : ".
            reason = " ".join(str(error).split(" : ", 3)[-1].split())
            raise ModelError(f"{self._label}: {problem}: {quote(reason)}; {remedy}.") from error


def flushes_subnormals() -> bool:
    """Return whether the calling thread counts numbers below a type's normal range as zero."""
    return bool(np.float32(np.finfo(np.float32).tiny) * np.float32(0.5) == 0)


def _cache_float_limits() -> None:
    """Have numpy find out its types' limits now: where subnormals are flushed, older releases warn about them."""
    for kind in (np.float16, np.float32, np.float64):
        np.finfo(kind)


def _list_error_kinds() -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises; which classes there are differs between its releases."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    # They have no common base but Exception.
    members = vars(state).values()
    kinds = [kind for kind in members if isinstance(kind, type) and issubclass(kind, Exception)]
    return (ValueError, RuntimeError, *kinds)


def _describe_tensor(value: Any) -> TensorSpec:
    """Return an onnxruntime NodeArg as a `TensorSpec`."""
    kind: str = value.type
    if kind.startswith("tensor(") and kind.endswith(")"):
        element = kind[len("tensor(") : -1]
        kind = _NUMPY_NAMES.get(element, element)
    # onnxruntime hands out [] both for a scalar and where the number of dimensions is unknown; as nothing
    # here works on scalars, [] means unknown.
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorSpec(value.name, kind, shape or None)
