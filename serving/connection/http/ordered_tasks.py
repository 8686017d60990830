"""Make calls in several tasks, and yield their results in the order of their requests."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from typing import TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")


async def ordered_tasks(
    call: Callable[[Request], Awaitable[Result]], requests: AsyncIterable[Request], in_flight: int
) -> AsyncGenerator[Result, None]:
    """Yield the result of each call. An exception of ``requests`` is raised after the results of those before it.

    Args:
        call: makes one call.
        requests: taken one by one, when another call may begin.
        in_flight: how many calls are made at once.
    """
    begun: asyncio.Queue[asyncio.Future[Result] | Exception | None] = asyncio.Queue()
    free = asyncio.Semaphore(in_flight)
    tasks: set[asyncio.Future[Result]] = set()

    async def begin_all() -> None:
        try:
            async for request in requests:
                await free.acquire()
                task = asyncio.ensure_future(call(request))
                tasks.add(task)
                begun.put_nowait(task)
        except Exception as error:
            begun.put_nowait(error)
        else:
            begun.put_nowait(None)

    beginning = asyncio.create_task(begin_all())
    try:
        while True:
            task = await begun.get()
            if task is None:
                return
            if isinstance(task, Exception):
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
