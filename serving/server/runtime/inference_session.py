"""Opens ONNX Runtime's InferenceSessions, with the requested execution providers and one memory arena for all sessions.
Reads a session's signature and operators, decides whether the operators survive an input with an axis of size 0, and
makes arrays for a session's inputs."""

import os
import threading
from collections.abc import Collection, Mapping, Set
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.signature import Signature, TensorSpec, UnsupportedModelError

VERSION: str = onnxruntime.__version__

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]

# NumPy's dtypes of these datatypes. For all other datatypes, the dtype is the datatype in lower case.
_DTYPES = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "object"}

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
BY_NAME = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}

_HINTS = {
    "cuda": "Check the driver with nvidia-smi, or use --provider cpu.",
    "tensorrt": "Install TensorRT's libraries in addition to CUDA's (pip install tensorrt), or use --provider cuda.",
}

# For an empty tensor, most operators return a result or an error. The operators below end the process (SIGABRT,
# SIGFPE, SIGSEGV) or never return if any axis of their input is empty. To find them, every operator of ONNX Runtime
# 1.32 was run with each axis empty. The tests repeat this for the operators that hangtag admits.
_FATAL = {
    *("ConvTranspose", "GRU", "InstanceNormalization", "LSTM", "RoiAlign", "STFT", "Unique"),
    "ai.onnx.ml.FeatureVectorizer",
}

_STANDARD = ("", "ai.onnx.ml")
# Outside the ONNX standard, only these operators are admitted. Quantized and optimised files use these operators. Many
# other operators, including transformer attention, crash on empty tensors.
_TRIED = {
    f"com.microsoft.{name}"
    for name in (
        *("BiasGelu", "DequantizeLinear", "DynamicQuantizeMatMul", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMul"),
        *("Gelu", "MatMulIntegerToFloat", "MatMulNBits", "NhwcMaxPool", "QGemm", "QLinearAdd", "QLinearConcat"),
        *("QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid", "QLinearSoftmax"),
        *("QLinearWhere", "QuantizeLinear", "QuickGelu"),
    )
}
# These operators crash only if their kernel or limit is empty. In a model with one input, both are constants.
_PARAMETRIC = {"Conv", "ConvInteger", "NonMaxSuppression", "QLinearConv", "com.microsoft.FusedConv"}

_preload_cuda = cache(onnxruntime.preload_dlls)
"""Loads CUDA's libraries from PyPI, once. ONNX Runtime would print missing libraries at each attempt."""
_lock = threading.Lock()

_COPY = (
    b"\x08\x08"  # ir_version 8
    b'\x12\x00:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01g'  # a graph g of one node, y = Identity(x)
    b"Z\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"  # input x: FLOAT [1]
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"  # output y: FLOAT [1]
    b"B\x04\n\x00\x10\x11"  # opset 17
)
"""An ONNX model that returns its input, one number, unchanged. Source: onnx.proto of ONNX 1.18."""


class Gpu(NamedTuple):
    """The GPU that computes, and the limit in MiB on a model's arena in the GPU's memory (0: no limit)."""

    device_id: int = 0
    mem_limit_mib: int = 0


def provider_list(
    provider: str, available: Collection[str], gpu: Gpu | None = None, *, cuda_graphs: bool = False
) -> list[tuple[str, dict[str, str]]]:
    """Return the names and options of the providers, in order of precedence, for ``cpu``, ``cuda`` or ``tensorrt``.
    Raises ModelLoadError if the installed ONNX Runtime lacks the provider."""
    if provider == "cpu":
        return [(CPU, {})]
    if BY_NAME[provider] not in available:
        raise ModelLoadError(
            f"the provider {provider} was requested, but this ONNX Runtime has only {', '.join(available)}. "
            "Install the GPU build (pip install '.[gpu]', without the package onnxruntime), or use --provider cpu."
        )
    gpu = gpu or Gpu()
    # By default the arena doubles whenever it grows, and a model takes up to twice the memory that it needs.
    cuda = {"device_id": str(gpu.device_id), "arena_extend_strategy": "kSameAsRequested"}
    tensorrt = {"device_id": str(gpu.device_id)}
    if gpu.mem_limit_mib:
        cuda["gpu_mem_limit"] = tensorrt["trt_max_workspace_size"] = str(gpu.mem_limit_mib << 20)
    if cuda_graphs:
        cuda["enable_cuda_graph"] = "1"
    # Operators that TensorRT lacks run on CUDA, and operators that CUDA lacks too run on the CPU.
    return [*([(TENSORRT, tensorrt)] if provider == "tensorrt" else []), (CUDA, cuda), (CPU, {})]


class SessionOpener:
    """Opens sessions of one model file. ``threads`` is the first session's intra_op_num_threads."""

    def __init__(self, path: Path, *, threads: int, gpu: Gpu) -> None:
        self.path, self._threads, self._gpu = path, threads, gpu

    def open(
        self, provider: str, *, threads: int | None = None, cuda_graphs: bool = False
    ) -> onnxruntime.InferenceSession:
        """Open a session of the file. Raises ModelLoadError if the provider is not available, or ONNX Runtime cannot
        load the file.

        ``threads`` is the number of threads of a second session, and None for the first session. The threads of a
        second session do not spin between two batches, because spinning would slow down other sessions. If a second
        session has as many threads as this process has CPUs, each thread runs on its own CPU.
        """
        available = onnxruntime.get_available_providers()
        requested = provider_list(provider, available, self._gpu, cuda_graphs=cuda_graphs)
        if provider != "cpu":
            _preload_cuda()
        with _lock:
            _shared_arena()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or self._threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.force_spinning_stop", "0" if threads is None else "1")
        cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        is_pinned = len(cpus) == threads
        if is_pinned:  # ONNX Runtime counts CPUs from 1
            affinities = ";".join(str(cpu + 1) for cpu in cpus[1:])
            options.add_session_config_entry("session.intra_op_thread_affinities", affinities)
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.log_severity_level = 4  # fatal errors only, because ONNX Runtime raises all other errors
        try:
            # The fallback of ONNX Runtime would print to standard output, and continue with another provider.
            kind = _PinnedSession if is_pinned else onnxruntime.InferenceSession
            session = kind(self.path, options, providers=requested, enable_fallback=0)
        except Exception as error:
            raise ModelLoadError(f"{self.path} cannot be loaded by ONNX Runtime {VERSION}: {error}") from error
        if is_pinned:
            session.cpus = cpus
        obtained = session.get_providers()[0]
        if obtained != BY_NAME[provider]:
            problem = f"the provider {provider} was requested, but ONNX Runtime uses {obtained}"
            raise ModelLoadError(f"{self.path}: {problem}. {_HINTS[provider]}")
        return session


class _PinnedSession(onnxruntime.InferenceSession):  # type: ignore[misc]  # the base class has no types
    """A session whose threads, including the thread that calls ``run``, each have a CPU of their own. Otherwise the
    kernel often runs two threads on one CPU for milliseconds while another CPU is idle."""

    cpus: list[int]
    """All CPUs of the process. The thread that calls ``run`` uses the first CPU."""

    def run(self, *arguments: Any) -> Any:
        _move_this_thread(self.cpus[:1])
        try:
            return super().run(*arguments)
        finally:
            _move_this_thread(self.cpus)


def _move_this_thread(cpus: list[int]) -> None:
    with suppress(OSError):  # if the process has lost these CPUs, the kernel chooses the thread's CPU
        os.sched_setaffinity(0, cpus)


def read_signature(
    session: onnxruntime.InferenceSession, path: Path, batching_override: bool | None = None
) -> Signature:
    """Return the model's inputs, outputs and metadata. Raises ModelLoadError if hangtag cannot serve such a model."""
    try:
        return Signature.from_onnx(
            [TensorSpec.from_onnx(node.name, node.type, node.shape) for node in session.get_inputs()],
            [TensorSpec.from_onnx(node.name, node.type, node.shape) for node in session.get_outputs()],
            session.get_modelmeta().custom_metadata_map,
            batching_override,
        )
    except UnsupportedModelError as error:
        raise ModelLoadError(f"{path}: {error}") from error
    # ONNX Runtime loads a file with text that is not UTF-8, and raises this error when the text is read
    except UnicodeDecodeError as error:
        raise ModelLoadError(f"{path}: a name or a text in the metadata is not UTF-8: {error}") from error


def operators(session: onnxruntime.InferenceSession) -> set[str]:
    """Return the operators of the optimised graph, its subgraphs and functions. A domain other than ai.onnx is a
    prefix, as in com.microsoft.FusedConv. Empty if this version of ONNX Runtime does not report operators."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return set()
    nodes = [node for part in session.get_provider_graph_assignment_info() for node in part.get_nodes()]
    return {node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}" for node in nodes}


def graph_options(number: int) -> onnxruntime.RunOptions:
    """Return run options that capture a CUDA graph under this ID, and later replay it. With -1, no graph is used."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    return options


def no_empty_tensor_because(operators: Set[str], signature: Signature, provider: str) -> str:
    """Return why no input of a model with these operators may be an empty tensor, or "" if inputs may be empty."""
    if provider != CPU:
        return f"what {provider} does with an empty tensor is not known"
    if not operators:
        return "this version of ONNX Runtime does not report the model's operators"
    untried = {operator for operator in operators - _TRIED if operator.rpartition(".")[0] not in _STANDARD}
    fatal = sorted((operators & _FATAL) | untried)
    if fatal:
        return f"ONNX Runtime can end the process on an empty tensor in a model with {', '.join(fatal)}"
    parametric = sorted(operators & _PARAMETRIC)
    if parametric and sum(bool(spec.shape) for spec in signature.inputs) > 1:
        return f"an input may be a parameter of {parametric[0]}, and ONNX Runtime crashes if that parameter is empty"
    return ""


def shrink_arena() -> None:
    """Free the part of the arena that no session uses now, in less than 1 ms. Each new version of a model leaves free
    gaps that are too small for the next large batch, so the arena of a server whose models are replaced again and again
    would grow for hours. ONNX Runtime frees memory only at the end of a computation whose options request this."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    with _lock:
        session = _shared_arena()
    session.run(None, {"x": np.zeros(1, np.float32)}, options)


@cache
def _shared_arena() -> onnxruntime.InferenceSession:
    """Register a memory pool ("arena") for all sessions, once. Return a session that uses the pool, and whose model
    only copies a number. Callers must hold ``_lock``. The pool grows by the requested size (kSameAsRequested, 1),
    because doubling would keep unused memory."""
    onnxruntime.create_and_register_allocator(
        onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
        ),
        onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1}),
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.use_env_allocators", "1")
    return onnxruntime.InferenceSession(_COPY, options, providers=[CPU])


def dtype_of(spec: TensorSpec) -> np.dtype[Any]:
    return np.dtype(_DTYPES.get(spec.datatype, spec.datatype.lower()))


def shape_of(spec: TensorSpec, samples: int) -> tuple[int, ...]:
    """Return the shape of a batch, with size 1 along every free axis after the first."""
    return tuple((1 if place else samples) if size is None else size for place, size in enumerate(spec.shape))


def zeros(signature: Signature, samples: int) -> dict[str, Array]:
    """Return zeros for each input. Strings are "0", because a model may parse them as numbers."""
    batch = {spec.name: np.zeros(shape_of(spec, samples), dtype_of(spec)) for spec in signature.inputs}
    for array in batch.values():
        if array.dtype == np.object_:
            array[...] = "0"
    return batch


def random_batch(signature: Signature, samples: int, seed: int) -> Tensors:
    """Return random values for each input: floats from 0 to 1, any byte for UINT8, and 0 or 1 for all other datatypes,
    because these values may be indices."""
    generator, batch = np.random.default_rng(seed), {}
    for spec in signature.inputs:
        shape, dtype = shape_of(spec, samples), dtype_of(spec)
        below = 256 if dtype == np.uint8 else 2
        values = generator.random(shape) if dtype.kind == "f" else generator.integers(0, below, shape)
        batch[spec.name] = values.astype(dtype)
    return batch
