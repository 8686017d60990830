"""The kinds of calls. Each call checks that the answer is right, or that the call failed as expected."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import grpc
import httpx2
import numpy as np
import numpy.typing as npt

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving.client import AsyncClient, ClientError
from studies.soak.answers import ACCURATE, FAST, MODELS, ROUTE, SHADOWED, WrongAnswerError
from studies.soak.connections import SPLIT, STICKY, Situation

_STREAM = 8
"""The number of requests in a stream."""
_LARGE = 32
"""The number of images in a large call, which takes tens of milliseconds."""
_TOO_SHORT = 0.003
"""A deadline in seconds that is too short for a call of ACCURATE with _LARGE images."""
_LABELS = 3
"""The number of labels in an answer if the request does not set top_k."""
_MEMBER = "hangtag-model"

Answer = TypeVar("Answer")
Call: TypeAlias = Callable[[Situation], Awaitable[None]]
Outputs: TypeAlias = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Kind:
    """A kind of call.

    Args:
        name: The name of the kind, for readers.
        call: Makes a call. Raises WrongAnswerError, ClientError or httpx2.TransportError if the call fails.
        weight: How often calls of this kind are made, relative to the weights of the other kinds.
        fails: Whether calls of this kind must fail. The latency of such calls is not judged.
    """

    name: str
    call: Call
    weight: float
    fails: bool = False


def infer(models: Sequence[str], client: Callable[[Situation], AsyncClient]) -> Call:
    """Return a call of hangtag's client that sends one or four images to one of these models."""
    return lambda at: _infer(at, client(at), at.random.choice(models))


def classify(client: Callable[[Situation], AsyncClient]) -> Call:
    """Return a call that classifies a PNG file or pixels, with a model or with the cascade."""

    async def call(at: Situation) -> None:
        image, model = at.image(), at.random.choice((*MODELS, ROUTE))
        as_file, labels = at.random.random() < 0.5, at.random.choice((1, _LABELS, 10))
        data = at.answers.pngs[image] if as_file else at.answers.images[image]
        at.answers.check_classification(model, image, labels, await client(at).classify(data, model, top_k=labels))

    return call


async def typed(at: Situation) -> None:
    """Call ModelInfer with typed contents."""
    first, model = at.image(), at.random.choice(MODELS)
    answer, _ = await _typed(at, model, first)
    at.answers.check(model, first, 1, answer)


async def in_json(at: Situation) -> None:
    """Call a model over HTTP, with numbers in JSON."""
    first, model = at.image(), at.random.choice(MODELS)
    answer, _ = await _in_json(at, model, first)
    at.answers.check(model, first, 1, answer)


async def split(at: Situation) -> None:
    """Call the split over gRPC or HTTP, as one of its callers, and check that the right member answers."""
    first, caller = at.image(), at.caller()
    answer, member = await at.random.choice((_typed, _in_json))(at, SPLIT, first, {STICKY: caller})
    at.check_member(caller, member)
    at.answers.check(member, first, 1, answer)


async def compare(at: Situation) -> None:
    """Call Compare with all models and the cascade."""
    image, models = at.image(), [*MODELS, ROUTE]
    answers = await at.over_grpc.compare(at.answers.pngs[image], models)
    for model in models:
        at.answers.check_classification(model, image, _LABELS, _answered(answers[model]))


async def infer_stream(at: Situation) -> None:
    """Call ModelStreamInfer with several images, and check that the answers are in order."""
    first, model = at.image(_STREAM), at.random.choice((*MODELS, ROUTE))
    requests = [{"image": at.answers.images[first + n][None]} for n in range(_STREAM)]
    answers = [each async for each in at.over_grpc.infer_stream(model, requests, timeout=15)]
    for number, answer in enumerate(_all(answers)):
        at.answers.check(model, first + number, 1, answer)


async def classify_stream(at: Situation) -> None:
    """Call ClassifyStream with several PNG files, and check that the answers are in order."""
    first, model = at.image(_STREAM), at.random.choice(MODELS)
    images = at.answers.pngs[first : first + _STREAM]
    answers = [each async for each in at.over_grpc.classify_stream(images, model, timeout=15)]
    for number, answer in enumerate(_all(answers)):
        at.answers.check_classification(model, first + number, _LABELS, answer)


async def new_connection(at: Situation) -> None:
    """Make one call over a new gRPC or HTTP connection, and close the connection."""
    async with at.address.client(http=at.random.random() < 0.5) as client:
        await _infer(at, client, at.random.choice(MODELS))


async def bad(at: Situation) -> None:
    """Send an invalid request over gRPC or HTTP, which the server must refuse with the right status."""
    client, image = at.client(), at.answers.images[:1]
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
    """Send an HTTP request that violates the protocol."""
    path, body, status = at.random.choice(
        (
            (f"/v2/models/{FAST}/infer", b"{", 400),
            (f"/v2/models/{FAST}/infer", b'{"inputs": 5}', 400),
            ("/v2/nothing", b"", 404),
            ("/v2/health/ready", b"", 405),
        )
    )
    response = await at.http.post(path, content=body)
    if response.status_code != status:
        _raise_for(response)
        raise WrongAnswerError(f"{path} with {body!r}: {response.status_code} instead of {status}")


async def late(at: Situation) -> None:
    """Make a call over gRPC or HTTP with a deadline that the server cannot meet."""
    with _fails(grpc.StatusCode.DEADLINE_EXCEEDED):
        try:
            async with asyncio.timeout(_TOO_SHORT):
                await at.client().infer(ACCURATE, {"image": at.answers.images[:_LARGE]})
        except TimeoutError as error:
            raise ClientError(grpc.StatusCode.DEADLINE_EXCEEDED, "") from error


async def cancelled(at: Situation) -> None:
    """Make a call, and cancel the call after a few milliseconds, unless the answer came before."""
    images = at.answers.images[: at.random.choice((1, _LARGE))]
    task = asyncio.ensure_future(at.client().infer(ACCURATE, {"image": images}))
    await asyncio.sleep(at.random.uniform(0, 0.01))
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def broken_off(at: Situation) -> None:
    """Close a connection while calls are in flight."""
    async with at.address.client(http=at.random.random() < 0.5) as client:
        tasks = [asyncio.ensure_future(_infer(at, client, ACCURATE)) for _ in range(4)]
        await asyncio.sleep(at.random.uniform(0, 0.02))
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        left = isinstance(outcome, ClientError) and outcome.code is grpc.StatusCode.CANCELLED
        if isinstance(outcome, Exception) and not left:  # a CancelledError is expected
            raise outcome


def _over_grpc(at: Situation) -> AsyncClient:
    return at.over_grpc


def _over_http(at: Situation) -> AsyncClient:
    return at.over_http


KINDS = (
    Kind("ModelInfer, raw", infer(MODELS, _over_grpc), 16),
    Kind("ModelInfer, typed", typed, 8),
    Kind("ModelInfer of the cascade", infer([ROUTE], Situation.client), 10),
    Kind("ModelInfer of the split", split, 4),
    Kind("ModelInfer of the route with a shadow", infer([SHADOWED], Situation.client), 4),
    Kind("ModelStreamInfer, 8 requests", infer_stream, 4),
    Kind("Classify", classify(_over_grpc), 12),
    Kind("ClassifyStream, 8 images", classify_stream, 2),
    Kind("Compare, 3 models", compare, 2),
    Kind("HTTP, binary tensors", infer(MODELS, _over_http), 12),
    Kind("HTTP, JSON", in_json, 6),
    Kind("HTTP, /v1/classify", classify(_over_http), 6),
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


async def _typed(at: Situation, model: str, first: int, metadata: Mapping[str, str] = {}) -> tuple[Outputs, str]:
    """Call ModelInfer with typed contents. Return the outputs, and the name of the route's member that answered."""
    contents = pb.InferTensorContents(uint_contents=at.answers.images[first].ravel().tolist())
    tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=(1, 28, 28), contents=contents)
    request = pb.ModelInferRequest(model_name=model, inputs=[tensor])
    call = at.stub.ModelInfer(request, timeout=15, metadata=tuple(metadata.items()))
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        raise ClientError(error.code(), error.details() or "") from error
    arrays = zip(answer.outputs, answer.raw_output_contents, strict=True)
    outputs = {output.name: tensors.from_raw(output.datatype, output.shape, raw) for output, raw in arrays}
    return outputs, str(dict(await call.trailing_metadata()).get(_MEMBER, ""))


async def _in_json(at: Situation, model: str, first: int, headers: Mapping[str, str] = {}) -> tuple[Outputs, str]:
    """Call a model or route over HTTP in JSON. Return the outputs, and the name of the route's member that answered."""
    data = at.answers.images[first : first + 1]
    tensor = {"name": "image", "datatype": "UINT8", "shape": data.shape, "data": data.ravel().tolist()}
    response = await at.http.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]}, headers=headers)
    _raise_for(response)
    outputs = response.json()["outputs"]
    arrays = {each["name"]: np.array(each["data"], np.float32).reshape(each["shape"]) for each in outputs}
    return arrays, response.headers.get(_MEMBER, "")


def _raise_for(response: httpx2.Response) -> None:
    """Raise ClientError if the status is 503, and WrongAnswerError if it is neither 503 nor 200."""
    if response.status_code == 503:
        raise ClientError(grpc.StatusCode.UNAVAILABLE, response.text)
    if response.status_code != 200:
        raise WrongAnswerError(f"HTTP {response.status_code}: {response.text[:200]}")


def _answered(outcome: Answer | ClientError) -> Answer:
    """Return the answer, or raise the server's error."""
    if isinstance(outcome, ClientError):
        raise outcome
    return outcome


def _all(outcomes: Sequence[Answer | ClientError]) -> list[Answer]:
    """Return a stream's answers. Raises WrongAnswerError if the number of answers is wrong."""
    answers = [_answered(outcome) for outcome in outcomes]
    if len(answers) != _STREAM:
        raise WrongAnswerError(f"a stream of {_STREAM} requests has {len(answers)} answers")
    return answers


@contextmanager
def _fails(code: grpc.StatusCode) -> Iterator[None]:
    """Require that the call inside the context fails with this status. Raises WrongAnswerError if the call succeeds."""
    try:
        yield
    except ClientError as error:
        if error.code is not code:
            raise
        return
    raise WrongAnswerError(f"answered instead of {code.name}")
