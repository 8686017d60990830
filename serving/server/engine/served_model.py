"""A model that serves: its runtime, its queue, its instances (threads that compute batches) and its counters."""

import itertools
import threading
import time
from collections.abc import Hashable, Mapping

import numpy as np
import structlog

from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.batching.batcher import Batcher
from hangtag.serving.server.batching.request import InferenceResult, OnComplete, QueuedRequest, Tensors
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.validation import batch_key, count_samples
from hangtag.serving.server.errors import InferenceError, InvalidValuesError, ServerError
from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.server.telemetry.model_statistics import ModelStatistics, Timings

log = structlog.get_logger()

# So many in a row with nothing beside them, and the next takes all threads: then one caller asks again and again. Where
# calls come by chance, threads that spin for the next batch are in the way of whatever else is to be done.
_ALONE_BATCHES = 16


class ServedModel:
    """One version of one model. ``start`` it before the first request, ``close`` it after the last."""

    def __init__(self, file: ModelFile, runtime: Runtime, config: ServerConfig) -> None:
        self.name = file.name
        self.version = str(file.version)
        self.runtime = runtime
        self.signature = runtime.signature
        self.statistics = ModelStatistics()
        self._alone_batches = 0  # in a row
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
    def instances(self) -> int:
        return len(self._instances)

    def start(self) -> None:
        for instance in self._instances:
            instance.start()

    def submit(
        self, inputs: Tensors, datatypes: Mapping[str, str], on_complete: OnComplete, deadline: float | None = None
    ) -> QueuedRequest:
        """Check a request and queue it; on_complete gets the answer or the error, from another thread.

        deadline: on the monotonic clock, in seconds. Raises InvalidRequestError, QueueFullError or UnavailableError;
        on_complete is not called then.
        """
        samples, batch_key = self.check(inputs, datatypes)
        entry = QueuedRequest(inputs, samples, on_complete, batch_key=batch_key, deadline=deadline)
        self.batcher.put(entry)
        return entry

    def check(self, inputs: Tensors, datatypes: Mapping[str, str]) -> tuple[int, Hashable]:
        """How many samples a request has, and its batch key, which depends on shapes alone.

        Raises InvalidRequestError when the request does not fit the model.
        """
        samples = count_samples(self.signature, inputs, datatypes, self.max_batch_size)
        return samples, batch_key(self.signature, inputs)

    def cancel(self, entry: QueuedRequest) -> None:
        """The caller went away: drop the entry if it is still waiting, and its answer if it is being computed."""
        self.batcher.cancel(entry)

    def execute(self, batch: list[QueuedRequest]) -> None:
        """Compute a batch and complete its entries. Never raises: what fails, fails this batch only.

        What fails together is computed once more, each request alone: nobody fails for a neighbour's values.
        """
        started = time.monotonic()
        try:
            answers = self._compute(batch, started)
        except Exception as error:
            self._execute_apart(batch, error)
            return
        self.batcher.finish(batch, time.monotonic() - started)
        self.statistics.record_batch([answer.timings for answer in answers])
        for entry, answer in zip(batch, answers, strict=True):
            entry.complete(answer)

    def _execute_apart(self, batch: list[QueuedRequest], error: Exception) -> None:
        """error: what the batch failed with as a whole."""
        entries, outcomes = batch, [self._failure(error)]
        if len(batch) > 1:
            entries = [entry for entry in batch if not entry.done]
            outcomes = [self._compute_alone(entry) for entry in entries]
        self.batcher.finish(batch)
        for entry, outcome in zip(entries, outcomes, strict=True):
            if isinstance(outcome, InferenceResult):
                self.statistics.record_batch([outcome.timings])
            else:
                self.statistics.record_failure(int((time.monotonic() - entry.enqueued) * 1e9))
            entry.complete(outcome)
        told = isinstance(error, InvalidValuesError)  # it is one caller's, and told to that caller alone
        if told and len(entries) == len(batch) and all(isinstance(outcome, InferenceResult) for outcome in outcomes):
            told = False  # nobody's: they only cannot be joined
        if not told:
            log.error("batch failed", model=self.name, version=self.version, requests=len(batch), exc_info=error)

    def _compute_alone(self, entry: QueuedRequest) -> InferenceResult | ServerError:
        try:
            return self._compute([entry], time.monotonic())[0]
        except Exception as error:
            return self._failure(error)

    @staticmethod
    def _failure(error: Exception) -> InferenceResult | ServerError:
        return error if isinstance(error, ServerError) else InferenceError(f"the batch failed: {error}")

    def close(self) -> None:
        """Finish what is queued, then end the instances."""
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
            inputs = {name: np.concatenate([entry.inputs[name] for entry in batch]) for name in inputs}
        gathered = time.perf_counter_ns()
        self._alone_batches = self._alone_batches + 1 if self.batcher.computing == 1 and not len(self.batcher) else 0
        outputs = self.runtime.run(inputs, alone=self._alone_batches >= _ALONE_BATCHES)
        computed = time.perf_counter_ns()
        parts = _split(outputs, [entry.samples for entry in batch])
        split = time.perf_counter_ns()
        costs = (gathered - begin, computed - gathered, split - computed, sum(entry.samples for entry in batch))
        return [
            InferenceResult(part, Timings(int((started - entry.enqueued) * 1e9), *costs))
            for entry, part in zip(batch, parts, strict=True)
        ]


def _split(outputs: Tensors, sizes: list[int]) -> list[Tensors]:
    if len(sizes) == 1:
        return [outputs]
    for name, array in outputs.items():
        if len(array) != sum(sizes):  # nobody may get a neighbour's rows
            raise InferenceError(
                f"output {name!r} has {len(array)} rows for {sum(sizes)} samples: its first axis is not the batch's"
            )
    ends = [*itertools.accumulate(sizes)]
    spans = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    split = [[array[span] for span in spans] for array in outputs.values()]
    return [dict(zip(outputs, part, strict=True)) for part in zip(*split, strict=True)]
