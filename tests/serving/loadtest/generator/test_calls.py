"""Calls under conditions that no real server produces on demand, such as a call whose end gRPC never reports."""

import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from hangtag.serving.client import Credentials
from hangtag.serving.loadtest.generator.block_result import BlockResult
from hangtag.serving.loadtest.generator.channels import RequestPool
from hangtag.serving.loadtest.generator.executors import Executor, Share, SharedCounts, create
from hangtag.serving.loadtest.generator.generator_process import connect
from hangtag.serving.loadtest.generator.http_channel import HttpChannel
from hangtag.serving.loadtest.plan.load import Block, ClosedLoop, Limits, Load, OpenLoop
from tests.kit.fake_server import FakeServer, running_over_http
from tests.kit.other_servers import listener, say_nothing
from tests.kit.waiting import pass_time

pytestmark = pytest.mark.quick


class LosesOneEnd:
    """A channel that ends each call immediately, on another thread, except the fourth call, which never ends."""

    def __init__(self) -> None:
        self._sent = 0
        self._thread = ThreadPoolExecutor(1)

    def send(self, method: str, request: bytes, timeout: float, metadata: Any, token: Any, on_end: Any) -> None:
        self._sent += 1
        if self._sent != 4:
            now = time.perf_counter()
            self._thread.submit(on_end, token, now, now, 0, "")

    def close(self) -> None:
        self._thread.shutdown()


def run_on(channel: LosesOneEnd, load: Load, limits: Limits) -> tuple[Executor, BlockResult]:
    """Run a block on a channel, and return the executor and the block's result."""
    block = Block("fast", load, limits, warm_up=0.0, seed=0, round=0)
    counts = SharedCounts(multiprocessing.get_context("spawn"), 1)
    share = Share(counts, deadline=0.2, lost_after=0.1)
    executor = create(block, [channel], RequestPool("", "", (b"",)), share)
    result = executor.run()
    channel.close()
    return executor, result


@pytest.mark.parametrize("load", [ClosedLoop(2), OpenLoop(200.0)], ids=["closed", "open"])
def test_a_call_whose_end_grpc_never_reports_is_a_failure_and_the_block_ends(load: Load) -> None:
    """gRPC sometimes never reports the end of a call whose connection the server has cut."""
    _, result = run_on(LosesOneEnd(), load, Limits(0.1, 20, 10.0, 100_000))
    assert result.statuses["UNKNOWN"] == 1
    assert "did not report" in result.details["UNKNOWN"]
    assert result.statuses["OK"] >= 19
    assert result.queries == result.statuses.total()


class Answers(LosesOneEnd):
    """With ``together``, collects eight calls and answers all at once; otherwise, answers one call per millisecond."""

    def __init__(self, together: bool) -> None:
        super().__init__()
        self._together, self._waiting = together, list[Any]()

    def send(self, method: str, request: bytes, timeout: float, metadata: Any, token: Any, on_end: Any) -> None:
        self._waiting.append((token, time.perf_counter(), on_end))
        if not self._together or len(self._waiting) == 8:
            calls, self._waiting = self._waiting, []
            self._thread.submit(self._end, calls)

    def _end(self, calls: list[Any]) -> None:
        for token, sent, on_end in calls:
            if not self._together:
                pass_time(0.001)
            on_end(token, sent, time.perf_counter(), 0, "")


@pytest.mark.parametrize("together", [True, False])
def test_answers_that_wait_for_each_other_at_the_generator_count_as_its_share(together: bool) -> None:
    executor, _ = run_on(Answers(together), ClosedLoop(8), Limits(0.05, 100, 10.0, 100_000))
    assert (executor.latency_share(0.0) > 0.1) is together
    assert executor.latency_share(1.0) == pytest.approx(min(executor.latency_share(0.0) + 1 / 8, 1.0))


def test_a_call_over_http_that_gets_no_answer_ends_at_its_deadline() -> None:
    ends: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
    with listener(say_nothing) as address:
        channel = HttpChannel(f"http://{address}", Credentials())
        began = time.perf_counter()
        channel.send("", b"GET / HTTP/1.1\r\nhost: here\r\n\r\n", 0.1, None, "late", lambda *end: ends.put(end))
        _, _, end, code, _ = ends.get(timeout=20)
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        assert end - began >= 0.1
        channel.close()


def test_a_call_over_http_leaves_when_it_is_written() -> None:
    """A call counts as sent when the writing thread begins it, so a wait for this thread is the generator's delay."""
    live = b"GET /v2/health/live HTTP/1.1\r\nhost: here\r\n\r\n"
    ends: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
    standing, go_on = threading.Event(), threading.Event()

    def stand_still(*_: object) -> None:  # blocks the thread that writes
        standing.set()
        go_on.wait(20)

    with running_over_http(FakeServer()) as fake:
        channel = connect(fake.address, Credentials())
        channel.send("", live, 10.0, None, "first", stand_still)
        assert standing.wait(20)
        channel.send("", live, 10.0, None, "second", lambda *end: ends.put(end))
        went_on = time.perf_counter()
        go_on.set()
        token, sent, end, code, _ = ends.get(timeout=20)
        assert (token, code) == ("second", 0)
        assert went_on <= sent <= end
        channel.close()
