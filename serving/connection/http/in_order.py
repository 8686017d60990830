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
    begun: asyncio.Queue[asyncio.Future[Any] | BaseException | None] = asyncio.Queue()
    free = asyncio.Semaphore(IN_FLIGHT)
    tasks: set[asyncio.Future[Any]] = set()

    async def begin_all() -> None:
        try:
            async for request in requests:
                await free.acquire()
                task = asyncio.ensure_future(call(request))
                tasks.add(task)
                begun.put_nowait(task)
        except (Exception, asyncio.CancelledError) as error:  # iterating over the requests may raise CancelledError too
            if _being_cancelled():
                raise
            begun.put_nowait(error)
        else:
            begun.put_nowait(None)

    beginning = asyncio.create_task(begin_all())
    try:
        while True:
            task = await begun.get()
            if task is None:
                return
            if isinstance(task, BaseException):
                raise task
            result = await task
            tasks.discard(task)
            yield result
            free.release()
    finally:
        beginning.cancel()
        for unfinished in tasks:
            unfinished.cancel()
        await asyncio.gather(beginning, *tasks, return_exceptions=True)


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
