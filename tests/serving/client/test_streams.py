"""Streams of images and of inferences, over gRPC and over HTTP: the order of their answers, and how they end."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag import AsyncClient, Classification, Client, ClientError, Credentials
from hangtag.serving.server.process.server import Server
from tests.kit.certificates import TOKEN
from tests.kit.kinds import Kind, message_of
from tests.kit.server import server as running_server
from tests.kit.waiting import TIMEOUT

IMAGES = np.random.default_rng(8).integers(0, 256, (5, 28, 28), dtype=np.uint8)
INDEX = {"index": np.array([1])}
STREAMS = 100


def labels(outcome: Classification | ClientError) -> list[str]:
    assert isinstance(outcome, Classification), outcome
    return [label.name for label in outcome.labels]


def test_a_stream_of_images_is_answered_in_order(client: Client, garment: Path) -> None:
    images = [*IMAGES, garment.read_bytes()]
    outcomes = list(client.classify_stream(images, "classifier", version="1", top_k=10))
    alone = [client.classify(image, "classifier", top_k=10) for image in images]
    assert [labels(outcome) for outcome in outcomes] == [labels(one) for one in alone]


def test_a_request_that_fails_is_an_error_in_its_place(client: Client) -> None:
    first, broken, last = client.classify_stream([IMAGES[0], b"no image", IMAGES[1]], "classifier")
    assert labels(first)
    assert labels(last)
    requests = [INDEX, {"x": np.array([1.0], np.float32)}, {"index": np.array([2, 3])}]
    one, unknown, two = client.infer_stream("gather", requests)
    assert isinstance(one, dict)
    assert isinstance(two, dict)
    assert [one["value"].tolist(), two["value"].tolist()] == [[10], [20, 30]]
    for error, fact in ((broken, "PNG, JPEG or WebP"), (unknown, "'x'")):
        assert isinstance(error, ClientError)
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert fact in str(error)


def test_an_answer_comes_before_the_next_image_exists(client: Client) -> None:
    answered = threading.Event()

    def images() -> Iterator[Any]:
        yield IMAGES[0]
        assert answered.wait(TIMEOUT)
        yield IMAGES[1]

    outcomes = client.classify_stream(images(), "classifier")
    assert labels(next(outcomes))
    answered.set()
    assert len(list(outcomes)) == 1


def test_what_the_images_raise_comes_after_the_answers_before_it(client: Client) -> None:
    def images() -> Iterator[Any]:
        yield IMAGES[0]
        raise RuntimeError("the camera is gone")

    outcomes = client.classify_stream(images(), "classifier")
    assert labels(next(outcomes))
    with pytest.raises(RuntimeError, match="the camera is gone"):
        next(outcomes)


def test_a_stream_ends_at_its_deadline_and_with_its_client(client: Client) -> None:
    ended = threading.Event()

    def images() -> Iterator[Any]:
        yield IMAGES[0]
        ended.wait(TIMEOUT)

    stream = client.classify_stream(images(), "classifier", timeout=0.5)
    assert "0.5 s" in message_of(grpc.StatusCode.DEADLINE_EXCEEDED, list, stream)
    stream = client.classify_stream(images(), "classifier")
    assert labels(next(stream))
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(next, stream)
        client.close()
        assert message_of(grpc.StatusCode.CANCELLED, waiting.result, TIMEOUT)
    ended.set()


def test_no_image_is_taken_once_a_stream_is_no_longer_read(client: Client) -> None:
    ended = threading.Event()
    taken = []

    def images() -> Iterator[Any]:
        try:
            for number in itertools.count():
                taken.append(number)
                yield IMAGES[0]
        finally:
            ended.set()

    outcomes = client.classify_stream(images(), "classifier")
    assert labels(next(outcomes))
    outcomes.close()  # type: ignore[attr-defined]
    count = len(taken)
    assert ended.wait(TIMEOUT)
    assert len(taken) <= count + 1


def test_a_stream_that_the_server_refuses_says_so(kind: Kind, models: Path, tmp_path: Path) -> None:
    """gRPC's asyncio library loses the status if a stream ends while its requests are being sent."""
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "wrong").write_text(TOKEN[::-1])

    def refusal(client: Client) -> grpc.StatusCode:
        with pytest.raises(ClientError) as caught:
            list(client.infer_stream("gather", [INDEX] * 20))
        return caught.value.code

    wrong = Credentials(token_file=tmp_path / "wrong")
    with (
        running_server(models, token_file=tmp_path / "token") as server,
        kind.open(kind.of(server), credentials=wrong) as client,
    ):
        codes = {refusal(client) for _ in range(STREAMS if kind.asynchronous and not kind.http else 1)}
    lost = {grpc.StatusCode.UNKNOWN} if kind.asynchronous and not kind.http else set()
    assert codes <= {grpc.StatusCode.UNAUTHENTICATED} | lost


@pytest.mark.parametrize(
    ("http", "raised", "caught"),
    [
        # gRPC cancels its own task, as when sending the end of the requests fails, but not the caller's task.
        (False, SystemExit, ClientError),
        (False, asyncio.CancelledError, asyncio.CancelledError),  # the caller cancels the task
        (True, asyncio.CancelledError, asyncio.CancelledError),
    ],
)
def test_what_cancels_a_stream_among_its_requests(
    server: Server, http: bool, raised: type[BaseException], caught: type[BaseException]
) -> None:
    kind = Kind(asynchronous=True, http=http)

    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield INDEX
        raise raised

    async def main() -> BaseException:
        async with AsyncClient(kind.text(kind.of(server))) as client:
            with pytest.raises(caught) as error:
                async for _ in client.infer_stream("gather", requests()):
                    pass
        return error.value

    error = asyncio.run(main())
    assert not isinstance(error, ClientError) or error.code is grpc.StatusCode.UNKNOWN
