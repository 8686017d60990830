"""A model that serves: its runtime, its queue, its instances (threads that compute batches) and its counters."""

import threading
import time
from collections.abc import Mapping

import numpy as np
import structlog

from serving.server.batcher import Answer, Batcher, Entry, OnDone, Tensors, Timings
from serving.server.config import ServerConfig
from serving.server.errors import InferenceError, ServerError
from serving.server.repository import ModelFile
from serving.server.runtime import Runtime
from serving.server.statistics import Statistics
from serving.server.validation import batch_kind, count_samples

log = structlog.get_logger()


class ServedModel:
    """One version of one model. ``start`` it before the first request, ``close`` it after the last."""

    def __init__(self, file: ModelFile, runtime: Runtime, config: ServerConfig) -> None:
        self.name = file.name
        self.version = str(file.version)
        self.runtime = runtime
        self.signature = runtime.signature
        self.statistics = Statistics()
        self.max_batch_size = config.max_batch_size_of(file.name) if self.signature.batched else 1
        self.batcher = Batcher(
            max_batch_size=self.max_batch_size,
            max_queue_size=config.max_queue_size,
            max_queue_delay=config.max_queue_delay_microseconds / 1e6,
        )
        self._instances = [
            threading.Thread(target=self._serve, name=f"{self.name}-{number}", daemon=True)
            for number in range(config.instances)
        ]

    @property
    def instances(self) -> int:
        return len(self._instances)

    def start(self) -> None:
        for instance in self._instances:
            instance.start()

    def submit(
        self, inputs: Tensors, datatypes: Mapping[str, str], on_done: OnDone, deadline: float | None = None
    ) -> Entry:
        """Check a request and queue it; on_done gets the answer or the error, from another thread.

        deadline: on the monotonic clock, in seconds. Raises InvalidRequestError, QueueFullError or UnavailableError;
        on_done is not called then.
        """
        samples = count_samples(self.signature, inputs, datatypes, self.max_batch_size)
        entry = Entry(inputs, samples, on_done, kind=batch_kind(self.signature, inputs), deadline=deadline)
        self.batcher.put(entry)
        return entry

    def cancel(self, entry: Entry) -> None:
        """The caller went away: drop the entry if it is still waiting, and its answer if it is being computed."""
        self.batcher.cancel(entry)

    def execute(self, batch: list[Entry]) -> None:
        """Compute a batch and complete its entries. Never raises: what fails, fails this batch only."""
        started = time.monotonic()
        try:
            answers = self._compute(batch, started)
        except Exception as error:
            failure = error if isinstance(error, ServerError) else InferenceError(f"the batch failed: {error}")
            log.exception("batch failed", model=self.name, version=self.version, requests=len(batch))
            for entry in batch:
                self.statistics.record_failure(int((time.monotonic() - entry.enqueued) * 1e9))
                entry.complete(failure)
            return
        self.statistics.record_batch([answer.timings for answer in answers])
        for entry, answer in zip(batch, answers, strict=True):
            entry.complete(answer)

    def close(self) -> None:
        """Finish what is queued, then end the instances."""
        self.batcher.close()
        for instance in self._instances:
            if instance.is_alive():
                instance.join()

    def _serve(self) -> None:
        while batch := self.batcher.take():
            self.execute(batch)

    def _compute(self, batch: list[Entry], started: float) -> list[Answer]:
        begin = time.perf_counter_ns()
        inputs = batch[0].inputs
        if len(batch) > 1:
            inputs = {name: np.concatenate([entry.inputs[name] for entry in batch]) for name in inputs}
        gathered = time.perf_counter_ns()
        outputs = self.runtime.run(inputs)
        computed = time.perf_counter_ns()
        parts = _split(outputs, [entry.samples for entry in batch])
        split = time.perf_counter_ns()
        samples = sum(entry.samples for entry in batch)
        return [
            Answer(
                part,
                Timings(
                    queue_ns=int((started - entry.enqueued) * 1e9),
                    compute_input_ns=gathered - begin,
                    compute_infer_ns=computed - gathered,
                    compute_output_ns=split - computed,
                    batch_size=samples,
                ),
            )
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
    parts: list[Tensors] = []
    start = 0
    for size in sizes:
        parts.append({name: array[start : start + size] for name, array in outputs.items()})
        start += size
    return parts
