"""Far more callers than it can answer: what is accepted waits no longer than the queue's bound says."""

import threading
from pathlib import Path

import grpc
import pytest

from hangtag.serving.server.batching.request import QueuedRequest
from hangtag.serving.server.engine.served_model import ServedModel
from tests.kit.live import TIMEOUT, index, outputs, request
from tests.kit.over_http import EVERY_TRANSPORT, live_server

pytestmark = pytest.mark.slow

CALLERS = 40
ANSWERS = 600
BATCH, QUEUE = 2, 6
MOST_BATCHES = QUEUE // BATCH + 1
"""Batches that can begin after a request was accepted, its own included: those of a full queue, and one that was taken
just before and is counted just after."""


class Waits:
    """For each request that was computed, how many batches began from when it was accepted until its own did."""

    def __init__(self, model: ServedModel) -> None:
        self.batches: list[int] = []
        self._begun = 0
        self._accepted: dict[QueuedRequest, int] = {}
        put, execute = model.batcher.put, model.execute

        def noting_put(request: QueuedRequest, *, wake: bool = True) -> None:
            self._accepted[request] = self._begun
            put(request, wake=wake)

        def noting_execute(batch: list[QueuedRequest]) -> None:
            self._begun += 1  # there is one instance, so one thread at a time
            self.batches += [self._begun - self._accepted[entry] for entry in batch]
            execute(batch)

        model.batcher.put = noting_put  # type: ignore[method-assign]
        model.execute = noting_execute  # type: ignore[method-assign]


@EVERY_TRANSPORT
def test_requests_accepted_in_overload_wait_no_longer_than_a_full_queue_takes(repository: Path, transport: str) -> None:
    server = live_server(transport, repository, max_batch_size=BATCH, max_queue_size=QUEUE, instances=1)
    ends: list[grpc.StatusCode] = []
    with server as live, live.gate("gather") as gate:
        waits = Waits(live.model("gather"))

        def ask() -> grpc.StatusCode:
            try:
                answer = live.inference.ModelInfer(request("gather", index=index(2)), timeout=TIMEOUT)
            except grpc.RpcError as error:
                code: grpc.StatusCode = error.code()
                return code
            assert outputs(answer)["value"].tolist() == [20]
            return grpc.StatusCode.OK

        def call() -> None:
            while len(waits.batches) < ANSWERS:
                ends.append(ask())

        callers = [threading.Thread(target=call) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        gate.wait_until_queued(1 + QUEUE)
        assert ask() is grpc.StatusCode.RESOURCE_EXHAUSTED
        gate.open()
        for caller in callers:
            caller.join(2 * TIMEOUT)
            assert not caller.is_alive()
        assert set(ends) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert len(waits.batches) == ends.count(grpc.StatusCode.OK)  # every accepted request was answered
        assert max(waits.batches) <= MOST_BATCHES
