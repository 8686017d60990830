"""A version of a model that serves: its session, its queue, the threads that compute its batches, and its counters."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import structlog

from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.batching.after_batch import completing_batch
from hangtag.serving.server.batching.batcher import Batcher
from hangtag.serving.server.batching.request import InferenceResult, OnComplete, QueuedRequest, Tensors
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.servable import Admission, Cancel, Computer
from hangtag.serving.server.engine.validation import batch_key, count_samples
from hangtag.serving.server.errors import InferenceError, InvalidValuesError, ServerError
from hangtag.serving.server.runtime.inference_session import VERSION
from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.server.telemetry.model_statistics import ModelStatistics, Timings
from hangtag.serving.server.telemetry.server_state import READY, VersionState

log = structlog.get_logger()

# After this many batches in a row with nothing else queued or computed, the next batch may use all threads: then a
# single client sends one request after another. Where requests arrive at random, threads that spin for the next batch
# would take the CPU from all other work.
_ALONE_BATCHES = 16


class ServedModel:
    """One version of one model. It is a `Servable`, which documents the methods that routes have too."""

    def __init__(self, file: ModelFile, runtime: Runtime, config: ServerConfig) -> None:
        """Wrap a loaded session.

        Args:
            file: Where the version lies in the repository.
            runtime: Its session, warmed up or not.
            config: The server's settings with the model's own in them.
        """
        self.name = file.name
        self.version = str(file.version)
        self.runtime = runtime
        self.signature = runtime.signature
        self.statistics = ModelStatistics()
        self._max_bytes = config.max_message_mib << 20
        self._alone_batches = 0  # in a row
        self._sharing: list[None] = []  # one element a caller: append and pop are atomic, += is not
        self.max_batch_size = config.max_batch_size_of(file.name) if self.signature.batched else 1
        self.batcher = Batcher(
            max_batch_size=self.max_batch_size,
            max_queue_size=config.max_queue_size,
            instances=config.instance_count,
            max_queue_delay=config.max_queue_delay_microseconds / 1e6,
        )
        self._instances = [
            threading.Thread(target=self._serve, name=f"{self.name}-{number}", daemon=True)
            for number in range(config.instance_count)
        ]

    @property
    def queued(self) -> int:
        return len(self.batcher)

    @property
    def computing(self) -> int:
        return self.batcher.computing

    @property
    def computers(self) -> Sequence[Computer]:
        return (self,)

    @property
    def on_cpu(self) -> bool:
        return self.runtime.on_cpu

    @property
    def max_queue_delay(self) -> float:
        return self.batcher.max_queue_delay

    @property
    def instances(self) -> int:
        """Number of threads that compute batches."""
        return len(self._instances)

    @property
    def shares_processors(self) -> bool:
        """Whether no batch is computed with more threads, since copies of requests are computed too."""
        return bool(self._sharing)

    def share_processors(self, shared: bool) -> None:
        if shared:
            self._sharing.append(None)
        else:
            self._sharing.pop()

    def start(self) -> None:
        """Start the threads that compute batches."""
        for instance in self._instances:
            instance.start()

    def submit(
        self,
        inputs: Tensors,
        datatypes: Mapping[str, str],
        on_complete: OnComplete,
        deadline: float | None = None,
        *,
        admission: Admission | None = None,
        wake: bool = True,
        key: Callable[[str], str] | None = None,
    ) -> Cancel:
        samples, equal_key = admission or self.check(inputs, datatypes)
        request = QueuedRequest(inputs, samples, on_complete, batch_key=equal_key, deadline=deadline)
        self.batcher.put(request, wake=wake)
        return partial(self.batcher.cancel, request)

    def require_place(self) -> None:
        self.batcher.require_place()

    def check(self, inputs: Tensors, datatypes: Mapping[str, str]) -> Admission:
        samples = count_samples(
            self.signature,
            inputs,
            datatypes,
            self.max_batch_size,
            no_empty_because=self.runtime.no_empty_because,
            max_bytes=self._max_bytes,
        )
        return samples, batch_key(self.signature, inputs)

    def execute(self, batch: list[QueuedRequest]) -> None:
        """Compute a batch that ``batcher.take`` returned, and complete its requests. Never raises.

        If the batch fails, each of its requests is computed once more, alone, so that none fails for the values of
        another one.
        """
        started = time.monotonic()
        try:
            results = self._compute(batch, started)
        except Exception as error:
            self._execute_one_by_one(batch, error)
            return
        self.batcher.finish(batch, time.monotonic() - started)
        self.statistics.record_batch([result.timings for result in results])
        with completing_batch():
            for request, result in zip(batch, results, strict=True):
                request.complete(result)

    def _execute_one_by_one(self, batch: list[QueuedRequest], batch_error: Exception) -> None:
        requests = batch
        outcomes: list[InferenceResult | ServerError] = [_failure(batch_error)]
        if len(batch) > 1:
            requests = [request for request in batch if not request.completed]
            outcomes = [self._compute_alone(request) for request in requests]
        self.batcher.finish(batch)
        with completing_batch():
            for request, outcome in zip(requests, outcomes, strict=True):
                if isinstance(outcome, InferenceResult):
                    self.statistics.record_batch([outcome.timings])
                request.complete(outcome)
        all_answered = len(requests) == len(batch) and all(isinstance(each, InferenceResult) for each in outcomes)
        # Invalid values are the error of one client, which its own answer reports. If every request succeeds alone, no
        # client is at fault: the requests only cannot be batched, which the log must report.
        if not isinstance(batch_error, InvalidValuesError) or all_answered:
            log.error("batch failed", model=self.name, version=self.version, requests=len(batch), exc_info=batch_error)

    def _compute_alone(self, request: QueuedRequest) -> InferenceResult | ServerError:
        try:
            return self._compute([request], time.monotonic())[0]
        except Exception as error:
            return _failure(error)

    def state(self) -> VersionState:
        return VersionState(
            self.name,
            self.version,
            READY,
            requested_provider=self.runtime.requested_provider,
            provider=self.runtime.provider,
            cuda_graphs=self.runtime.cuda_graphs,
            fell_back=self.runtime.fell_back,
            io_binding_failures=self.runtime.io_binding_failures,
            instances=self.instances,
            queued=self.queued,
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
        """Compute what is queued, then end the threads."""
        self.batcher.close()
        for instance in self._instances:
            if instance.is_alive():
                instance.join()

    def _serve(self) -> None:
        while batch := self.batcher.take():
            self.execute(batch)

    def _compute(self, batch: list[QueuedRequest], started: float) -> list[InferenceResult]:
        begin = time.perf_counter_ns()
        inputs = batch[0].inputs
        if len(batch) > 1:
            inputs = {name: np.concatenate([request.inputs[name] for request in batch]) for name in inputs}
        gathered = time.perf_counter_ns()
        self._alone_batches = self._alone_batches + 1 if self.batcher.computing == 1 and not len(self.batcher) else 0
        outputs = self.runtime.run(inputs, alone=self._alone_batches >= _ALONE_BATCHES and not self._sharing)
        computed = time.perf_counter_ns()
        parts = _split(outputs, [request.samples for request in batch])
        split = time.perf_counter_ns()
        costs = (gathered - begin, computed - gathered, split - computed, sum(request.samples for request in batch))
        return [
            InferenceResult(part, Timings(int((started - request.enqueued) * 1e9), *costs))
            for request, part in zip(batch, parts, strict=True)
        ]


def _failure(error: Exception) -> ServerError:
    return error if isinstance(error, ServerError) else InferenceError(f"the batch failed: {error}")


def _split(outputs: Tensors, sizes: list[int]) -> list[Tensors]:
    """Cut the outputs of a batch into those of its requests, which have these numbers of samples."""
    if len(sizes) == 1:
        return [outputs]
    for name, array in outputs.items():
        if len(array) != sum(sizes):  # else a request would get rows of another one
            raise InferenceError(
                f"output {name!r} has {len(array)} rows for {sum(sizes)} samples: its first axis is not the batch's"
            )
    parts: list[Tensors] = []
    end = 0
    for size in sizes:
        start, end = end, end + size
        parts.append({name: array[start:end] for name, array in outputs.items()})
    return parts
