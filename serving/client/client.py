"""The typed clients of the server, for threads and for asyncio: images and arrays in, labels and arrays out."""

import asyncio
import functools
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import aclosing
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from hangtag.serving import address as server_address
from hangtag.serving.client import calls, messages
from hangtag.serving.client.calls import Calls
from hangtag.serving.client.messages import Array, Classification, Image, Outputs
from hangtag.serving.connection.client_options import ConnectionOptions
from hangtag.serving.connection.connect import blocking, connect, connect_async, finished
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.credentials import Credentials
from hangtag.serving.health_check import DEFAULT_TIMEOUT

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Item = TypeVar("Item")


def _blocking(
    method: Callable[Concatenate[Calls, Arguments], Coroutine[Any, Any, Result]],
) -> Callable[Concatenate["Client", Arguments], Result]:
    """Return the method of ``Client`` that runs a method of ``Calls`` to its end in the calling thread."""

    @functools.wraps(method)
    def run(client: "Client", /, *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        return finished(method(client._calls, *arguments, **named))

    return run


class Client:
    """A client of one server, over one channel. Thread-safe: threads may share it.

    Close the client with ``close``, or use it in a ``with`` block. Every method raises ClientError if its call fails.
    If an argument cannot be sent, this ClientError is also a TypeError and a ValueError. Every method raises
    CredentialsError if ``token_file`` can no longer be read. A client that was used before a fork raises RuntimeError
    in the new process. Do not fork during a gRPC call: gRPC may then abort or hang the new process.

    Args:
        address: HOST:PORT of the server's gRPC port, or http://HOST:PORT (https:// with TLS) of its HTTP port. For
            several servers, give ``ipv4:IP:PORT,IP:PORT`` or ``dns:///HOST:PORT``, and ``options`` with
            ``round_robin``.
        timeout: each call's deadline in seconds. The deadline travels to the server, which drops a late request instead
            of computing it.
        credentials: for a server with TLS or tokens.
        options: the retries, the balancing, the pings, and the largest answer to accept. By default, the client repeats
            a call up to three times if the server did not accept it.

    Raises:
        AddressError: the address has no port or is another kind of URL, or the value of HTTP_PROXY, HTTPS_PROXY or
            ALL_PROXY is not a proxy's URL.
        CredentialsError: a TLS file cannot be read.
        MissingExtraError: the address is a URL, and the extra ``http`` is not installed.
        OptionsError: ``timeout`` is infinite or not a number.

    Example:
        >>> from pathlib import Path
        >>> from hangtag import Client
        >>> with Client("127.0.0.1:8001") as client:
        ...     answer = client.classify(Path("examples/garments/bag-1.png").read_bytes(), "cnn")
        >>> answer.labels[0].name
        'Bag'
    """

    def __init__(
        self,
        address: str = server_address.DEFAULT,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        credentials: Credentials = Credentials(),  # noqa: B008 - it cannot change
        options: ConnectionOptions = ConnectionOptions(),  # noqa: B008 - it cannot change
    ) -> None:
        self._connection = connect(address, timeout, credentials, options)
        self._calls = Calls(address, options, blocking(self._connection.call), blocking(time.sleep))

    def close(self) -> None:
        """Refuse further calls, and cancel the calls in flight."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The docstrings of these methods are in Calls and HealthCalls.
    is_ready = _blocking(Calls.is_ready)
    require_ready = _blocking(Calls.require_ready)
    wait_until_ready = _blocking(Calls.wait_until_ready)
    classify = _blocking(Calls.classify)
    compare = _blocking(Calls.compare)
    infer = _blocking(Calls.infer)
    parameters = _blocking(Calls.parameters)
    models = _blocking(Calls.models)
    statistics = _blocking(Calls.statistics)
    load_model = _blocking(Calls.load_model)
    unload_model = _blocking(Calls.unload_model)

    def classify_stream(
        self,
        images: Iterable[Image],
        model: str,
        *,
        version: str = "",
        top_k: int = 0,
        timeout: float | None = None,
    ) -> Iterator[Classification | ClientError]:
        """Classify images over one stream, and yield one outcome for each image, in the order of the images.

        The server reads the next image when it has room, and batches images if it can. If iterating over ``images``
        raises an exception, it is re-raised here, after the outcomes of all earlier images.

        Args:
            images: as for ``classify``; a generator may produce them one by one.
            model, version, top_k: as for ``classify``.
            timeout: the deadline of the whole stream in seconds; None for no deadline.

        Yields:
            For each image a classification, or a ClientError if the image failed. The stream then continues.

        Raises:
            ClientError: the stream ended before its last answer.
            TypeError: an image is neither bytes nor an array of uint8 pixels.

        Example:
            >>> [outcome.labels[0].name for outcome in client.classify_stream([image, image], "cnn")]
            ['Bag', 'Bag']
        """
        requests = (messages.classify_request(image, model, version, top_k) for image in images)
        for response in self._connection.stream(calls.CLASSIFY_STREAM, requests, timeout):
            yield messages.classify_outcome(response)

    def infer_stream(
        self, model: str, requests: Iterable[Mapping[str, Array]], *, version: str = "", timeout: float | None = None
    ) -> Iterator[Outputs | ClientError]:
        """Send sets of arrays to a model over one stream, as ``classify_stream`` sends images.

        Args:
            requests: a mapping for each request, like the ``inputs`` of ``infer``. The model and the version are named
                as for ``infer``.
            timeout: the deadline of the whole stream in seconds; None for no deadline.

        Yields:
            For each request the result that ``infer`` would return, or a ClientError if the request failed.

        Raises:
            ClientError: the stream ended before its last answer.
            TypeError: an input is not a numpy array.
            ValueError: the protocol has no datatype for an array's dtype.

        Example:
            >>> images = np.zeros((3, 1, 28, 28), np.uint8)
            >>> [answer["logits"].shape for answer in client.infer_stream("cnn", [{"image": one} for one in images])]
            [(1, 10), (1, 10), (1, 10)]
        """
        sent = (messages.infer_request(model, inputs, version) for inputs in requests)
        for response in self._connection.stream(calls.INFER_STREAM, sent, timeout):
            yield messages.infer_outcome(response)


class AsyncClient(Calls):
    """An asyncio client of one server, over one channel. The tasks of one event loop may share a client.

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
        super().__init__(address, options, self._connection.call, asyncio.sleep)

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
        """Do the same as ``Client.classify_stream``, also for an asynchronous iterable of images.

        A plain iterable must not block, because the event loop reads it.

        Example:
            >>> [outcome.labels[0].name async for outcome in client.classify_stream([image, image], "cnn")]
            ['Bag', 'Bag']
        """
        requests = (messages.classify_request(image, model, version, top_k) async for image in _each(images))
        async with aclosing(self._connection.stream(calls.CLASSIFY_STREAM, requests, timeout)) as responses:
            async for response in responses:
                yield messages.classify_outcome(response)

    async def infer_stream(
        self,
        model: str,
        requests: AsyncIterable[Mapping[str, Array]] | Iterable[Mapping[str, Array]],
        *,
        version: str = "",
        timeout: float | None = None,
    ) -> AsyncGenerator[Outputs | ClientError, None]:
        """Do the same as ``Client.infer_stream``, also for an asynchronous iterable. See ``classify_stream``."""
        sent = (messages.infer_request(model, inputs, version) async for inputs in _each(requests))
        async with aclosing(self._connection.stream(calls.INFER_STREAM, sent, timeout)) as responses:
            async for response in responses:
                yield messages.infer_outcome(response)


async def _each(items: AsyncIterable[Item] | Iterable[Item]) -> AsyncIterator[Item]:
    """Yield the items of a plain or an asynchronous iterable."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
