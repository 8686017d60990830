"""The client's streams and comparisons, against a real server."""

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import grpc
import numpy as np
import numpy.typing as npt
import pytest

from hangtag.serving.client import Classification, Client, ClientError
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.conversation import readers, wait_until_ended
from tests.kit.kinds import Kind

Pixels: TypeAlias = npt.NDArray[np.uint8]
PIXELS = np.random.default_rng(8).integers(0, 256, (5, 28, 28), dtype=np.uint8)


def labels(outcome: Classification | ClientError) -> list[str]:
    assert isinstance(outcome, Classification), outcome
    return [label.name for label in outcome.labels]


def test_a_stream_of_images_is_answered_in_order(client: Client, garment: Path) -> None:
    images = [*PIXELS, garment.read_bytes()]
    outcomes = list(client.classify_stream(images, "classifier", version="1", top_k=10))
    alone = [client.classify(image, "classifier", top_k=10) for image in images]
    assert [labels(outcome) for outcome in outcomes] == [labels(one) for one in alone]


def test_an_image_that_fails_is_an_error_in_its_place(client: Client) -> None:
    first, broken, last = client.classify_stream([PIXELS[0], b"no image", PIXELS[1]], "classifier")
    assert labels(first)
    assert labels(last)
    assert isinstance(broken, ClientError)
    assert broken.code is grpc.StatusCode.INVALID_ARGUMENT
    assert str(broken).startswith("the image is not a PNG, JPEG or WebP file")


def test_an_answer_comes_before_the_next_image_exists(client: Client) -> None:
    answered = threading.Event()

    def images() -> Iterator[Pixels]:
        yield PIXELS[0]
        assert answered.wait(30)
        yield PIXELS[1]

    outcomes = client.classify_stream(images(), "classifier")
    assert labels(next(outcomes))
    answered.set()
    assert len(list(outcomes)) == 1


def test_what_the_images_raise_comes_after_the_answers_before_it(client: Client) -> None:
    def images() -> Iterator[Pixels]:
        yield PIXELS[0]
        raise RuntimeError("the camera is gone")

    outcomes = client.classify_stream(images(), "classifier")
    assert labels(next(outcomes))
    with pytest.raises(RuntimeError, match="the camera is gone"):
        next(outcomes)


def test_what_is_no_image_is_a_mistake_of_the_callers(client: Client) -> None:
    with pytest.raises(TypeError, match="pixels must be uint8"):
        list(client.classify_stream([PIXELS[0].astype(np.float32)], "classifier"))
    with pytest.raises(TypeError, match="image must be bytes or a numpy array, not str"):
        client.compare("boot.png")  # type: ignore[arg-type]


def test_a_stream_to_an_unused_address_is_reported(kind: Kind) -> None:
    with (
        kind.open("127.0.0.1:9") as client,
        pytest.raises(ClientError, match=r"no server answers at \S*127\.0\.0\.1:9;"),
    ):
        list(client.classify_stream([PIXELS[0]], "classifier"))


def test_a_stream_that_takes_too_long_is_reported(client: Client) -> None:
    ended = threading.Event()

    def images() -> Iterator[Pixels]:
        yield PIXELS[0]
        ended.wait(30)

    with pytest.raises(ClientError, match=r"the stream to .* was not answered to its end within 0.5 s"):
        list(client.classify_stream(images(), "classifier", timeout=0.5))
    ended.set()


def test_a_stream_that_is_not_read_to_its_end_is_cancelled(kind: Kind, client: Client, server: Server) -> None:
    outcomes = client.classify_stream(itertools.repeat(PIXELS[0]), "classifier")
    assert labels(next(outcomes))
    reading = readers(server)
    assert reading or kind.http
    outcomes.close()  # type: ignore[attr-defined]
    wait_until_ended(reading)


def test_no_image_is_taken_once_a_stream_is_no_longer_read(client: Client) -> None:
    closed, ended = threading.Event(), threading.Event()
    taken = []

    def images() -> Iterator[Pixels]:
        try:
            for number in itertools.count():
                taken.append((number, closed.is_set()))
                yield PIXELS[0]
        finally:
            ended.set()

    outcomes = client.classify_stream(images(), "classifier")
    assert labels(next(outcomes))
    outcomes.close()  # type: ignore[attr-defined]
    count = len(taken)
    closed.set()
    assert ended.wait(30)
    assert len(taken) <= count + 1


def test_inferences_stream_too(client: Client) -> None:
    requests = [{"index": np.array([1])}, {"x": np.array([1.0], np.float32)}, {"index": np.array([2, 3])}]
    first, refused, last = client.infer_stream("gather", requests)
    assert isinstance(first, dict)
    assert isinstance(last, dict)
    assert [first["value"].tolist(), last["value"].tolist()] == [[10], [20, 30]]
    assert isinstance(refused, ClientError)
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert str(refused).startswith("unknown input 'x'")


def test_models_are_compared(client: Client) -> None:
    outcomes = client.compare(PIXELS[0], ["gather", "classifier", "nobody"], top_k=10)
    assert list(outcomes) == ["gather", "classifier", "nobody"]
    logits = onnx_models.logits_of(PIXELS[:1])[0]
    assert labels(outcomes["classifier"]) == [onnx_models.LABELS[place] for place in np.argsort(-logits)]
    codes = [outcome.code for outcome in outcomes.values() if isinstance(outcome, ClientError)]
    assert codes == [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND]


def test_without_names_every_classifier_is_compared(client: Client) -> None:
    assert list(client.compare(PIXELS[0])) == ["classifier"]


def test_a_comparison_that_is_refused_raises(client: Client) -> None:
    with pytest.raises(ClientError, match="model 'classifier' is given twice"):
        client.compare(PIXELS[0], ["classifier", "classifier"])
