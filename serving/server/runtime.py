"""ONNX Runtime, and the only module that knows it: one session, which runs one batch at a time per caller."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Official Linux builds since 1.29 send telemetry unless this is set before the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from serving.server.errors import InferenceError, InvalidValuesError, ModelLoadError
from serving.signature import Signature, TensorSpec, UnsupportedModelError

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]

VERSION: str = onnxruntime.__version__
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# ONNX Runtime's dtype for each datatype; every other datatype is numpy's own name in lower case.
_DTYPES = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "object"}


# One pool of memory for all sessions: each would keep its own for the largest batch it ever saw.
onnxruntime.create_and_register_allocator(
    onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    ),
    None,
)

# A sample that takes longer than this may be worth several threads, if they make it so much faster.
_WIDE_SECONDS = 0.0002
_WIDE_GAIN = 0.85
_WIDE_RUNS = 7


class Runtime:
    """A loaded model. ``run`` may be called from several threads at once; it releases the GIL while it computes."""

    alone_threads: int = 0
    """Threads of a second session for batches that are computed alone; 0: there is none."""

    _counting = threading.Lock()
    _wide: onnxruntime.InferenceSession | None = None
    _running = 0  # batches that are computed now, by whichever model of this process

    def __init__(
        self, path: Path, *, provider: str = "auto", threads: int = 1, batching_override: bool | None = None
    ) -> None:
        """Load a model file.

        provider: ``cpu``, ``cuda`` (an error when it cannot be had), or ``auto`` (CUDA where it can be had, else CPU).
        threads: ONNX Runtime's intra_op_num_threads.
        batching_override: whether requests may be joined, whatever the file says; None leaves it to the file.
        Raises ModelLoadError when the file cannot be loaded or the provider cannot be had.
        """
        self._path = path
        self._session = _session(path, provider, threads)
        self.file_bytes = path.stat().st_size  # what the weights take in memory, about
        self.provider: str = self._session.get_providers()[0]
        if provider == "cuda" and self.provider != _PROVIDERS["cuda"]:
            raise ModelLoadError(
                f"{path}: CUDA was asked for and ONNX Runtime gave {self.provider}. "
                "Check the driver with nvidia-smi, or use --provider cpu."
            )
        try:
            self.signature = Signature.from_onnx(
                [TensorSpec.from_onnx(node.name, node.type, node.shape) for node in self._session.get_inputs()],
                [TensorSpec.from_onnx(node.name, node.type, node.shape) for node in self._session.get_outputs()],
                self._session.get_modelmeta().custom_metadata_map,
                batching_override,
            )
        except UnsupportedModelError as error:
            raise ModelLoadError(f"{path}: {error}") from error
        self._output_names = [spec.name for spec in self.signature.outputs]

    @property
    def on_cpu(self) -> bool:
        return self.provider == _PROVIDERS["cpu"]

    def run(self, inputs: Tensors, *, alone: bool = False) -> dict[str, Array]:
        """Every output for these inputs, by name. Raises InferenceError when ONNX Runtime fails, and
        InvalidValuesError when it says that the inputs' values are why.

        alone: no other batch of this model waits or is computed. If none of any other model is computed either, all
        threads may work on this one.
        """
        with Runtime._counting:
            Runtime._running += 1
            session = self._wide if alone and self._wide and Runtime._running == 1 else self._session
        try:
            outputs = session.run(self._output_names, dict(inputs))
        except InvalidArgument as error:
            raise InvalidValuesError(f"ONNX Runtime refuses the values in the request: {error}") from error
        except Exception as error:  # ONNX Runtime's exceptions have no public base class
            raise InferenceError(f"ONNX Runtime failed: {error}") from error
        finally:
            with Runtime._counting:
                Runtime._running -= 1
        return dict(zip(self._output_names, outputs, strict=True))

    def widen(self, threads: int) -> None:
        """Load the model a second time, with so many threads for a batch that is computed alone, if that pays.

        Many calls in flight are served best by instances of one thread each, one call by all threads together. Both are
        timed here on one sample, and the second session is kept only when it is clearly faster.
        """
        inputs = {spec.name: _zeros(spec, 1) for spec in self.signature.inputs}
        try:
            narrow = _seconds(self._session, inputs)
            if narrow < _WIDE_SECONDS:
                return
            wide = _session(self._path, "cpu", threads)
            if _seconds(wide, inputs) > _WIDE_GAIN * narrow:
                return
        except Exception:  # it does not compute zeros, which warm_up has judged
            return
        self._wide = wide
        self.alone_threads = threads

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Run zeros once at each batch size, so that no caller pays for first allocations. Other free axes get size 1.

        Raises ModelLoadError for a model that loads but cannot compute.
        """
        for size in batch_sizes if self.signature.batched else [1]:
            inputs = {spec.name: _zeros(spec, size) for spec in self.signature.inputs}
            try:
                self.run(inputs)
            except InferenceError as error:
                if not self.signature.batched or any(None in spec.shape[1:] for spec in self.signature.inputs):
                    return  # zeros of size 1 are a guess; what callers send may still be computed
                shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
                raise ModelLoadError(f"{self._path} loads, but fails on zeros ({shapes}): {error}") from error


def _session(path: Path, provider: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.log_severity_level = 4  # fatal: errors are raised as well, and are said once, in our own log
    try:
        return onnxruntime.InferenceSession(path, options, providers=_providers(provider))
    except ModelLoadError:
        raise
    except Exception as error:
        raise ModelLoadError(f"{path} cannot be loaded by ONNX Runtime {VERSION}: {error}") from error


def _seconds(session: onnxruntime.InferenceSession, inputs: Tensors) -> float:
    """The shortest of several runs: what else the machine did meanwhile does not count."""
    times = []
    for _ in range(_WIDE_RUNS):
        started = time.perf_counter()
        session.run(None, dict(inputs))
        times.append(time.perf_counter() - started)
    return min(times)


def dtype_of(spec: TensorSpec) -> np.dtype[Any]:
    """What numpy calls the datatype of an input or output."""
    return np.dtype(_DTYPES.get(spec.datatype, spec.datatype.lower()))


def _providers(provider: str) -> list[str]:
    available = onnxruntime.get_available_providers()
    if provider == "cpu" or (provider == "auto" and _PROVIDERS["cuda"] not in available):
        return [_PROVIDERS["cpu"]]
    if _PROVIDERS["cuda"] not in available:
        raise ModelLoadError(
            f"CUDA was asked for and this ONNX Runtime has only {', '.join(available)}. "
            "Install the GPU build (pip install '.[gpu]', without onnxruntime beside it), or use --provider cpu."
        )
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA's libraries may come from PyPI instead of from the system
    return [_PROVIDERS["cuda"], _PROVIDERS["cpu"]]


def _zeros(spec: TensorSpec, batch_size: int) -> Array:
    shape = [1 if size is None else size for size in spec.shape]
    if spec.shape and spec.shape[0] is None:
        shape[0] = batch_size
    dtype = dtype_of(spec)
    return np.full(shape, "", dtype) if spec.datatype == "BYTES" else np.zeros(shape, dtype)
