"""Makes the buffer pools with which a model's session runs by IO binding: with pinned inputs, or with CUDA graphs."""

from collections.abc import Sequence
from typing import Any

import onnxruntime

from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.arrays import Array, dtype_of, shape_of
from hangtag.serving.server.runtime.batch_buckets import no_fixed_shapes_because
from hangtag.serving.server.runtime.inference_session import SessionOpener, graph_options, operators
from hangtag.serving.server.runtime.io_binding import BufferPool, Buffers, FixedBuffers, GraphPool, PinnedInputs
from hangtag.serving.server.runtime.pinned_memory import PinnedMemory
from hangtag.serving.server.runtime.providers import CPU, CUDA
from hangtag.serving.signature import Signature, TensorSpec

# In every run ONNX Runtime's recurrent CUDA kernels copy sequence lengths from the host, which no graph can hold.
_RECURRENT = {"LSTM", "GRU", "RNN"}


class BindingFactory:
    """Makes buffer pools for one model. ``pinning_problem`` says why a GPU's inputs are not in page-locked memory."""

    def __init__(
        self,
        opener: SessionOpener,
        session: onnxruntime.InferenceSession,
        signature: Signature,
        device: tuple[str, int],
    ) -> None:
        """device: ONNX Runtime's name and number of the device that computes, such as ("cuda", 0)."""
        self._opener, self._session, self._signature, self._device = opener, session, signature, device
        self._provider: str = session.get_providers()[0]
        self.pinning_problem = ""

    def pinned_inputs(self, max_batch_size: int, instances: int) -> BufferPool:
        """Pinned inputs for batches of any size up to the largest. Raises ModelLoadError without fixed shapes."""
        problem = no_fixed_shapes_because(self._signature)
        if problem:
            raise ModelLoadError(problem)
        output_names = [spec.name for spec in self._signature.outputs]

        def make_buffers(size: int) -> Buffers:
            return PinnedInputs(self._session, self._host_inputs(size), output_names, self._device)

        return BufferPool([max_batch_size], make_buffers, instances=instances)

    def graphs(self, sizes: Sequence[int]) -> GraphPool:
        """CUDA graphs for these batch sizes, in a session of their own; each is captured in its first runs.

        Raises:
            ModelLoadError: The provider or the model is known not to capture graphs.
        """
        if self._provider != CUDA:
            raise ModelLoadError(f"only {CUDA} has CUDA graphs, not {self._provider}")
        recurrent = sorted(_RECURRENT & operators(self._session))
        if recurrent:
            raise ModelLoadError(f"the model has {', '.join(recurrent)}, which reads the host's memory in every run")
        session = self._graph_session()

        def make_buffers(size: int) -> Buffers:
            inputs, outputs = (
                self._device_values(specs, size) for specs in (self._signature.inputs, self._signature.outputs)
            )
            return FixedBuffers(session, graph_options(1 + sizes.index(size)), self._host_inputs(size), inputs, outputs)

        return GraphPool(sizes, make_buffers, session=session, name=self._opener.path.parts[-3])

    def _graph_session(self) -> onnxruntime.InferenceSession:
        return self._opener.open("cuda", cuda_graphs=True)

    def _host_inputs(self, size: int) -> dict[str, Array]:
        on_cpu = self._provider == CPU
        memory = PinnedMemory("" if on_cpu else onnxruntime.cuda_version)
        buffers = {spec.name: memory.zeros(shape_of(spec, size), dtype_of(spec)) for spec in self._signature.inputs}
        if not on_cpu:
            self.pinning_problem = memory.problem or self.pinning_problem
        return buffers

    def _device_values(self, specs: Sequence[TensorSpec], size: int) -> dict[str, Any]:
        make_value = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        return {spec.name: make_value(shape_of(spec, size), dtype_of(spec).type, *self._device) for spec in specs}
