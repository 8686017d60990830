"""In any order of events, no request is lost, answered twice, reordered, batched wrongly, or computed in vain."""

import re

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hangtag.serving.server.errors import (
    CancelledError,
    DeadlineError,
    InferenceError,
    QueueFullError,
    UnavailableError,
)
from hangtag.serving.server.queue.call import Call, InferenceResult
from hangtag.serving.server.telemetry.model_statistics import Timings
from tests.kit.parts import Clock, KeptCall, batcher

RESERVED_SHARE = 0.2
"""While every instance is busy, the batcher reserves this share of a call's remaining time for sending the answer."""


class BatcherMachine(RuleBasedStateMachine):
    """Enqueues, cancels, takes, answers and fails requests in any order, and compares the batcher with a plain list."""

    @initialize(
        size=st.integers(1, 6),
        queue=st.integers(1, 8),
        delay=st.sampled_from([0.0, 3.0]),
        instances=st.sampled_from([1, 2, 1000]),
    )
    def start(self, size: int, queue: int, delay: float, instances: int) -> None:
        self.clock = Clock()
        self.batcher = batcher(self.clock, size=size, queue=queue, delay=delay, instances=instances)
        self.calls: list[KeptCall] = []
        self.waiting: list[KeptCall] = []
        self.computing: list[list[Call]] = []
        self.expected: dict[KeptCall, type | InferenceResult] = {}
        self.closed = False

    @rule(samples=st.integers(1, 6), batch_key=st.sampled_from("ab"), patience=st.sampled_from([None, 0, 1, 2, 5]))
    def put(self, samples: int, batch_key: str, patience: int | None) -> None:
        samples = min(samples, self.batcher.max_batch_size)
        deadline = None if patience is None else self.clock.now + patience
        request = KeptCall(samples, batch_key=batch_key, deadline=deadline)
        is_full = len(self.waiting) >= self.batcher.max_queue_size
        refusal: Exception | None = None
        try:
            self.batcher.put(request)
        except (UnavailableError, QueueFullError, DeadlineError) as error:
            refusal = error
        assert isinstance(refusal, UnavailableError) == self.closed
        assert isinstance(refusal, QueueFullError) == (is_full and not self.closed)
        if isinstance(refusal, DeadlineError):
            assert patience is not None
            (milliseconds,) = re.findall(r"needs about (\d+\.\d) ms", str(refusal))
            assert patience * 1e3 <= float(milliseconds) + 0.1  # the message has a rounded number
        if refusal is None:
            self.calls.append(request)
            self.waiting.append(request)
        assert request.outcomes == []

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.calls))
        self.batcher.cancel(request)
        late = request.deadline is not None and request.deadline <= self.clock.now + 0.1
        self.expected.setdefault(request, DeadlineError if late else CancelledError)
        if request in self.waiting:
            self.waiting.remove(request)

    @rule(seconds=st.integers(1, 3))
    def time_passes(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule()
    def take(self) -> None:
        oldest = self.waiting[0].enqueued if self.waiting else None
        batch = self.batcher.take()
        dropped = [request for request in self.waiting if request.done]
        for request in dropped:
            assert request.deadline is not None
            assert request.deadline - request.ready_by <= RESERVED_SHARE * (request.deadline - request.enqueued) + 1e-9
            self.expected[request] = DeadlineError
        free = len(self.computing) < self.batcher.instances
        due = (
            free
            and oldest is not None
            and (
                self.closed
                or not self.batcher.max_queue_delay
                or self.clock.now >= oldest + self.batcher.max_queue_delay
            )
        )
        self.waiting = [request for request in self.waiting if not request.done]
        if not batch:
            assert not (due and self.waiting)
            return
        assert free
        assert batch[0] is self.waiting[0]  # the batch begins with the oldest request
        same_key = [request for request in self.waiting if request.batch_key == batch[0].batch_key]
        assert batch == same_key[: len(batch)]
        samples = sum(request.samples for request in batch)
        assert samples <= self.batcher.max_batch_size
        assert all(request.deadline is None or request.deadline > self.clock.now for request in batch)
        following = same_key[len(batch) : len(batch) + 1]
        has_deadline = any(request.deadline is not None for request in batch)  # a larger batch may miss a deadline
        assert not following or has_deadline or samples + following[0].samples > self.batcher.max_batch_size
        self.waiting = [request for request in self.waiting if request not in batch]
        self.computing.append(batch)

    @precondition(lambda self: self.computing)
    @rule(data=st.data(), fails=st.booleans())
    def finish(self, data: st.DataObject, fails: bool) -> None:
        batch = self.computing.pop(data.draw(st.integers(0, len(self.computing) - 1)))
        waiting = self.batcher.finish(batch, None if fails else data.draw(st.sampled_from([0.0, 0.5, 4.0])))
        assert waiting == [request for request in batch if request not in self.expected]
        for request in waiting:
            assert isinstance(request, KeptCall)
            outcome = InferenceError("made up") if fails else InferenceResult({}, Timings(id(request), 0, 0, 0, 1))
            request.end(outcome)
            self.expected[request] = InferenceError if isinstance(outcome, InferenceError) else outcome

    @rule()
    def close(self) -> None:
        self.batcher.close()
        self.closed = True

    @invariant()
    def each_caller_has_exactly_its_own_outcome(self) -> None:
        for request in self.calls:
            expected = self.expected.get(request)
            if expected is None:
                assert request.outcomes == []
            elif isinstance(expected, InferenceResult):
                assert request.outcome is expected
            else:
                assert type(request.outcome) is expected
        assert self.batcher.waiting == len(self.waiting)
        assert self.batcher.computing == len(self.computing)
        assert self.batcher.queued_samples == sum(request.samples for request in self.waiting)

    def teardown(self) -> None:
        if not hasattr(self, "batcher"):
            return
        self.close()
        while self.waiting or self.computing:
            while self.computing:
                for request in self.batcher.finish(self.computing.pop()):
                    request.end(InferenceResult({}, Timings(id(request), 0, 0, 0, 1)))
            self.take()
        assert self.batcher.computing == 0
        assert self.batcher.take() == []
        assert all(len(request.outcomes) == 1 for request in self.calls)


TestBatcher = BatcherMachine.TestCase
TestBatcher.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
