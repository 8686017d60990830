"""A loaded model that computes batches: ``Runtime``, the facade over ONNX Runtime's sessions."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import onnxruntime
import structlog
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from hangtag.serving.server.errors import InferenceError, InvalidValuesError, ModelLoadError
from hangtag.serving.server.runtime import io_binding
from hangtag.serving.server.runtime.inference_session import (
    CPU,
    CUDA,
    Array,
    Gpu,
    SessionOpener,
    Tensors,
    graph_options,
    no_empty_tensor_because,
    operators,
    read_signature,
    zeros,
)
from hangtag.serving.server.runtime.session_tuner import SequentialSessionTuner

log = structlog.get_logger()


class Runtime:
    """A loaded model. ``run`` is thread-safe, and ONNX Runtime releases the GIL while it computes.

    Example:
        runtime = Runtime(Path("models/cnn/1/model.onnx"), provider="cpu")
        outputs = runtime.run({"image": images})  # images: uint8 [batch, 28, 28]
    """

    cuda_graphs: bool = False
    """Whether captured CUDA graphs compute the batches."""
    io_binding_failures: int = 0
    """Number of batches that failed with IO binding, and that the session then computed without IO binding."""

    _more_threads = 0
    _tuner: SequentialSessionTuner | None = None
    _buffers: io_binding.Buffers | None = None
    _run_options: onnxruntime.RunOptions | None = None

    def __init__(
        self,
        path: Path,
        *,
        provider: str = "auto",
        threads: int = 1,
        batching_override: bool | None = None,
        gpu: Gpu | None = None,
        opener: SessionOpener | None = None,
    ) -> None:
        """Load a model file, <models>/<name>/<version>/model.onnx. Raises ModelLoadError if the file cannot be loaded,
        or the provider is not available.

        Args:
            provider: ``cpu``, ``cuda`` or ``tensorrt``; or ``auto``: CUDA if it is available, else the CPU.
            threads: ONNX Runtime's intra_op_num_threads.
            batching_override: Whether requests may be batched, whatever the file says; None if the file decides.
            opener: Opens the sessions of the file; only tests pass their own.
        """
        gpu = gpu or Gpu()
        self.threads = threads
        self.requested_provider = provider
        self.path = path
        self.notes: dict[str, str] = {}
        """Optimisations that this model does not use, and the reasons, for the log."""
        self._opener = opener or SessionOpener(path, threads=threads, gpu=gpu)
        chosen = provider
        if provider == "auto":
            chosen = "cuda" if CUDA in onnxruntime.get_available_providers() else "cpu"
        try:
            self._session = self._opener.open(chosen)
        except ModelLoadError as error:
            if provider != "auto" or chosen == "cpu":
                raise
            self.notes["no_cuda"] = str(error)
            self._session = self._opener.open("cpu")
        self.provider: str = self._session.get_providers()[0]
        self.file_bytes = path.stat().st_size  # roughly the memory that the weights need
        self.signature = read_signature(self._session, path, batching_override)
        self.operators = operators(self._session)
        self.no_empty_because = no_empty_tensor_because(self.operators, self.signature, self.provider)
        """The reason why no axis of an input may have size 0; "" if size 0 is allowed."""
        self._device = ("cpu", 0) if self.on_cpu else ("cuda", gpu.device_id)
        self._output_names = [spec.name for spec in self.signature.outputs]
        self._binding_lock = threading.Lock()

    @property
    def on_cpu(self) -> bool:
        return self.provider == CPU

    @property
    def alone_threads(self) -> int:
        """Number of threads that compute a batch while nothing else is being computed."""
        return self._more_threads if self._tuner is not None and self._tuner.uses_second else self.threads

    def run(self, inputs: Tensors, *, alone: bool = False) -> dict[str, Array]:
        """Compute every output of a batch, from an array for each input. ``alone`` states that no other batch of any
        model waits or is being computed, so that a session with more threads may be used.

        Raises:
            InvalidValuesError: ONNX Runtime refuses the inputs, or fails on them but succeeds on inputs of all zeros.
            InferenceError: ONNX Runtime failed although the inputs are not at fault.
        """
        try:
            if (buffers := self._buffers) is not None:
                return self._compute_bound(buffers, inputs)
            tuner = self._tuner
            if tuner is None or not alone:
                return self._run_session(inputs)
            if tuner.settled:
                tuner.settled -= 1
                return self._run_session(inputs, tuner.session)
            return tuner.compare(lambda session: self._run_session(inputs, session))
        except InvalidArgument as error:
            raise InvalidValuesError(f"ONNX Runtime refuses the request's values: {error}") from error
        except Exception as error:  # ONNX Runtime's exceptions have no public base class
            if self._only_these_inputs_fail(error):
                raise InvalidValuesError(f"ONNX Runtime cannot compute the request's values: {error}") from error
            raise InferenceError(f"ONNX Runtime failed: {error}") from error

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Compute one batch of zeros of each size, so that no caller waits for first allocations. Raise ModelLoadError
        if the model cannot compute, or its inputs do not fit into memory."""
        for size in batch_sizes if self.signature.batched else [1]:
            try:
                inputs = zeros(self.signature, size)
            except (MemoryError, ValueError) as error:  # ValueError: numpy has no arrays of this size or rank
                specs = "; ".join(map(str, self.signature.inputs))
                raise ModelLoadError(
                    f"{self.path} loads, but its inputs ({specs}) with a batch of {size} do not fit into "
                    f"memory: {error}. Set a lower max_batch_size, or give the inputs smaller axes in the file"
                ) from error
            try:
                self.run(inputs)
            except InferenceError as error:
                is_guessed = any(None in spec.shape[1:] or spec.datatype == "BYTES" for spec in self.signature.inputs)
                if not self.signature.batched or is_guessed:
                    return  # a guessed shape may fail although callers' requests succeed
                shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
                raise ModelLoadError(f"{self.path} loads, but fails on zeros ({shapes}): {error}") from error

    def allow_more_threads(self, threads: int, is_unchanged: Callable[[], bool]) -> None:
        """Use this many threads for a batch while no other batch is computed, if that is faster (see `session_tuner`).
        ``is_unchanged`` returns False if the model's files have changed since this runtime loaded them."""
        opener = self._opener  # if the function referred to ``self``, an unclosed model would stay in memory

        def open_second() -> onnxruntime.InferenceSession:
            session = opener.open("cpu", threads=threads)
            if not is_unchanged():
                raise ModelLoadError("the model's files have changed since they were loaded")
            return session

        self._more_threads = threads
        self._tuner = SequentialSessionTuner(self.path, self._session, open_second)

    def use_io_binding(self, max_batch_size: int, *, instances: int, cuda_graphs: str = "off") -> None:
        """Compute batches of up to this size, at most ``instances`` at once, by IO binding with pinned inputs. Also use
        CUDA graphs if ``cuda_graphs`` is ``on``, or if it is ``auto`` and graphs are faster. Each of the two is used
        only if its answers equal the session's answers; otherwise ``notes`` has the reason."""
        on_cpu = self._session.get_providers()[0] == CPU
        memory = io_binding.PinnedMemory("" if on_cpu else onnxruntime.cuda_version)
        model = io_binding.Model(self._session, self.signature, memory, self._device)
        try:
            pinned = io_binding.pinned_inputs(model, max_batch_size, instances)
            io_binding.verify(pinned, self.signature, self._run_session)
        except Exception as error:
            self.notes["no_io_binding"] = str(error)
            return
        self._buffers = pinned
        if cuda_graphs != "off":
            try:
                graphs = io_binding.graphs(model, self._opener, io_binding.bucket_sizes(max_batch_size))
                io_binding.verify(graphs, self.signature, self._run_session)
                if cuda_graphs == "auto":
                    io_binding.require_faster(graphs, pinned, self.signature)
            except Exception as error:
                self.notes["no_cuda_graphs"] = str(error)
            else:
                # The session with the CUDA graphs replaces the first session, so that the device holds one copy of the
                # model. The session also computes batches that are too large for its CUDA graphs.
                self._session, self._buffers, self._run_options = graphs.session, graphs, graph_options(-1)
                self.cuda_graphs = True
        if memory.problem and not on_cpu:
            self.notes["not_page_locked"] = memory.problem

    def close(self) -> None:
        """Free the memory of the sessions, which must not be computing a batch. A second call does nothing."""
        self._session = self._tuner = self._buffers = None

    def _compute_bound(self, buffers: io_binding.Buffers, inputs: Tensors) -> dict[str, Array]:
        """Compute a batch by IO binding. If the batch is too large or the binding fails, compute without IO binding."""
        try:
            outputs = buffers.run(inputs)
        except Exception as error:
            # ONNX Runtime raises the same exceptions for a failed binding and for bad inputs. Running the session shows
            # the cause: if the session fails too, the inputs are at fault and the binding stays in use.
            outputs = self._run_session(inputs)
            with self._binding_lock:  # other threads may fail too, until they see that the buffers are gone
                self.io_binding_failures += 1
                first = self._buffers is not None
                self._buffers = None
                self.cuda_graphs = False
            if first:
                log.error("IO binding failed; the model runs without it", file=str(self.path), reason=str(error))  # noqa: TRY400
        return self._run_session(inputs) if outputs is None else outputs

    def _run_session(self, inputs: Tensors, session: onnxruntime.InferenceSession | None = None) -> dict[str, Array]:
        outputs = (session or self._session).run(self._output_names, dict(inputs), self._run_options)
        return dict(zip(self._output_names, outputs, strict=True))

    def _only_these_inputs_fail(self, error: Exception) -> bool:
        """Whether the model can still compute a batch of zeros. ONNX Runtime has no specific exception for sizes and
        values that do not fit together, such as two shapes in an addition."""
        if "alloc" in str(error):  # no memory was left, so the model might fail for other inputs too
            return False
        try:
            self._run_session(zeros(self.signature, 1))
        except Exception:
            return False
        return True


RuntimeFactory = Callable[..., Runtime]
"""Loads a model file, with the arguments of `Runtime`. Tests pass a factory whose runtimes delay batches."""
