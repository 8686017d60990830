"""Make the calls of a stream, several at a time, and yield their results in the order of the requests."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from typing import Any

from google.protobuf.message import Message

IN_FLIGHT = 16
"""The largest number of calls that one stream has in flight. The server can batch calls that are in flight together."""


async def in_order(
    call: Callable[[Message], Awaitable[Any]], requests: AsyncIterable[Message]
) -> AsyncGenerator[Any, None]:
    """Yield the results of the calls in the order of their requests. A request is read only when another call may
    begin.

    If iterating over the requests raises an exception, it is re-raised after the results of all earlier requests.
    """
    begun: asyncio.Queue[asyncio.Future[Any] | None] = asyncio.Queue()
    free = asyncio.Semaphore(IN_FLIGHT)

    async def begin_all() -> None:
        try:
            async for request in requests:
                await free.acquire()
                begun.put_nowait(asyncio.ensure_future(call(request)))
        finally:
            begun.put_nowait(None)

    beginning = asyncio.create_task(begin_all())
    try:
        while task := await begun.get():
            yield await task
            free.release()
        await beginning
    finally:
        unfinished: list[asyncio.Future[Any]] = [beginning]
        while not begun.empty():
            if task := begun.get_nowait():
                unfinished.append(task)
        for each in unfinished:
            each.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
