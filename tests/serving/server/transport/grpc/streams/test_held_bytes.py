"""What a stream holds for a client that does not read: requests, and answers that are computed and not sent."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

import numpy as np

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.batching.request import InferenceResult, memory_of
from hangtag.serving.server.errors import InferenceError
from hangtag.serving.server.telemetry.model_statistics import Timings
from hangtag.serving.server.transport.event_loop import run
from hangtag.serving.server.transport.grpc.streams.ordered_stream import FIRST, OrderedStream
from hangtag.serving.server.transport.queries.pending import HandOver, PendingQuery
from hangtag.serving.server.transport.submission import Answered, Failed, Outcome

WINDOW, MAX_BYTES = 100, 1000
TIMINGS = Timings(0, 0, 0, 0, 1)

Size: TypeAlias = int | None
"""Bytes of an answer; None for a request that fails."""


def outcome(size: Size) -> Outcome[int]:
    if size is None:
        return Failed(InferenceError("on purpose"))
    outputs = {"y": np.zeros(size, np.uint8)}
    return Answered(InferenceResult(outputs, TIMINGS), lambda result: result.outputs["y"].nbytes, is_large=False)


class Stream:
    """A stream whose requests are computed, and whose answers are taken, when a test says so."""

    def __init__(self, sizes: Sequence[Size]) -> None:
        loop = asyncio.get_running_loop()
        hand_over = HandOver(loop)
        self.stream: OrderedStream[pb.ModelInferRequest, int] = OrderedStream(
            WINDOW, MAX_BYTES, lambda: PendingQuery(loop, hand_over)
        )
        self._sizes = sizes
        self._submitted: list[PendingQuery[int]] = []
        self._computed = 0
        self._outcomes = self.stream.outcomes()

    @property
    def under_way(self) -> int:
        return len(self._submitted) - self._computed

    def compute(self, count: int) -> None:
        for place in range(self._computed, self._computed + count):
            self._submitted[place](outcome(self._sizes[place]))
        self._computed += count

    async def settle(self) -> None:
        for _ in range(10 * WINDOW):
            await asyncio.sleep(0)

    async def compute_all(self) -> int:
        """Compute whatever is read, until nothing more is; return how many requests were read altogether."""
        await self.settle()
        while self.under_way:
            self.compute(self.under_way)
            await self.settle()
        return len(self._submitted)

    async def take(self) -> Outcome[int]:
        _request, _size, taken = await anext(self._outcomes)
        return taken

    async def read(self) -> None:
        async def requests() -> AsyncIterator[pb.ModelInferRequest]:
            for _ in self._sizes:
                yield pb.ModelInferRequest()  # no bytes

        async def submit(_request: pb.ModelInferRequest, _size: int, query: PendingQuery[int]) -> None:
            self._submitted.append(query)

        await self.stream.read(requests(), submit)


@asynccontextmanager
async def opened(sizes: Sequence[Size]) -> AsyncIterator[Stream]:
    stream = Stream(sizes)
    reader = asyncio.create_task(stream.read())
    await stream.settle()
    try:
        yield stream
    finally:
        stream.stream.leave()
        await reader


def test_few_requests_are_read_before_the_size_of_an_answer_is_known() -> None:
    async def check() -> None:
        async with opened([1] * 300) as stream:
            assert stream.under_way == FIRST
            stream.compute(1)
            await stream.settle()
            assert stream.under_way == WINDOW - 1

    run(check())


def test_small_answers_that_nobody_takes_fill_the_window() -> None:
    async def check() -> None:
        async with opened([1] * 300) as stream:
            assert await stream.compute_all() == WINDOW

    run(check())


def test_large_answers_that_nobody_takes_are_no_more_than_the_bytes_allow() -> None:
    async def check() -> None:
        async with opened([90] * 300) as stream:
            assert await stream.compute_all() == MAX_BYTES // 90

    run(check())


def test_each_answer_that_is_taken_makes_room_for_another() -> None:
    async def check() -> None:
        async with opened([90] * 300) as stream:
            read = await stream.compute_all()
            for taken in range(1, 20):
                assert (await stream.take()).response() == 90
                assert await stream.compute_all() == read + taken

    run(check())


def test_answers_above_the_limit_go_one_by_one_to_the_end() -> None:
    async def check() -> None:
        async with opened([2 * MAX_BYTES] * 30) as stream:
            assert await stream.compute_all() == FIRST  # whose sizes were not known
            for taken in range(1, 31):
                assert (await stream.take()).response() == 2 * MAX_BYTES
                assert await stream.compute_all() == min(30, max(FIRST, taken + 1))

    run(check())


def test_a_large_answer_among_small_ones_holds_up_few_requests_after_it() -> None:
    async def check() -> None:
        async with opened([1] * FIRST + [2 * MAX_BYTES] + [1] * 300) as stream:
            await stream.compute_all()
            for _ in range(30):
                await stream.take()
                read = await stream.compute_all()
            assert read == 30 + WINDOW

    run(check())


def test_failures_let_nothing_expect_of_the_answers_after_them() -> None:
    async def check() -> None:
        async with opened([None] * 300) as stream:
            assert await stream.compute_all() == FIRST
            for taken in range(1, 20):
                assert isinstance(await stream.take(), Failed)
                assert await stream.compute_all() == FIRST + taken

    run(check())


def test_an_answer_counts_once_when_it_is_taken_in_the_moment_it_is_computed() -> None:
    async def check() -> None:
        async with opened([90] * 30) as stream:
            for _ in range(30):
                stream.compute(1)
                await stream.take()  # before the loop has run anything else
                await stream.settle()
            assert (stream.stream._held, stream.stream._computing) == (0, 0)

    run(check())


def test_texts_count_with_their_characters() -> None:
    def size(*texts: str) -> int:
        return memory_of(np.array(texts, np.object_))

    assert memory_of(np.array([], np.object_)) == 0
    assert 100_000 < size("x" * 100_000) < 101_000
    assert 2_000_000 < size(*["x" * 1000] * 2000) < 2_200_000  # looks at half of them
