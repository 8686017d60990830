"""A served version of a model: its session, its queue, and its counters. A request is checked against the model before
it is queued, so that a bad request never joins a batch."""

import math
import time
from collections.abc import Callable, Hashable, Mapping
from functools import partial

import numpy as np
import structlog

from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.compute_pool import ComputePool
from hangtag.serving.server.errors import InferenceError, InvalidRequestError, InvalidValuesError, ServerError
from hangtag.serving.server.host.watched_files import Stamp
from hangtag.serving.server.queue.batcher import Batcher
from hangtag.serving.server.queue.call import Call, InferenceResult, Tensors, answer
from hangtag.serving.server.runtime.inference_session import VERSION
from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.server.telemetry.model_statistics import BatchCost, ModelStatistics
from hangtag.serving.server.telemetry.server_state import READY, VersionState
from hangtag.serving.signature import Signature, TensorSpec

log = structlog.get_logger()

# If this many batches in a row are computed while nothing else is queued or computed, a single client must be sending
# one request after another. Then the next batch may use all threads. If requests arrive at random, threads that spin
# for the next batch would take the CPU from all other work.
_ALONE_BATCHES = 16


class ServedModel:
    """One version of one model. The methods that models share with routes are documented in `Servable`."""

    def __init__(self, file: ModelFile, runtime: Runtime, config: ServerConfig, stamp: Stamp = ()) -> None:
        """``runtime`` was loaded from files with this ``stamp``. ``config`` includes the model's own settings."""
        self.name = file.name
        self.version = str(file.version)
        self.stamp = stamp
        self.runtime = runtime
        self.signature = runtime.signature
        self.statistics = ModelStatistics()
        self._max_bytes = config.max_message_mib << 20
        self._alone_batches = 0  # how many batches in a row were computed alone, see _ALONE_BATCHES
        self.max_batch_size = config.max_batch_size_of(file.name) if self.signature.batched else 1
        self.batcher = Batcher(
            max_batch_size=self.max_batch_size,
            max_queue_size=config.max_queue_size,
            instances=config.instance_count,
            max_queue_delay=config.max_queue_delay_microseconds / 1e6,
            divided=runtime.on_cpu,  # on a GPU, two small batches at once are not faster than one large batch
        )
        self.raise_if_queue_full = self.batcher.raise_if_queue_full
        self.instances = self.batcher.instances
        self.max_queue_delay = self.batcher.max_queue_delay
        self.on_cpu = runtime.on_cpu
        self._pool: ComputePool | None = None
        self.started_ns = 0
        """When the version began to accept calls, in nanoseconds since 1970."""

    @property
    def busy(self) -> bool:
        return self.batcher.waiting > 0 or 2 * self.batcher.computing >= self.instances

    def start(self, pool: ComputePool) -> None:
        self._pool = pool
        pool.threads = max(pool.threads, self.instances)  # a model may have more instances than the server's setting
        self.started_ns = time.time_ns()

    def put(self, call: Call) -> None:
        self.batcher.put(call)
        if self._pool is not None:
            self._pool.offer(self)

    def check(self, inputs: Tensors, datatypes: Mapping[str, str]) -> tuple[int, Hashable]:
        signature = self.signature
        _require_fit(signature, inputs, datatypes)
        if any(0 in array.shape for array in inputs.values()):
            _require_fit_for_empty(signature, inputs, self.runtime.no_empty_because, self._max_bytes)
        samples = _batch_size(signature, inputs, self.max_batch_size) if signature.batched else 1
        if all(None not in spec.shape[1:] for spec in signature.inputs):
            return samples, None
        return samples, tuple(inputs[spec.name].shape[1:] for spec in signature.inputs)

    def compute(self, batch: list[Call], *, alone: bool) -> Callable[[], None]:
        """See `compute_pool.BatchExecutor`. If the batch fails, each of its calls is computed once more on its own, so
        that no call fails because of another call's values."""
        started = time.monotonic()
        try:
            outputs, cost = self._compute(batch, alone=alone)
        except Exception as error:
            return self._compute_one_by_one(batch, error)
        calls = self.batcher.finish(batch, time.monotonic() - started)
        self.statistics.record_batch([call.queue_ns for call in batch], cost)
        return partial(answer, calls, outputs, cost)

    def _compute_one_by_one(self, batch: list[Call], batch_error: Exception) -> Callable[[], None]:
        waiting = [call for call in batch if not call.done]
        outcomes = {call: self._compute_alone(call) if len(batch) > 1 else _failure(batch_error) for call in waiting}
        waiting = self.batcher.finish(batch)
        answered = [call for call, outcome in outcomes.items() if isinstance(outcome, InferenceResult)]
        # Invalid values are one client's fault, so only the response to that client reports them. If every request
        # succeeds alone, no client is at fault: the requests cannot be batched, which the log must report.
        if not isinstance(batch_error, InvalidValuesError) or len(answered) == len(batch):
            log.error("batch failed", model=self.name, version=self.version, requests=len(batch), exc_info=batch_error)

        def end() -> None:
            for call in waiting:
                call.end(outcomes[call])

        return end

    def _compute_alone(self, call: Call) -> InferenceResult | ServerError:
        call.queue_ns = int((time.monotonic() - call.enqueued) * 1e9)
        try:
            outputs, cost = self._compute([call], alone=False)
        except Exception as error:
            return _failure(error)
        self.statistics.record_batch([call.queue_ns], cost)
        return call.part_of(outputs, cost)

    def state(self) -> VersionState:
        return VersionState(
            self.name,
            self.version,
            READY,
            requested_provider=self.runtime.requested_provider,
            provider=self.runtime.provider,
            cuda_graphs=self.runtime.cuda_graphs,
            fell_back="no_cuda" in self.runtime.notes,
            io_binding_failures=self.runtime.io_binding_failures,
            instances=self.instances,
            queued=self.batcher.waiting,
            max_queue_size=self.batcher.max_queue_size,
            counters=self.statistics.snapshot(),
        )

    def parameters(self) -> Mapping[str, str]:
        runtime = self.runtime
        return {
            "execution_provider_asked": runtime.requested_provider,
            "execution_provider": runtime.provider,
            "cuda_graphs": "on" if runtime.cuda_graphs else "off",
            "onnxruntime_version": VERSION,
            "file_bytes": str(runtime.file_bytes),
            "intra_op_threads": str(runtime.threads),
            "alone_threads": str(runtime.alone_threads),
            **({"unbatched_because": why} if (why := self.signature.why_unbatched) else {}),
        }

    def close(self) -> None:
        """Answer the queued calls, then free the session's memory."""
        self.batcher.close()
        if self._pool is not None:
            self._pool.offer(self)
            self.batcher.join()
        self.runtime.close()

    def _compute(self, batch: list[Call], *, alone: bool) -> tuple[Tensors, BatchCost]:
        begin = time.perf_counter_ns()
        inputs = batch[0].inputs
        if len(batch) > 1:
            inputs = {name: np.concatenate([call.inputs[name] for call in batch]) for name in inputs}
        joined = time.perf_counter_ns()
        alone = alone and not self.batcher.waiting and batch[0].may_use_all_threads
        self._alone_batches = self._alone_batches + 1 if alone else 0
        outputs = self.runtime.run(inputs, alone=self._alone_batches >= _ALONE_BATCHES)
        computed = time.perf_counter_ns()
        samples = batch[-1].row + batch[-1].samples if len(batch) > 1 else batch[0].samples
        if len(batch) > 1:  # with fewer or more rows, a call would get another call's rows
            for name, array in outputs.items():
                if len(array) != samples:
                    raise InferenceError(
                        f"output {name!r} has {len(array)} rows for {samples} samples: its first axis is not the batch"
                    )
        checked = time.perf_counter_ns()
        return outputs, BatchCost(joined - begin, computed - joined, checked - computed, samples, len(batch))


def _failure(error: Exception) -> ServerError:
    return error if isinstance(error, ServerError) else InferenceError(f"the batch failed: {error}")


def _require_fit(signature: Signature, inputs: Tensors, datatypes: Mapping[str, str]) -> None:
    known = [spec.name for spec in signature.inputs]
    for name in inputs:
        if name not in known:
            raise InvalidRequestError(f"unknown input {name!r}; the model takes {_list(signature.inputs)}")
    for spec in signature.inputs:
        if spec.name not in inputs:
            raise InvalidRequestError(f"input {spec.name!r} is missing; the model takes {_list(signature.inputs)}")
        datatype, shape = datatypes[spec.name], inputs[spec.name].shape
        fits = len(shape) == len(spec.shape) and all(
            expected in (None, size) for expected, size in zip(spec.shape, shape, strict=True)
        )
        if datatype != spec.datatype or not fits:
            raise InvalidRequestError(f"input {spec.name!r} is {datatype} {list(shape)}; the model takes {spec}")


def _require_fit_for_empty(signature: Signature, inputs: Tensors, no_empty_because: str, max_bytes: int) -> None:
    """Check a request in which at least one axis has size 0. ``max_bytes`` limits the size that a tensor would have if
    its empty axes had size 1. ``no_empty_because`` is why no axis may have size 0, or "" if size 0 is allowed."""
    # The sizes of named axes. ONNX Runtime's optimisations assume that all axes of one name have the same size.
    sizes: dict[str, int] = {}
    for spec in signature.inputs:
        array, problem = inputs[spec.name], ""
        if signature.batched and array.shape[0] == 0:
            problem = "the first axis is the batch, and a request has at least 1 sample"
        elif 0 in array.shape and no_empty_because:
            problem = f"every size must be at least 1: {no_empty_because}"
        # the answer may be as large as this, for example if the model sums over the empty axis
        elif 0 in array.shape and (size := math.prod(each or 1 for each in array.shape) * array.itemsize) > max_bytes:
            problem = (
                f"with each size 0 replaced by 1, it would have {size:,} bytes, but the limit is {max_bytes:,} bytes"
            )
        for symbol, size in zip(spec.symbols, array.shape, strict=True):
            known = sizes.setdefault(symbol, size) if symbol else size
            if not problem and known != size and not known * size:
                problem = f"if one axis called {symbol!r} has size 0, all axes called {symbol!r} must have size 0"
        if problem:
            raise InvalidRequestError(f"input {spec.name!r} has shape {list(array.shape)}; {problem}")


def _batch_size(signature: Signature, inputs: Tensors, max_batch_size: int) -> int:
    sizes = {spec.name: inputs[spec.name].shape[0] for spec in signature.inputs}
    samples: int = sizes[signature.inputs[0].name]
    if any(size != samples for size in sizes.values()):
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise InvalidRequestError(f"the inputs' batch sizes differ: {listed}")
    if samples > max_batch_size:
        raise InvalidRequestError(
            f"{samples} samples in one request; the model takes at most {max_batch_size}. Send the samples in several "
            "requests."
        )
    return samples


def _list(specs: tuple[TensorSpec, ...]) -> str:
    return "; ".join(str(spec) for spec in specs)
