"""The typed client for asyncio: ``Client``'s methods, awaited."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Self, TypeVar

from hangtag.protos import inference_pb2
from hangtag.serving import address as server_address
from hangtag.serving import health_check
from hangtag.serving.client import operations
from hangtag.serving.client.classification import Classification, Image, classify_request
from hangtag.serving.client.operations import Answer, Operation
from hangtag.serving.client.outputs import Array, Outputs
from hangtag.serving.connection.client_options import ConnectionOptions
from hangtag.serving.connection.connect import connect_async
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.credentials import Credentials

Item = TypeVar("Item")


class AsyncClient:
    """A client of one server for asyncio, over one channel. The tasks of one event loop may share a client.

    ``AsyncClient`` has the same constructor and the same methods as ``Client``, with the same arguments, answers and
    exceptions. Over HTTP, a method raises RuntimeError if it is awaited in a different event loop than the first call.
    Cancelling a task that waits for a call cancels the call, and the server drops the request if its computation has
    not begun. Close the client with ``await client.close()``, or use it in an ``async with`` block.

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
        timeout: float = health_check.DEFAULT_TIMEOUT,
        credentials: Credentials = Credentials(),  # noqa: B008 - it cannot change
        options: ConnectionOptions = ConnectionOptions(),  # noqa: B008 - it cannot change
    ) -> None:
        self._address = address
        self._options = options
        self._credentials = credentials
        self._connection = connect_async(address, timeout, credentials, options)

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def is_ready(self, model: str = "") -> bool:
        """Return whether the server, or one model, serves. See ``Client.is_ready``."""
        return await self._status(model) == health_check.SERVING

    async def require_ready(self, model: str = "") -> None:
        """Raise ClientError with the reason unless the server, or one model, serves. See ``is_ready``."""
        status = await self._status(model)
        if status != health_check.SERVING:
            unknown = bool(model) and status == health_check.UNKNOWN and await self.is_ready()
            raise health_check.not_ready(self._address, model, unknown=unknown)

    async def wait_until_ready(self, seconds: float, model: str = "") -> None:
        """Return as soon as the server, or one model, serves. See ``Client.wait_until_ready``."""
        wait = health_check.Wait(self._address, self._credentials, self._options, model, seconds)
        while remaining := wait.remaining():
            try:
                if wait.ends_with(await self._status(model, remaining)):
                    return
            except ClientError as error:
                wait.goes_on_after(error)
            await asyncio.sleep(wait.pause())
        raise await asyncio.to_thread(wait.error)

    async def classify(self, image: Image, model: str, *, version: str = "", top_k: int = 0) -> Classification:
        """Classify one image. See ``Client.classify``."""
        return await self._run(operations.classify(image, model, version, top_k))

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
        requests = (classify_request(image, model, version, top_k) async for image in _each(images))
        async with aclosing(self._connection.stream(operations.CLASSIFY_STREAM, requests, timeout)) as responses:
            async for response in responses:
                yield operations.classify_outcome(response)

    async def compare(
        self, image: Image, models: Sequence[str] = (), *, top_k: int = 0
    ) -> dict[str, Classification | ClientError]:
        """Classify one image with several models in one call. See ``Client.compare``."""
        return await self._run(operations.compare(image, models, top_k))

    async def infer(self, model: str, inputs: Mapping[str, Array], *, version: str = "") -> Outputs:
        """Run a model on arrays. See ``Client.infer``."""
        return await self._run(operations.infer(model, inputs, version))

    async def infer_stream(
        self,
        model: str,
        requests: AsyncIterable[Mapping[str, Array]] | Iterable[Mapping[str, Array]],
        *,
        version: str = "",
        timeout: float | None = None,
    ) -> AsyncGenerator[Outputs | ClientError, None]:
        """Run a model on one set of arrays after another over one stream, and yield the outcomes in order.

        ``requests`` may be an asynchronous iterable; a plain iterable must not block, because the event loop reads it.
        See ``Client.infer_stream`` for the other arguments and the exceptions.

        Example:
            >>> images = np.zeros((3, 1, 28, 28), np.uint8)
            >>> answers = client.infer_stream("cnn", [{"image": one} for one in images])
            >>> [answer["logits"].shape async for answer in answers]
            [(1, 10), (1, 10), (1, 10)]
        """
        messages = (operations.infer_request(model, inputs, version) async for inputs in _each(requests))
        async with aclosing(self._connection.stream(operations.INFER_STREAM, messages, timeout)) as responses:
            async for response in responses:
                yield operations.infer_outcome(response)

    async def parameters(self, model: str, *, version: str = "") -> dict[str, str]:
        """Return the parameters of a model's configuration. See ``Client.parameters``."""
        return await self._run(operations.parameters(model, version))

    async def models(self) -> list[str]:
        """Return the names of the models that accept requests. See ``Client.models``."""
        return await self._run(operations.models())

    async def statistics(self) -> list[inference_pb2.ModelStatistics]:
        """Return each model version's statistics since it was loaded. See ``Client.statistics``."""
        return await self._run(operations.statistics())

    async def load_model(self, model: str) -> list[str]:
        """Load or reload a model, and return its versions that serve. See ``Client.load_model``."""
        await self._run(operations.load(model))
        return await self._run(operations.serving_versions(model))

    async def unload_model(self, model: str) -> None:
        """Unload a model. The model still answers the requests that it already has. See ``Client.unload_model``."""
        await self._run(operations.unload(model))

    async def _run(self, operation: Operation[Answer]) -> Answer:
        return operation.answer(await self._connection.call(operation.method, operation.request))

    async def _status(self, model: str, timeout: float | None = None) -> int:
        request = health_check.check_request(model)
        try:
            return int((await self._connection.call(health_check.CHECK, request, timeout)).status)
        except ClientError as error:
            return health_check.status_of(error)


async def _each(items: AsyncIterable[Item] | Iterable[Item]) -> AsyncIterator[Item]:
    """Yield the items of a plain or an asynchronous iterable."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
