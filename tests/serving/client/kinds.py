"""Every kind of client behind the methods of ``Client``, so that one test covers them all."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from inspect import isasyncgen
from typing import Any, cast

from hangtag.serving.client import AsyncClient, Client

TIMEOUT = 60.0
KINDS = ("Client", "AsyncClient")
_END = object()


class Blocking:
    """An AsyncClient on an event loop in a thread; each method waits for its result."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self._client = AsyncClient(*arguments, **settings)  # outside of the loop, as a program may do
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def __enter__(self) -> "Blocking":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT)
        self._loop.close()

    def __getattr__(self, name: str) -> Any:
        def method(*arguments: Any, **settings: Any) -> Any:
            result: Any = getattr(self._client, name)(*(_iterable(one) for one in arguments), **settings)
            return self._items(result) if isasyncgen(result) else self._result(result)

        return method

    def _items(self, generator: AsyncGenerator[Any, Any]) -> Iterator[Any]:
        try:
            while (item := self._result(anext(generator, _END))) is not _END:
                yield item
        finally:
            self._result(generator.aclose())

    def _result(self, awaitable: Any) -> Any:
        async def wait() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result(TIMEOUT)


def open_client(kind: str, *arguments: Any, **settings: Any) -> Client:
    """Return a client of this kind."""
    return Client(*arguments, **settings) if kind == "Client" else cast(Client, Blocking(*arguments, **settings))


def _iterable(argument: Any) -> Any:
    """An iterator as an asynchronous one, which waits for its items in a thread: those of tests may block."""
    return _in_a_thread(argument) if isinstance(argument, Iterator) else argument


async def _in_a_thread(items: Iterable[Any]) -> AsyncIterator[Any]:
    iterator = iter(items)
    while (item := await asyncio.to_thread(next, iterator, _END)) is not _END:
        yield item
