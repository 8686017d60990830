"""Gives every kind of client the methods of ``Client``, so that one test covers all kinds."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from inspect import isasyncgen
from typing import Any, cast

import grpc
import pytest

from hangtag.serving.client import AsyncClient, Client, ClientError
from hangtag.serving.server.process.server import Server
from tests.kit.waiting import TIMEOUT

_END = object()


class Blocking:
    """An AsyncClient on an event loop in a thread. Its methods wait for their results."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self._client = AsyncClient(*arguments, **settings)  # a program may create the client outside of the loop
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


@dataclass(frozen=True)
class Kind:
    """A class of client (Client or AsyncClient) and a protocol (gRPC or HTTP)."""

    asynchronous: bool
    http: bool

    def of(self, server: Server) -> str:
        """The HOST:PORT of a server for this protocol."""
        return server.http_address if self.http else server.address

    def ports(self, address: str) -> dict[str, Any]:
        """The settings of a server that listens at HOST:PORT for this protocol."""
        return {"port": 0, "http_port": 0, "http_port" if self.http else "port": int(address.rpartition(":")[2])}

    def text(self, address: str, *, tls: bool = False) -> str:
        """HOST:PORT, as a client of this protocol accepts it."""
        scheme = "https://" if tls else "http://"
        return f"{scheme}{address}" if self.http else address

    def open(self, address: str, **settings: Any) -> Client:
        """Return a client of the server at HOST:PORT. It uses TLS if ``credentials`` name an authority."""
        credentials = settings.get("credentials")
        text = self.text(address, tls=credentials is not None and credentials.tls_ca is not None)
        return cast(Client, Blocking(text, **settings)) if self.asynchronous else Client(text, **settings)

    def __str__(self) -> str:
        return f"{'AsyncClient' if self.asynchronous else 'Client'}, {'HTTP' if self.http else 'gRPC'}"


KINDS = [Kind(asynchronous, http) for http in (False, True) for asynchronous in (False, True)]
asynchronous_kinds = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.asynchronous], ids=str)
grpc_kinds = pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.http], ids=str)
http_kinds = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.http], ids=str)


def message_of(code: grpc.StatusCode, call: Callable[..., object], *arguments: Any) -> str:
    """Require that a call raises a ClientError with this code, and return its message."""
    with pytest.raises(ClientError) as caught:
        call(*arguments)
    assert caught.value.code is code
    return str(caught.value)


def _iterable(argument: Any) -> Any:
    """Make an iterator asynchronous: a thread waits for the items, because a test's iterator may block."""
    return _in_a_thread(argument) if isinstance(argument, Iterator) else argument


async def _in_a_thread(items: Iterable[Any]) -> AsyncIterator[Any]:
    iterator = iter(items)
    while (item := await asyncio.to_thread(next, iterator, _END)) is not _END:
        yield item
