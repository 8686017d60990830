"""ONNX Runtime, and the only module that knows it: one session, which runs one batch at a time per caller."""

import contextlib
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy.typing as npt

from hangtag.serving.server.errors import InferenceError, InvalidValuesError, ModelLoadError
from hangtag.serving.server.runtime import providers
from hangtag.serving.server.runtime.arrays import dtype_of as dtype_of
from hangtag.serving.server.runtime.arrays import zeros
from hangtag.serving.server.runtime.batch_buckets import bucket_sizes, doubt, shape_of
from hangtag.serving.server.runtime.io_binding import BoundSession, Buffers, FixedBuffers, OneThreadSession, Staging
from hangtag.serving.server.runtime.onnx_runtime import VERSION as VERSION
from hangtag.serving.server.runtime.onnx_runtime import onnxruntime
from hangtag.serving.server.runtime.pinned_memory import PinnedMemory
from hangtag.serving.server.runtime.providers import CPU, CUDA, Gpu, Provider
from hangtag.serving.server.runtime.verification import Proof, seconds
from hangtag.serving.signature import Signature, TensorSpec, UnsupportedModelError

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]

# One pool of memory for all sessions: each would keep its own for the largest batch it ever saw. It grows by what is
# asked for (kSameAsRequested), not by doubling, which keeps what nobody uses.
onnxruntime.create_and_register_allocator(
    onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    ),
    onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1}),
)

# A sample that takes longer than this may be worth several threads, if they make it so much faster.
_WIDE_SECONDS = 0.0002
_WIDE_GAIN = 0.85
# Captured graphs are kept where batches take less than this of their time without, hand-over to a thread included.
_GRAPHS_GAIN = 0.95
# ONNX Runtime's recurrent kernels for CUDA copy lengths from the host in every run, which no graph can hold.
_RECURRENT = {"LSTM", "GRU", "RNN"}


class Runtime:
    """A loaded model. ``run`` may be called from several threads at once; it releases the GIL while it computes."""

    alone_threads: int = 0
    """Threads of a second session for batches that are computed alone; 0: there is none."""
    cuda_graphs: bool = False
    """Whether batches are computed by CUDA graphs that were captured."""
    requested_provider: str = "auto"

    _counting = threading.Lock()
    _wide: onnxruntime.InferenceSession | None = None
    _running = 0  # batches that are computed now, by whichever model of this process
    _bound: BoundSession | None = None
    _run_options: onnxruntime.RunOptions | None = None

    def __init__(
        self,
        path: Path,
        *,
        provider: str = "auto",
        threads: int = 1,
        batching_override: bool | None = None,
        gpu: Gpu | None = None,
    ) -> None:
        """Load a model file.

        provider: ``cpu``, ``cuda`` or ``tensorrt`` (errors when they cannot be had), or ``auto`` (CUDA where it can be
        had, else CPU). threads: ONNX Runtime's intra_op_num_threads.
        batching_override: whether requests may be joined, whatever the file says; None leaves it to the file.
        Raises ModelLoadError when the file cannot be loaded or the provider cannot be had.
        """
        self._path, self.threads, self._gpu = path, threads, gpu or Gpu()
        self.requested_provider = provider
        self.notes: dict[str, str] = {}
        """What is done without, and why: for the log."""
        self._session = self._open(provider)
        self.file_bytes = path.stat().st_size  # what the weights take in memory, about
        self.provider: str = self._session.get_providers()[0]
        self._device = ("cpu", 0) if self.on_cpu else ("cuda", self._gpu.device_id)
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
        return self.provider == CPU

    def run(self, inputs: Tensors, *, alone: bool = False) -> dict[str, Array]:
        """Every output for these inputs, by name. Raises InferenceError when ONNX Runtime fails, and
        InvalidValuesError when the inputs are why: it says so, or goes on computing others.

        alone: no other batch of this model waits or is computed. If none of any other model is computed either, all
        threads may work on this one.
        """
        with Runtime._counting:
            Runtime._running += 1
            session = self._wide if alone and self._wide and Runtime._running == 1 else self._session
        try:
            if self._bound is not None and self._bound.takes(inputs):
                # Why a run with IO binding failed ONNX Runtime tells in words alone. The session tells it by the error.
                with contextlib.suppress(Exception):
                    return self._bound.run(inputs)
            return self._ordinary(inputs, session)
        except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            raise InvalidValuesError(f"ONNX Runtime refuses the values in the request: {error}") from error
        except Exception as error:  # ONNX Runtime's exceptions have no public base class
            if self._is_for_these_alone(error):
                raise InvalidValuesError(f"ONNX Runtime cannot compute what is in the request: {error}") from error
            raise InferenceError(f"ONNX Runtime failed: {error}") from error
        finally:
            with Runtime._counting:
                Runtime._running -= 1

    def widen(self, threads: int) -> None:
        """Load the model a second time, with so many threads for a batch that is computed alone, if that pays.

        Many calls in flight are served best by instances of one thread each, one call by all threads together. Both are
        timed here on one sample, and the second session is kept only when it is clearly faster.
        """
        inputs = {spec.name: zeros(spec, 1) for spec in self.signature.inputs}
        try:
            narrow = seconds(lambda inputs: self._session.run(None, inputs), [inputs])
            if narrow < _WIDE_SECONDS:
                return
            wide = _session(self._path, providers.wanted("cpu", ()), threads)
            if seconds(lambda inputs: wide.run(None, inputs), [inputs]) > _WIDE_GAIN * narrow:
                return
        except Exception:  # it does not compute zeros, which warm_up has judged
            return
        self._wide = wide
        self.alone_threads = threads

    def bind(self, largest: int, *, slots: int, cuda_graphs: str = "off") -> None:
        """From now on use IO binding, from page-locked memory, for batches of up to the largest size. And CUDA graphs
        where they are asked for: one is captured for each of a few sizes, to which batches are padded.

        slots: how many batches may be computed at once. cuda_graphs: ``off``, ``on``, or ``auto``: where they are
        faster. What cannot be had, or does not answer as the session does, is done without, and ``notes`` says why.
        """
        dtypes = {spec.name: dtype_of(spec) for spec in self.signature.inputs}
        proof = Proof(self.signature, dtypes, self._ordinary)
        bound, why = proof.tried(lambda: BoundSession([largest], self._staging, slots=slots))
        if bound is None:
            self.notes["no_io_binding"] = why
            return
        self._bound = bound
        if cuda_graphs == "off":
            return
        graphs, why = proof.tried(lambda: self._graphs(bucket_sizes(largest)))
        if graphs is not None and cuda_graphs == "auto" and not proof.gains(graphs, bound, _GRAPHS_GAIN):
            graphs, why = None, "they are not faster here"
        if graphs is None:
            self.notes["no_cuda_graphs"] = why
            return
        # One of the two sessions on the device is enough; what has no graph is computed by this one without.
        self._session, self._bound, self._run_options = graphs.session, graphs, _graph(-1)
        self.cuda_graphs = True

    def _ordinary(self, inputs: Tensors, session: onnxruntime.InferenceSession | None = None) -> dict[str, Array]:
        outputs = (session or self._session).run(self._output_names, dict(inputs), self._run_options)
        return dict(zip(self._output_names, outputs, strict=True))

    def _is_for_these_alone(self, error: Exception) -> bool:
        """Sizes and values that do not fit together (axes to be added, the shape to reshape to) mostly end as a plain
        failure, like much else. So zeros, which were computed when the model was loaded, are computed once more."""
        if "alloc" in str(error):  # memory ran out, for whatever reason
            return False
        try:
            self._ordinary({spec.name: zeros(spec, 1) for spec in self.signature.inputs})
        except Exception:
            return False
        return True

    def _graphs(self, sizes: Sequence[int]) -> OneThreadSession:
        """Raises ModelLoadError where no graph can be captured, as far as that is known before it is tried."""
        if self.provider != CUDA:
            raise ModelLoadError(f"they are {CUDA}'s, not {self.provider}'s")
        recurrent = sorted(_RECURRENT & _operators(self._session))
        if recurrent:
            raise ModelLoadError(f"the model has {', '.join(recurrent)}, which reads the host's memory in every run")
        session = self._new_session("cuda", cuda_graphs=True)

        def values(specs: Sequence[TensorSpec], size: int) -> dict[str, onnxruntime.OrtValue]:
            make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
            return {spec.name: make(shape_of(spec, size), dtype_of(spec).type, *self._device) for spec in specs}

        def make(size: int) -> Buffers:
            inputs, outputs = values(self.signature.inputs, size), values(self.signature.outputs, size)
            return FixedBuffers(session, _graph(1 + sizes.index(size)), self._hosts(size), inputs, outputs)

        return OneThreadSession(sizes, make, session=session, name=self._path.parts[-3])

    def _staging(self, size: int) -> Buffers:
        """Raises ModelLoadError where batches have no fixed sizes."""
        problem = doubt(self.signature)
        if problem:
            raise ModelLoadError(problem)
        return Staging(self._session, self._hosts(size), self._output_names, self._device)

    def _hosts(self, size: int) -> dict[str, Array]:
        memory = PinnedMemory("" if self.on_cpu else onnxruntime.cuda_version)
        specs = self.signature.inputs
        hosts = {spec.name: memory.zeros(shape_of(spec, size), dtype_of(spec)) for spec in specs}
        if memory.problem and not self.on_cpu:
            self.notes["not_page_locked"] = memory.problem
        return hosts

    def _open(self, provider: str) -> onnxruntime.InferenceSession:
        if provider == "auto":
            if CUDA in onnxruntime.get_available_providers():
                try:
                    return self._obtained("cuda")
                except ModelLoadError as error:
                    self.notes["no_cuda"] = str(error)
            provider = "cpu"
        return self._obtained(provider)

    def _obtained(self, provider: str) -> onnxruntime.InferenceSession:
        session = self._new_session(provider)
        obtained = session.get_providers()[0]
        if obtained != providers.BY_NAME[provider]:
            raise ModelLoadError(f"{self._path}: {providers.not_obtained(provider, obtained)}")
        return session

    def _new_session(self, provider: str, *, cuda_graphs: bool = False) -> onnxruntime.InferenceSession:
        wanted = providers.wanted(provider, onnxruntime.get_available_providers(), self._gpu, cuda_graphs=cuda_graphs)
        if provider != "cpu":
            _load_cuda()
        return _session(self._path, wanted, self.threads)

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Run zeros once at each batch size, so that no caller pays for first allocations. Other free axes get size 1.

        Raises ModelLoadError for a model that loads but cannot compute.
        """
        for size in batch_sizes if self.signature.batched else [1]:
            inputs = {spec.name: zeros(spec, size) for spec in self.signature.inputs}
            try:
                self.run(inputs)
            except InferenceError as error:
                if not self.signature.batched or any(None in spec.shape[1:] for spec in self.signature.inputs):
                    return  # zeros of size 1 are a guess; what callers send may still be computed
                shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
                raise ModelLoadError(f"{self._path} loads, but fails on zeros ({shapes}): {error}") from error


def _session(path: Path, wanted: list[Provider], threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 4  # fatal: errors are raised as well, and are said once, in our own log
    try:
        # Without its fallback, which prints to standard output and goes on with another provider.
        return onnxruntime.InferenceSession(path, options, providers=wanted, enable_fallback=0)
    except Exception as error:
        raise ModelLoadError(f"{path} cannot be loaded by ONNX Runtime {VERSION}: {error}") from error


@cache
def _load_cuda() -> None:
    """CUDA's libraries may come from PyPI instead of from the system. What is not found is printed, so once."""
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()


def _operators(session: onnxruntime.InferenceSession) -> set[str]:
    """Of the nodes as they are computed; none where this ONNX Runtime does not tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return set()
    return {node.op_type for part in session.get_provider_graph_assignment_info() for node in part.get_nodes()}


def _graph(number: int) -> onnxruntime.RunOptions:
    """Options that capture or replay a graph; -1: neither."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    return options
