"""Buffers that a session reads and writes by ONNX Runtime's IO binding, and pools of them that threads share.

Nothing here imports ONNX Runtime: binding_factory passes its objects in.
"""

import queue
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from hangtag.serving.server.runtime.arrays import Array, Tensors, pad
from hangtag.serving.server.runtime.batch_buckets import bucket_for


class OrtValue(Protocol):
    """The methods of ONNX Runtime's OrtValue that are used here."""

    def update_inplace(self, data: Array) -> None: ...

    def numpy(self) -> Array: ...


class Buffers(Protocol):
    """The memory that one batch at a time is computed with."""

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Compute every output. The arrays are copies, because the next batch overwrites the buffers."""
        ...


class PinnedInputs:
    """Copies inputs into buffers of the largest batch's size and binds those; ONNX Runtime allocates the outputs."""

    def __init__(
        self, session: Any, host_inputs: Mapping[str, Array], output_names: Sequence[str], device: tuple[str, int]
    ) -> None:
        """
        Args:
            session: ONNX Runtime's InferenceSession.
            host_inputs: For each input a buffer [largest batch, …] in this machine's memory.
            output_names: The model's outputs.
            device: ONNX Runtime's name and number of the device that computes, such as ("cuda", 0).
        """
        self._session, self._host_inputs = session, host_inputs
        self._output_names, self._device = output_names, device
        self._binding = session.io_binding()

    def run(self, inputs: Tensors) -> dict[str, Array]:
        for name, buffer in self._host_inputs.items():
            rows = buffer[: len(inputs[name])]
            rows[...] = inputs[name]
            self._binding.bind_cpu_input(name, rows)  # ONNX Runtime copies it to the device
        # Bound again for each batch; otherwise ONNX Runtime reuses the buffers of the last batch, whose size differs.
        for name in self._output_names:
            self._binding.bind_output(name, *self._device)
        self._session.run_with_iobinding(self._binding)
        return dict(zip(self._output_names, self._binding.copy_outputs_to_cpu(), strict=True))


class FixedBuffers:
    """Buffers of one batch size at addresses that never change, which a captured CUDA graph needs."""

    def __init__(
        self,
        session: Any,
        run_options: Any,
        host_inputs: Mapping[str, Array],
        device_inputs: Mapping[str, OrtValue],
        device_outputs: Mapping[str, OrtValue],
    ) -> None:
        """
        Args:
            session: ONNX Runtime's InferenceSession.
            run_options: ONNX Runtime's RunOptions with the number of the graph to capture or replay.
            host_inputs: For each input a buffer [batch size, …] in this machine's memory.
            device_inputs: For each input the value on the device.
            device_outputs: For each output the value on the device.
        """
        self._session, self._run_options = session, run_options
        self._host_inputs, self._device_inputs, self._device_outputs = host_inputs, device_inputs, device_outputs
        self._binding = session.io_binding()
        for name, value in device_inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in device_outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        samples = _samples(inputs)
        for name, buffer in self._host_inputs.items():
            pad(buffer, inputs[name])
            self._device_inputs[name].update_inplace(buffer)
        self._session.run_with_iobinding(self._binding, self._run_options)
        return {name: value.numpy()[:samples].copy() for name, value in self._device_outputs.items()}


class BufferPool:
    """One set of buffers, of a few batch sizes, for each batch that may be computed at the same time. Thread-safe."""

    def __init__(self, sizes: Sequence[int], make_buffers: Callable[[int], Buffers], *, instances: int) -> None:
        """
        Args:
            sizes: The batch sizes, ascending.
            make_buffers: Makes the buffers of one batch size.
            instances: How many batches may be computed at the same time.
        """
        self.sizes = tuple(sizes)
        self._free: queue.SimpleQueue[dict[int, Buffers]] = queue.SimpleQueue()
        for _ in range(instances):
            self._free.put({size: make_buffers(size) for size in sizes})

    def fits(self, inputs: Tensors) -> bool:
        """Whether the pool has buffers for a batch of this size."""
        return bucket_for(self.sizes, _samples(inputs)) is not None

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Compute every output of a batch that fits. Waits while all buffers are in use."""
        size = bucket_for(self.sizes, _samples(inputs))
        assert size is not None
        buffers = self._free.get()
        try:
            return buffers[size].run(inputs)
        finally:
            self._free.put(buffers)


class GraphPool(BufferPool):
    """Captured CUDA graphs, one for each batch size. ONNX Runtime replays a graph only in the thread that captured it,
    so this pool has a thread of its own for every run."""

    def __init__(
        self, sizes: Sequence[int], make_buffers: Callable[[int], Buffers], *, session: Any, name: str
    ) -> None:
        """session: ONNX Runtime's InferenceSession that captures the graphs. name: of the thread."""
        self.session = session
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        super().__init__(sizes, make_buffers, instances=1)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        return self._thread.submit(super().run, inputs).result()


def _samples(inputs: Tensors) -> int:
    return len(next(iter(inputs.values())))
