"""The typed client for asyncio: ``Client``'s methods, awaited."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Self, TypeVar

from hangtag.serving import address as server_address
from hangtag.serving.client import calls, classification, outputs
from hangtag.serving.client.classification import Classification, Image
from hangtag.serving.client.outputs import Array, Outputs
from hangtag.serving.connection.client_options import ConnectionOptions
from hangtag.serving.connection.connect import connect_async
from hangtag.serving.connection.diagnosis import diagnose
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.credentials import Credentials
from hangtag.serving.health_check import DEFAULT_TIMEOUT

Item = TypeVar("Item")


class AsyncClient(calls.Calls):
    """A client of one server for asyncio, over one channel. The tasks of one event loop may share a client.

    ``AsyncClient`` has the same constructor and the same methods as ``Client``, with the same arguments, answers and
    exceptions. The examples of the inherited methods call ``Client``; await the same methods of ``AsyncClient``. Over
    HTTP, a method raises RuntimeError if it is awaited in a different event loop than the first call. Cancelling a task
    that waits for a call cancels the call, and the server drops the request if its computation has not begun. Close the
    client with ``await client.close()``, or use it in an ``async with`` block.

    Example:
        >>> import asyncio
        >>> from pathlib import Path
        >>> from hangtag import AsyncClient
        >>> async def main() -> None:
        ...     async with AsyncClient("127.0.0.1:8001") as client:
        ...         images = [path.read_bytes() for path in sorted(Path("examples/garments").glob("bag-*.png"))]
        ...         answers = await asyncio.gather(*(client.classify(image, "cnn") for image in images))
        ...     print([answer.labels[0].name for answer in answers])
        >>> asyncio.run(main())
        ['Bag', 'Bag']
    """

    def __init__(
        self,
        address: str = server_address.DEFAULT,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        credentials: Credentials = Credentials(),  # noqa: B008 - it cannot change
        options: ConnectionOptions = ConnectionOptions(),  # noqa: B008 - it cannot change
    ) -> None:
        self._connection = connect_async(address, timeout, credentials, options)
        explain = partial(asyncio.to_thread, diagnose, address, credentials)
        super().__init__(address, options, self._connection.call, asyncio.sleep, explain)

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def classify_stream(
        self,
        images: AsyncIterable[Image] | Iterable[Image],
        model: str,
        *,
        version: str = "",
        top_k: int = 0,
        timeout: float | None = None,
    ) -> AsyncGenerator[Classification | ClientError, None]:
        """Classify images over one stream, and yield one outcome for each image, in the order of the images.

        ``images`` may be an asynchronous iterable; a plain iterable must not block, because the event loop reads it.
        See ``Client.classify_stream`` for the other arguments and the exceptions.

        Example:
            >>> [outcome.labels[0].name async for outcome in client.classify_stream([image, image], "cnn")]
            ['Bag', 'Bag']
        """
        requests = (classification.classify_request(image, model, version, top_k) async for image in _each(images))
        async with aclosing(self._connection.stream(calls.CLASSIFY_STREAM, requests, timeout)) as responses:
            async for response in responses:
                yield classification.outcome(response)

    async def infer_stream(
        self,
        model: str,
        requests: AsyncIterable[Mapping[str, Array]] | Iterable[Mapping[str, Array]],
        *,
        version: str = "",
        timeout: float | None = None,
    ) -> AsyncGenerator[Outputs | ClientError, None]:
        """Send sets of arrays to a model over one stream, and yield the outcome of each set, in order.

        ``requests`` may be an asynchronous iterable; a plain iterable must not block, because the event loop reads it.
        See ``Client.infer_stream`` for the other arguments and the exceptions.

        Example:
            >>> images = np.zeros((3, 1, 28, 28), np.uint8)
            >>> answers = client.infer_stream("cnn", [{"image": one} for one in images])
            >>> [answer["logits"].shape async for answer in answers]
            [(1, 10), (1, 10), (1, 10)]
        """
        messages = (outputs.infer_request(model, inputs, version) async for inputs in _each(requests))
        async with aclosing(self._connection.stream(calls.INFER_STREAM, messages, timeout)) as responses:
            async for response in responses:
                yield outputs.outcome(response)


async def _each(items: AsyncIterable[Item] | Iterable[Item]) -> AsyncIterator[Item]:
    """Yield the items of a plain or an asynchronous iterable."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
