"""What no server can show: grpcio's other internals, calls whose end is never reported, when exactly a call left."""

import multiprocessing
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest

from hangtag.serving.client import Credentials
from hangtag.serving.loadtest.generator.channels import connect, grpc_channels
from hangtag.serving.loadtest.generator.channels.http_channel import HttpChannel
from hangtag.serving.loadtest.generator.executors import Assignment, create
from hangtag.serving.loadtest.generator.messages import Block, CallSettings, RequestPool, SharedCounts
from hangtag.serving.loadtest.plan.limits import Limits
from hangtag.serving.loadtest.plan.load import ClosedLoop, Load, OpenLoop
from tests.kit.fake_server import FakeServer, running_over_http
from tests.kit.waiting import until

pytestmark = pytest.mark.slow

PRIVATE, PUBLIC = "grpcio's completion queue", "grpcio's futures"


class WithoutQueue(grpc_channels.CompletionQueueChannel):
    """As a grpcio version with other internal names."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        super().__init__(address, credentials)
        raise AttributeError("'Channel' object has no attribute '_channel'")


class WithOtherCalls(grpc_channels.CompletionQueueChannel):
    """As a grpcio version whose queue takes other arguments."""

    def send(self, *args: Any) -> None:
        raise TypeError("integrated_call() takes 3 positional arguments")


class WithoutEvents(grpc_channels.CompletionQueueChannel):
    """As a grpcio version whose queue never returns an event."""

    def send(self, *args: Any) -> None:
        """Never ends."""


@pytest.mark.parametrize("kind", [WithoutQueue, WithOtherCalls, WithoutEvents])
def test_other_internals_of_grpcio_are_answered_by_its_public_interface(
    server: FakeServer, kind: Callable[[str, Credentials], Any]
) -> None:
    channel = connect.connect(server.address, Credentials(), private=kind, timeout=0.2)
    assert channel.name == PUBLIC
    channel.close()


class LosesOneEnd:
    """Answers each call at once on another thread, but never the fourth."""

    name = "loses one end"

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._sent = 0
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    def send(self, method: str, request: bytes, timeout: float, metadata: Any, token: Any, on_end: Any) -> None:
        self._sent += 1
        sent = time.perf_counter()
        if self._sent != 4:
            self._calls.put(lambda: on_end(token, sent, time.perf_counter(), 0, ""))

    def close(self) -> None:
        self._calls.put(None)
        self._thread.join()

    def _answer(self) -> None:
        while call := self._calls.get():
            call()


@pytest.mark.parametrize("load", [ClosedLoop(2), OpenLoop(200.0)], ids=["closed", "open"])
def test_a_call_whose_end_grpc_never_reports_is_a_failure_and_the_block_ends(load: Load) -> None:
    """At times gRPC reports no end of a call whose connection the server has cut."""
    channel = LosesOneEnd()
    block = Block("fast", load, Limits(0.1, 20, 10.0, 100_000), warm_up=0.0, seed=0, round=0)
    settings = CallSettings(deadline=0.2, lost_after=0.1)
    counts = SharedCounts(multiprocessing.get_context("spawn"), 1)
    pool = RequestPool("", "", (b"",))
    executor = create(Assignment(block, [channel], pool, settings, counts, 0, 1))
    pacer = threading.Thread(target=executor.pace)
    pacer.start()

    def drained() -> bool:
        executor.check_limits()
        executor.give_up_lost_calls()
        return executor.drained.is_set()

    until(drained)
    pacer.join()
    channel.close()
    result = executor.result()
    assert result.statuses["UNKNOWN"] == 1
    assert "did not report" in result.details["UNKNOWN"]
    assert result.statuses["OK"] >= 19
    assert result.queries == result.statuses.total()


def test_a_call_over_http_leaves_when_it_is_written_and_is_cancelled_when_the_channel_closes() -> None:
    """While the thread that writes stands still, a call waits for it, which is the generator's delay."""
    fake, ended = FakeServer(), threading.Event()

    def hang(number: int, context: object) -> None:
        ended.wait(20)

    fake.behaviour = hang
    live = b"GET /v2/health/live HTTP/1.1\r\nhost: here\r\n\r\n"
    infer = b"POST /v2/models/fast/infer HTTP/1.1\r\nhost: here\r\ncontent-length: 0\r\n\r\n"
    ends: SimpleQueue[tuple[str, float, float, int]] = SimpleQueue()
    standing, go_on = threading.Event(), threading.Event()

    def stand_still(*_: object) -> None:  # on the thread that writes, which calls it
        standing.set()
        go_on.wait(20)

    def keep(token: str, sent: float, end: float, code: int, details: str) -> None:
        ends.put((token, sent, end, code))

    with running_over_http(fake):
        channel = HttpChannel(fake.address, Credentials())
        channel.send("", live, 10.0, None, "first", stand_still)
        assert standing.wait(20)
        channel.send("", live, 10.0, None, "second", keep)
        went_on = time.perf_counter()
        go_on.set()
        token, sent, end, code = ends.get(timeout=20)
        assert (token, code) == ("second", 0)
        assert went_on <= sent <= end
        channel.send("", infer, 10.0, None, "hangs", keep)
        until(lambda: fake.requests)
        channel.close()
        assert ends.get(timeout=20)[::3] == ("hangs", 1)  # CANCELLED
        channel.close()  # a second time changes nothing
        ended.set()
