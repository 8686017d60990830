"""Computes with ONNX Runtime's IO binding, in which a session reads and writes buffers, and with CUDA graphs. Threads
share buffers for a few batch sizes (buckets). Buffers are used only if the answers are the same as without them."""

import ctypes
import math
import mmap
import queue
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.inference_session import (
    CUDA,
    Array,
    SessionOpener,
    Tensors,
    dtype_of,
    graph_options,
    operators,
    random_batch,
    shape_of,
)
from hangtag.serving.signature import Signature, TensorSpec

# ONNX Runtime's recurrent CUDA kernels copy sequence lengths from the host in every run. No CUDA graph can hold a copy
# from the host.
_RECURRENT = {"LSTM", "GRU", "RNN"}

_TOLERANCE = 0.01  # wide, because the check looks for wrong rows, not for differences in rounding
_GRAPHS_GAIN = 0.95  # graphs are used if (time with graphs) / (time without graphs) is below this value
_CHECKS = 2  # because a CUDA graph that ignores new inputs would pass the first check, in which it is captured
_RUNS = 7
_ENOUGH_SECONDS = 0.03  # the time for measuring each way to compute a batch, short so that the server starts soon

Compute = Callable[[Tensors], dict[str, Array]]


def bucket_sizes(largest: int) -> tuple[int, ...]:
    """Return the batch sizes 1, 2, 4 and so on, and the largest size, so that less than half of a batch is padding."""
    return (*(1 << power for power in range((largest - 1).bit_length())), largest)


def no_fixed_shapes_because(signature: Signature) -> str | None:
    if not signature.batched:
        return "the model's requests are not batched"
    for kind, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for spec in specs:
            if spec.datatype == "BYTES" or None in spec.shape[1:]:
                return f"{kind} {spec.name!r} has strings, or dynamic axes other than the batch: {spec}"
    return None


class PinnedMemory:
    """Allocates arrays in page-locked memory. If that fails, the memory is not locked, and ``problem`` states why."""

    def __init__(self, cuda_version: str) -> None:
        """``cuda_version`` is the CUDA version with which ONNX Runtime was built, such as 12.8; empty without CUDA."""
        self.problem = "" if cuda_version else "this ONNX Runtime is built without CUDA"
        self._cudart: ctypes.CDLL | None = None
        try:
            self._cudart = ctypes.CDLL(f"libcudart.so.{cuda_version.partition('.')[0]}") if cuda_version else None
        except OSError as error:
            self.problem = str(error)

    def zeros(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Return zeros that share no memory page with other arrays, because a page can be locked only once."""
        count = math.prod(shape)
        pages = mmap.mmap(-1, max(1, count * dtype.itemsize))
        array = np.frombuffer(pages, dtype, count)
        if self._cudart is not None:
            address = ctypes.c_void_p(array.ctypes.data)
            # Source: the CUDA runtime API's memory management, cudaHostRegister(ptr, size, flags); 0 is success.
            code = self._cudart.cudaHostRegister(address, ctypes.c_size_t(len(pages)), 0)
            if code == 0:
                weakref.finalize(array, self._cudart.cudaHostUnregister, address)
            else:
                self.problem = f"cudaHostRegister failed with CUDA's error {code}"
        return array.reshape(shape)

    def inputs(self, signature: Signature, samples: int) -> dict[str, Array]:
        """Return a buffer [samples, …] for each input of a model."""
        return {spec.name: self.zeros(shape_of(spec, samples), dtype_of(spec)) for spec in signature.inputs}


class Model(NamedTuple):
    """A session that computes with buffers, and its signature and device."""

    session: onnxruntime.InferenceSession
    signature: Signature
    memory: PinnedMemory
    device: tuple[str, int]
    """The device that computes: its name and number in ONNX Runtime, such as ("cuda", 0)."""


def _pinned_inputs(model: Model, largest: int) -> Compute:
    """Return a function that copies inputs into bound buffers of the largest batch's size, and computes every output.
    The returned arrays are copies, because the next batch overwrites the buffers."""
    host_inputs, binding = model.memory.inputs(model.signature, largest), model.session.io_binding()
    output_names = [spec.name for spec in model.signature.outputs]

    def run(inputs: Tensors) -> dict[str, Array]:
        for name, buffer in host_inputs.items():
            rows = buffer[: len(inputs[name])]
            rows[...] = inputs[name]
            binding.bind_cpu_input(name, rows)  # ONNX Runtime copies the rows to the device
        # Without new bindings, ONNX Runtime would reuse the output buffers of the previous batch, which may have a
        # different size.
        for name in output_names:
            binding.bind_output(name, *model.device)
        model.session.run_with_iobinding(binding)
        return dict(zip(output_names, binding.copy_outputs_to_cpu(), strict=True))

    return run


def _captured_graph(model: Model, size: int, number: int) -> Compute:
    """Return a function that computes batches of at most ``size`` samples with CUDA graph ``number``. The first runs
    capture the graph with the buffers' addresses, which therefore never change. A smaller batch is padded."""

    def on_device(spec: TensorSpec) -> onnxruntime.OrtValue:
        shape, kind = shape_of(spec, size), dtype_of(spec).type
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, *model.device)

    host_inputs, binding = model.memory.inputs(model.signature, size), model.session.io_binding()
    device_inputs = {spec.name: on_device(spec) for spec in model.signature.inputs}
    device_outputs = {spec.name: on_device(spec) for spec in model.signature.outputs}
    options = graph_options(number)
    for name, value in device_inputs.items():
        binding.bind_ortvalue_input(name, value)
    for name, value in device_outputs.items():
        binding.bind_ortvalue_output(name, value)

    def run(inputs: Tensors) -> dict[str, Array]:
        samples = _samples(inputs)
        for name, buffer in host_inputs.items():
            buffer[:samples] = inputs[name]
            buffer[samples:] = inputs[name][-1]  # a model may refuse other values, such as an index out of range
            device_inputs[name].update_inplace(buffer)
        model.session.run_with_iobinding(binding, options)
        return {name: value.numpy()[:samples].copy() for name, value in device_outputs.items()}

    return run


class Buffers(NamedTuple):
    """Buffers for the batches of one model, and the function that computes with them."""

    session: onnxruntime.InferenceSession
    sizes: Sequence[int]
    """The batch sizes of the buffers, ascending."""
    run: Callable[[Tensors], dict[str, Array] | None]
    """Computes every output of a batch, or returns None if the batch is larger than all buffers. Thread-safe. Waits
    while all buffers are in use."""


def pinned_inputs(model: Model, largest: int, instances: int) -> Buffers:
    """Return pinned inputs for ``instances`` simultaneous batches of up to ``largest`` samples, or raise ModelLoadError
    if the model's shapes are not fixed."""
    if problem := no_fixed_shapes_because(model.signature):
        raise ModelLoadError(problem)
    free: queue.SimpleQueue[Compute] = queue.SimpleQueue()
    for _ in range(instances):
        free.put(_pinned_inputs(model, largest))

    def run(inputs: Tensors) -> dict[str, Array] | None:
        if _samples(inputs) > largest:
            return None
        compute = free.get()
        try:
            return compute(inputs)
        finally:
            free.put(compute)

    return Buffers(model.session, [largest], run)


def graphs(model: Model, opener: SessionOpener, sizes: Sequence[int]) -> Buffers:
    """Return CUDA graphs for these batch sizes, in a separate session. Raises ModelLoadError if the provider or the
    model is known not to support graphs."""
    provider = model.session.get_providers()[0]
    if provider != CUDA:
        raise ModelLoadError(f"only {CUDA} supports CUDA graphs, not {provider}")
    recurrent = sorted(_RECURRENT & operators(model.session))
    if recurrent:
        raise ModelLoadError(f"the model has {', '.join(recurrent)}, which reads the host's memory in every run")
    captured = model._replace(session=opener.open("cuda", cuda_graphs=True))
    by_size = {size: _captured_graph(captured, size, number) for number, size in enumerate(sizes, 1)}
    # ONNX Runtime replays a CUDA graph only in the thread that captured it.
    thread = ThreadPoolExecutor(1, thread_name_prefix=opener.path.parts[-3])

    def run(inputs: Tensors) -> dict[str, Array] | None:
        size = next((size for size in sizes if size >= _samples(inputs)), None)
        return None if size is None else thread.submit(by_size[size], inputs).result()

    return Buffers(captured.session, sizes, run)


def _samples(inputs: Tensors) -> int:
    return len(next(iter(inputs.values())))


def verify(buffers: Buffers, signature: Signature, compute: Compute) -> None:
    """For each batch size, compute a full batch and a padded batch both in the buffers and with ``compute``. Raise
    ModelLoadError if the answers differ."""
    for size in buffers.sizes:
        for check in range(_CHECKS):
            samples = max(1, size - check)
            inputs = random_batch(signature, samples, seed=check)
            expected = compute(inputs)
            for name, array in (buffers.run(inputs) or {}).items():
                if not _equal(array, expected[name]):
                    raise ModelLoadError(f"in a batch of {samples}, output {name!r} differs from the session's")


def require_faster(graphs: Buffers, other: Buffers, signature: Signature) -> None:
    """Run a batch of each size. Raise ModelLoadError if ``graphs`` take _GRAPHS_GAIN of ``other``'s time or longer."""
    batches = [random_batch(signature, size, seed=0) for size in graphs.sizes]
    seconds = (sum(_shortest(each.run, inputs) for inputs in batches) for each in (graphs, other))
    if not next(seconds) < _GRAPHS_GAIN * next(seconds):
        raise ModelLoadError("graphs are not faster here")


def _shortest(compute: Callable[[Tensors], object], inputs: Tensors) -> float:
    """Return the seconds of the fastest of several runs, because other work on the machine may delay some runs."""
    runs: list[float] = []
    while len(runs) < 2 or (len(runs) < _RUNS and sum(runs) < _ENOUGH_SECONDS):
        started = time.perf_counter()
        compute(inputs)
        runs.append(time.perf_counter() - started)
    return min(runs)


def _equal(array: Array, expected: Array) -> bool:
    if array.shape != expected.shape:
        return False
    if array.dtype.kind != "f":
        return bool((array == expected).all())
    scale = float(np.abs(expected[np.isfinite(expected)]).max(initial=0))
    return np.allclose(array, expected, rtol=_TOLERANCE, atol=_TOLERANCE * scale, equal_nan=True)
