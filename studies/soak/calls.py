"""The kinds of calls: each makes one call, and checks the answer, or that the call fails as it should."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeAlias

import grpc
import numpy as np

from hangtag.serving.client import AsyncClient, Classification, ClientError
from studies.soak import messages
from studies.soak.answers import ACCURATE, FAST, MODELS, ROUTE, SHADOWED, WrongAnswerError
from studies.soak.situation import SPLIT, STICKY, Situation

_STREAM = 8
"""Requests of a stream."""
_LARGE = 32
"""Images of a call that takes tens of milliseconds."""
_TOO_SHORT = 0.003
"""Seconds: a deadline that LARGE images of ACCURATE cannot meet."""
_LABELS = 3
"""Of an answer where the request does not say how many."""


Call: TypeAlias = Callable[[Situation], Awaitable[None]]


@dataclass(frozen=True)
class Kind:
    """A kind of calls.

    Args:
        name: For a reader.
        call: Makes a call. Raises WrongAnswerError, ClientError or httpx2.TransportError where it fails.
        weight: Its share of the calls, relative to the other kinds'.
        fails: Whether the call is to fail, so that its latency says nothing.
        drawn: Whether the page has its latency as a curve.
    """

    name: str
    call: Call
    weight: float
    fails: bool = False
    drawn: bool = False


async def infer_raw(at: Situation) -> None:
    """ModelInfer with raw_input_contents, one to four images."""
    await _infer(at, at.connections.over_grpc, at.random.choice(MODELS))


async def infer_typed(at: Situation) -> None:
    """ModelInfer with typed contents."""
    first, model = at.image(), at.random.choice(MODELS)
    answer, _ = await messages.typed(at, model, first)
    at.answers.check(model, first, 1, answer)


async def route(at: Situation) -> None:
    """ModelInfer of the cascade, over gRPC or HTTP."""
    await _infer(at, at.random.choice((at.connections.over_grpc, at.connections.over_http)), ROUTE)


async def shadowed(at: Situation) -> None:
    """ModelInfer of the route with a shadow, over gRPC or HTTP. Its answers are its member's."""
    await _infer(at, at.random.choice((at.connections.over_grpc, at.connections.over_http)), SHADOWED)


async def split(at: Situation) -> None:
    """ModelInfer of the split by one of its callers, over gRPC or HTTP. It says which member answered."""
    first, caller = at.image(), at.callers.one(at.random)
    answer, member = await at.random.choice((messages.typed, messages.in_json))(at, SPLIT, first, {STICKY: caller})
    at.callers.check(caller, member)
    at.answers.check(member, first, 1, answer)


async def http_binary(at: Situation) -> None:
    """An inference over HTTP with binary tensors."""
    await _infer(at, at.connections.over_http, at.random.choice(MODELS))


async def http_json(at: Situation) -> None:
    """An inference over HTTP with numbers in JSON."""
    first, model = at.image(), at.random.choice(MODELS)
    answer, _ = await messages.in_json(at, model, first)
    at.answers.check(model, first, 1, answer)


async def classify(at: Situation) -> None:
    """Classify of a PNG file or of pixels, with a model or the cascade."""
    await _classify(at, at.connections.over_grpc)


async def http_classify(at: Situation) -> None:
    """POST /v1/classify of a PNG file."""
    await _classify(at, at.connections.over_http)


async def compare(at: Situation) -> None:
    """Compare of all models and the cascade."""
    image, models = at.image(), [*MODELS, ROUTE]
    answers = await at.connections.over_grpc.compare(at.answers.pngs[image], models)
    for model in models:
        _check_outcome(at, model, image, answers[model])


async def infer_stream(at: Situation) -> None:
    """ModelStreamInfer of several images, answered in order."""
    first, model = at.image(_STREAM), at.random.choice((*MODELS, ROUTE))
    requests = [{"image": at.answers.images[first + n][None]} for n in range(_STREAM)]
    count = 0
    async for answer in at.connections.over_grpc.infer_stream(model, requests, timeout=15):
        if isinstance(answer, ClientError):
            raise answer
        at.answers.check(model, first + count, 1, answer)
        count += 1
    _require_all(count)


async def classify_stream(at: Situation) -> None:
    """ClassifyStream of several PNG files, answered in order."""
    first, model = at.image(_STREAM), at.random.choice(MODELS)
    count = 0
    images = at.answers.pngs[first : first + _STREAM]
    async for outcome in at.connections.over_grpc.classify_stream(images, model, timeout=15):
        _check_outcome(at, model, first + count, outcome)
        count += 1
    _require_all(count)


async def new_connection(at: Situation) -> None:
    """One call over a connection of its own, gRPC or HTTP, which is closed afterwards."""
    async with at.connections.address.client(http=at.random.random() < 0.5) as client:
        await _infer(at, client, at.random.choice(MODELS))


async def bad(at: Situation) -> None:
    """A request that is refused, over gRPC or HTTP, with the status that it should get."""
    client = at.random.choice((at.connections.over_grpc, at.connections.over_http))
    image = at.answers.images[:1]
    code, call = at.random.choice(
        (
            (grpc.StatusCode.NOT_FOUND, lambda: client.infer("nobody", {"image": image})),
            (grpc.StatusCode.NOT_FOUND, lambda: client.infer(FAST, {"image": image}, version="1000000")),
            (grpc.StatusCode.INVALID_ARGUMENT, lambda: client.infer(FAST, {"image": image[:, 1:]})),
            (grpc.StatusCode.INVALID_ARGUMENT, lambda: client.infer(FAST, {"image": image.astype(np.float32)})),
            (grpc.StatusCode.INVALID_ARGUMENT, lambda: client.infer(FAST, {"picture": image})),
            (grpc.StatusCode.INVALID_ARGUMENT, lambda: client.classify(b"no picture", FAST)),
        )
    )
    with _fails(code):
        await call()


async def bad_http(at: Situation) -> None:
    """Something that is no request of the protocol, over HTTP."""
    path, body, status = at.random.choice(
        (
            (f"/v2/models/{FAST}/infer", b"{", 400),
            (f"/v2/models/{FAST}/infer", b'{"inputs": 5}', 400),
            ("/v2/nothing", b"", 404),
            ("/v2/health/ready", b"", 405),
        )
    )
    response = await at.connections.http.post(path, content=body)
    if response.status_code != status:
        messages.raise_for(response)
        raise WrongAnswerError(f"{path} with {body!r}: {response.status_code} instead of {status}")


async def late(at: Situation) -> None:
    """A call with a deadline that cannot be met, over gRPC or HTTP."""
    client = at.random.choice((at.connections.over_grpc, at.connections.over_http))
    with _fails(grpc.StatusCode.DEADLINE_EXCEEDED):
        try:
            async with asyncio.timeout(_TOO_SHORT):
                await client.infer(ACCURATE, {"image": at.answers.images[:_LARGE]})
        except TimeoutError as error:
            raise ClientError(grpc.StatusCode.DEADLINE_EXCEEDED, "") from error


async def cancelled(at: Situation) -> None:
    """A call that is cancelled within a few milliseconds, perhaps after its answer."""
    client = at.random.choice((at.connections.over_grpc, at.connections.over_http))
    task = asyncio.ensure_future(client.infer(ACCURATE, {"image": at.answers.images[: at.random.choice((1, _LARGE))]}))
    await asyncio.sleep(at.random.uniform(0, 0.01))
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def broken_off(at: Situation) -> None:
    """A connection that is closed with calls in flight."""
    async with at.connections.address.client(http=at.random.random() < 0.5) as client:
        tasks = [asyncio.ensure_future(_infer(at, client, ACCURATE)) for _ in range(4)]
        await asyncio.sleep(at.random.uniform(0, 0.02))
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        left = isinstance(outcome, ClientError) and outcome.code is grpc.StatusCode.CANCELLED
        if isinstance(outcome, Exception) and not left:  # A CancelledError is none, and is as it should be.
            raise outcome


KINDS = (
    Kind("ModelInfer, raw", infer_raw, 16, drawn=True),
    Kind("ModelInfer, typed", infer_typed, 8),
    Kind("ModelInfer of the cascade", route, 10, drawn=True),
    Kind("ModelInfer of the split", split, 4),
    Kind("ModelInfer of the route with a shadow", shadowed, 4),
    Kind("ModelStreamInfer, 8 requests", infer_stream, 4),
    Kind("Classify", classify, 12, drawn=True),
    Kind("ClassifyStream, 8 images", classify_stream, 2),
    Kind("Compare, 3 models", compare, 2),
    Kind("HTTP, binary tensors", http_binary, 12, drawn=True),
    Kind("HTTP, JSON", http_json, 6),
    Kind("HTTP, /v1/classify", http_classify, 6),
    Kind("over a new connection", new_connection, 3),
    Kind("bad request", bad, 4, fails=True),
    Kind("bad HTTP", bad_http, 2, fails=True),
    Kind("deadline too short", late, 2, fails=True),
    Kind("cancelled", cancelled, 2, fails=True),
    Kind("connection broken off", broken_off, 1, fails=True),
)


async def _infer(at: Situation, client: AsyncClient, model: str) -> None:
    count = at.random.choice((1, 1, 1, 4))
    first = at.image(count)
    answer = await client.infer(model, {"image": at.answers.images[first : first + count]})
    at.answers.check(model, first, count, answer)


async def _classify(at: Situation, client: AsyncClient) -> None:
    image, model = at.image(), at.random.choice((*MODELS, ROUTE))
    as_file, labels = at.random.random() < 0.5, at.random.choice((1, _LABELS, 10))
    data = at.answers.pngs[image] if as_file else at.answers.images[image]
    at.answers.check_classification(model, image, labels, await client.classify(data, model, top_k=labels))


def _check_outcome(at: Situation, model: str, image: int, outcome: Classification | ClientError) -> None:
    if isinstance(outcome, ClientError):
        raise outcome
    at.answers.check_classification(model, image, _LABELS, outcome)


def _require_all(count: int) -> None:
    if count != _STREAM:
        raise WrongAnswerError(f"a stream of {_STREAM} requests has {count} answers")


@contextmanager
def _fails(code: grpc.StatusCode) -> Iterator[None]:
    """Raise WrongAnswerError where the call in it is answered, and what it raises with another status."""
    try:
        yield
    except ClientError as error:
        if error.code is not code:
            raise
        return
    raise WrongAnswerError(f"answered instead of {code.name}")
