"""A session that runs with ONNX Runtime's IO binding, from page-locked memory, and on a GPU by captured graphs.

Knows ONNX Runtime by what it is handed; only runtime.py imports it.
"""

import queue
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy.typing as npt

from hangtag.serving.server.runtime.batch_buckets import bucket_for, pad

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]


class Value(Protocol):
    """ONNX Runtime's OrtValue."""

    def update_inplace(self, data: Array) -> None: ...

    def numpy(self) -> Array: ...


class Buffers(Protocol):
    """What one batch at a time is computed with."""

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Every output for these rows, in memory of its own: the buffers are soon written again."""
        ...


class Staging:
    """Inputs pass through memory of their own here, as long as the largest batch; ONNX Runtime finds the rest."""

    def __init__(
        self, session: Any, hosts: Mapping[str, Array], outputs: Sequence[str], device: tuple[str, int]
    ) -> None:
        """session: ONNX Runtime's InferenceSession. hosts: the inputs here. device: its kind and its number."""
        self._session, self._hosts, self._outputs, self._device = session, hosts, outputs, device
        self._binding = session.io_binding()

    def run(self, inputs: Tensors) -> dict[str, Array]:
        for name, host in self._hosts.items():
            rows = host[: len(inputs[name])]
            rows[...] = inputs[name]
            self._binding.bind_cpu_input(name, rows)  # from here it goes to the device
        for name in self._outputs:  # each time, or the last batch's buffers are taken for this one's
            self._binding.bind_output(name, *self._device)
        self._session.run_with_iobinding(self._binding)
        return dict(zip(self._outputs, self._binding.copy_outputs_to_cpu(), strict=True))


class FixedBuffers:
    """Of one batch size, at fixed addresses, as a captured graph needs them: here, and on the device."""

    def __init__(
        self,
        session: Any,
        run_options: Any,
        hosts: Mapping[str, Array],
        inputs: Mapping[str, Value],
        outputs: Mapping[str, Value],
    ) -> None:
        """session, run_options: ONNX Runtime's InferenceSession and RunOptions. hosts: the inputs in memory here."""
        self._session, self._run_options = session, run_options
        self._hosts, self._inputs, self._outputs = hosts, inputs, outputs
        self._binding = session.io_binding()
        for name, value in inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        samples = _samples(inputs)
        for name, host in self._hosts.items():
            pad(host, inputs[name])
            self._inputs[name].update_inplace(host)
        self._session.run_with_iobinding(self._binding, self._run_options)
        return {name: value.numpy()[:samples].copy() for name, value in self._outputs.items()}


class BoundSession:
    """Buffers of some batch sizes, once for each batch that may be computed at the same time."""

    def __init__(self, sizes: Sequence[int], make: Callable[[int], Buffers], *, slots: int) -> None:
        """sizes: of batches, ascending. make: a size's buffers."""
        self.sizes = tuple(sizes)
        self._free: queue.SimpleQueue[dict[int, Buffers]] = queue.SimpleQueue()
        for _ in range(slots):
            self._free.put({size: make(size) for size in sizes})

    def takes(self, inputs: Tensors) -> bool:
        """Whether there are buffers for so many rows."""
        return bucket_for(self.sizes, _samples(inputs)) is not None

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Every output for these rows, from whichever thread. Waits where more run at once than there are slots."""
        size = bucket_for(self.sizes, _samples(inputs))
        assert size is not None
        buffers = self._free.get()
        try:
            return buffers[size].run(inputs)
        finally:
            self._free.put(buffers)


class OneThreadSession(BoundSession):
    """All runs in one thread of its own: in ONNX Runtime a captured graph is the thread's that captured it."""

    def __init__(self, sizes: Sequence[int], make: Callable[[int], Buffers], *, session: Any, name: str) -> None:
        """session: ONNX Runtime's, whose graphs they are."""
        self.session = session
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        super().__init__(sizes, make, slots=1)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        return self._thread.submit(super().run, inputs).result()


def _samples(inputs: Tensors) -> int:
    return len(next(iter(inputs.values())))
