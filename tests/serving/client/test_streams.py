"""Streams of images and of inferences, over gRPC and over HTTP: the order of their answers, and how they end."""

import asyncio
import itertools
import sys
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
from tests.kit.kinds import Kind, asynchronous_kinds, message_of
from tests.kit.server import server as running_server
from tests.kit.waiting import TIMEOUT

IMAGES = np.random.default_rng(8).integers(0, 256, (5, 28, 28), dtype=np.uint8)
INDEX = {"index": np.array([1])}
STREAMS = 10


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


@pytest.mark.parametrize("kind", [Kind(asynchronous=False, http=http) for http in (False, True)], ids=str)
def test_what_ends_the_thread_that_reads_the_images_does_not_leave_the_caller_waiting(
    kind: Kind, server: Server
) -> None:
    def images() -> Iterator[Any]:
        yield IMAGES[0]
        sys.exit("the camera is gone")

    with kind.open(kind.of(server)) as client:
        outcomes = client.classify_stream(images(), "classifier", timeout=TIMEOUT)
        assert labels(next(outcomes))
        with pytest.raises(SystemExit, match="the camera is gone"):
            next(outcomes)
        assert labels(client.classify(IMAGES[0], "classifier"))


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
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "wrong").write_text(TOKEN[::-1])
    wrong = Credentials(token_file=tmp_path / "wrong")
    with (
        running_server(models, token_file=tmp_path / "token") as server,
        kind.open(kind.of(server), credentials=wrong) as client,
    ):
        for _ in range(STREAMS):
            assert message_of(grpc.StatusCode.UNAUTHENTICATED, list, client.infer_stream("gather", [INDEX] * 20))


@asynchronous_kinds
def test_a_caller_may_be_cancelled_by_its_own_requests(kind: Kind, server: Server) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield INDEX
        raise asyncio.CancelledError

    async def main() -> None:
        async with AsyncClient(kind.text(kind.of(server))) as client:
            with pytest.raises(asyncio.CancelledError):
                async for _ in client.infer_stream("gather", requests()):
                    pass

    asyncio.run(main())
