"""A version of a model that serves: its session, its queue, and its counters."""

import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import structlog

from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.batching.batcher import Batcher
from hangtag.serving.server.batching.call import Call, InferenceResult, Tensors, answer
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.compute_pool import ComputePool
from hangtag.serving.server.engine.servable import Admission
from hangtag.serving.server.engine.validation import batch_key, count_samples
from hangtag.serving.server.errors import InferenceError, InvalidValuesError, ServerError
from hangtag.serving.server.runtime.inference_session import VERSION
from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.server.telemetry.model_statistics import BatchCost, ModelStatistics
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
        self._pool: ComputePool | None = None

    @property
    def queued(self) -> int:
        return self.batcher.waiting

    @property
    def computing(self) -> int:
        return self.batcher.computing

    @property
    def on_cpu(self) -> bool:
        return self.runtime.on_cpu

    @property
    def max_queue_delay(self) -> float:
        return self.batcher.max_queue_delay

    @property
    def instances(self) -> int:
        """Number of batches that may be computed at once."""
        return self.batcher.instances

    @property
    def shares_processors(self) -> bool:
        """Whether no batch is computed with more threads, since copies of requests are computed too."""
        return bool(self._sharing)

    def share_processors(self, shared: bool) -> None:
        if shared:
            self._sharing.append(None)
        else:
            self._sharing.pop()

    def start(self, pool: ComputePool) -> None:
        self._pool = pool

    def put(self, call: Call) -> None:
        self.batcher.put(call)
        if self._pool is not None:
            self._pool.offer(self)

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

    def compute(self, batch: list[Call], *, alone: bool) -> Callable[[], None]:
        """See `compute_pool.Computer`.

        If the batch fails, each of its calls is computed once more, alone, so that none fails for the values of another
        one.
        """
        started = time.monotonic()
        try:
            outputs, cost = self._compute(batch, alone=alone)
        except Exception as error:
            return self._compute_one_by_one(batch, error)
        calls = self.batcher.finish(batch, time.monotonic() - started)
        self.statistics.record_batch([call.queue_ns for call in batch], cost)
        return partial(answer, calls, outputs, cost)

    def _compute_one_by_one(self, batch: list[Call], batch_error: Exception) -> Callable[[], None]:
        calls = batch
        outcomes: list[InferenceResult | ServerError] = [_failure(batch_error)]
        if len(batch) > 1:
            calls = [call for call in batch if not call.done]
            outcomes = [self._compute_alone(call) for call in calls]
        waiting = set(self.batcher.finish(batch))
        for outcome in outcomes:
            if isinstance(outcome, InferenceResult):
                timings = outcome.timings
                self.statistics.record_batch([timings.queue_ns], BatchCost(*timings[1:5]))
        all_answered = len(calls) == len(batch) and all(isinstance(each, InferenceResult) for each in outcomes)
        # Invalid values are the error of one client, which its own answer reports. If every request succeeds alone, no
        # client is at fault: the requests only cannot be batched, which the log must report.
        if not isinstance(batch_error, InvalidValuesError) or all_answered:
            log.error("batch failed", model=self.name, version=self.version, requests=len(batch), exc_info=batch_error)

        def end() -> None:
            for call, outcome in zip(calls, outcomes, strict=True):
                if call in waiting:
                    call.end(outcome)

        return end

    def _compute_alone(self, call: Call) -> InferenceResult | ServerError:
        call.queue_ns = int((time.monotonic() - call.enqueued) * 1e9)
        try:
            return call.part_of(*self._compute([call], alone=False))
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
        """Compute what is queued, then free the session's memory."""
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
        self._alone_batches = self._alone_batches + 1 if alone and not self.batcher.waiting else 0
        outputs = self.runtime.run(inputs, alone=self._alone_batches >= _ALONE_BATCHES and not self._sharing)
        computed = time.perf_counter_ns()
        samples = batch[-1].row + batch[-1].samples if len(batch) > 1 else batch[0].samples
        if len(batch) > 1:
            _require_rows(outputs, samples)
        checked = time.perf_counter_ns()
        return outputs, BatchCost(joined - begin, computed - joined, checked - computed, samples, len(batch))


def _failure(error: Exception) -> ServerError:
    return error if isinstance(error, ServerError) else InferenceError(f"the batch failed: {error}")


def _require_rows(outputs: Tensors, samples: int) -> None:
    """Raise InferenceError where an output has not one row for each sample: else a call would get another one's."""
    for name, array in outputs.items():
        if len(array) != samples:
            raise InferenceError(
                f"output {name!r} has {len(array)} rows for {samples} samples: its first axis is not the batch's"
            )
