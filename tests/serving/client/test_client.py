import socket
import threading
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag.serving.client import Client, ClientError
from hangtag.serving.connection.options import OptionsError
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.kinds import Kind

ONE = np.ones((1, 3), np.float32)
PIXELS = np.random.default_rng(7).integers(0, 256, (28, 28), dtype=np.uint8)


@pytest.fixture
def unused_address() -> str:
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def test_classify_pixels(client: Client) -> None:
    answer = client.classify(PIXELS, "classifier", top_k=10)
    assert (answer.model, answer.version, answer.batch_size) == ("classifier", "1", 1)
    logits = onnx_models.logits_of(PIXELS[np.newaxis])[0]
    assert [label.index for label in answer.labels] == np.argsort(-logits).tolist()
    assert [label.name for label in answer.labels] == [onnx_models.LABELS[label.index] for label in answer.labels]
    assert sum(label.probability for label in answer.labels) == pytest.approx(1, rel=1e-5)
    assert min(answer.queue_ms, answer.preprocess_ms, answer.compute_ms) >= 0


def test_classify_a_view_of_pixels(client: Client) -> None:
    turned = client.classify(PIXELS.T, "classifier", top_k=10)
    copied = client.classify(np.ascontiguousarray(PIXELS.T), "classifier", top_k=10)
    assert turned.labels == copied.labels


def test_classify_a_file(client: Client, garment: Path) -> None:
    assert len(client.classify(garment.read_bytes(), "classifier", version="1").labels) == 3


def test_compare_tells_the_versions_of_a_model_apart(client: Client) -> None:
    outcomes = client.compare(PIXELS, ["classifier@7", "classifier", "classifier@1"])
    assert list(outcomes) == ["classifier@7", "classifier", "classifier@1"]
    unknown, serving, first = outcomes.values()
    assert isinstance(unknown, ClientError)
    assert unknown.code is grpc.StatusCode.NOT_FOUND
    assert not isinstance(serving, ClientError)
    assert not isinstance(first, ClientError)
    assert (first.version, first.labels) == (serving.version, serving.labels)
    (alone,) = client.compare(PIXELS, ["classifier@1"])
    assert alone == "classifier@1"


def test_a_version_may_stand_with_the_name(client: Client) -> None:
    inputs = {"image": PIXELS[None]}
    calls: list[Callable[[str, str], Any]] = [
        lambda model, version: client.classify(PIXELS, model, version=version).labels,
        lambda model, version: client.infer(model, inputs, version=version)["logits"].tolist(),
        lambda model, version: client.parameters(model, version=version),
    ]
    for call in calls:
        assert call("classifier@1", "") == call("classifier", "1") == call("classifier", "")
        for model, version in (("classifier@7", ""), ("classifier@1", "7")):
            with pytest.raises(ClientError) as caught:
                call(model, version)
            assert caught.value.code is grpc.StatusCode.NOT_FOUND


def test_a_version_may_stand_with_the_name_of_a_stream(client: Client) -> None:
    inputs = {"index": np.array([2])}
    (served,) = client.infer_stream("gather@1", [inputs])
    assert isinstance(served, dict)
    assert served["value"].tolist() == [20]
    (missing,) = client.infer_stream("gather@7", [inputs])
    assert isinstance(missing, ClientError)
    assert missing.code is grpc.StatusCode.NOT_FOUND


def test_infer(client: Client) -> None:
    a, b = np.array([[1, 2, 3]], np.float32), np.array([[4, 5, 6]], np.int64)
    answer = client.infer("two_inputs", {"a": a, "b": b})
    assert answer["sum"].tolist() == [[5, 7, 9]]
    assert answer["double"].tolist() == [[8, 10, 12]]


def test_a_model_is_named_once_whichever_versions_serve(tmp_path: Path) -> None:
    for version in (1, 2):
        onnx_models.publish(tmp_path, "gather", onnx_models.gather(), version=version)
    config = ServerConfig(models=tmp_path, num_versions=2, port=0, http_port=-1)
    with Server(config) as server, Client(server.address) as client:
        assert {each.version for each in client.statistics()} == {"1", "2"}
        assert client.models() == ["gather"]


def test_infer_names_an_input_that_is_no_array(client: Client) -> None:
    with pytest.raises(TypeError, match="input 'index' must be a numpy array with the input's dtype, not list"):
        client.infer("gather", {"index": [1, 2]})  # type: ignore[dict-item]


def test_infer_text(client: Client) -> None:
    assert client.infer("text", {"text": np.array(["å", "b"])})["shouted"].tolist() == ["å!".encode(), b"b!"]


def test_an_answer_may_be_large(client: Client) -> None:
    word = "x" * (6 * 1024 * 1024)
    assert client.infer("text", {"text": np.array([word], np.object_)})["shouted"][0] == (word + "!").encode()


def test_parameters_and_statistics(client: Client) -> None:
    before = {one.name: one.inference_count for one in client.statistics()}
    client.infer("gather", {"index": np.array([1, 2])})
    after = {one.name: one.inference_count for one in client.statistics()}
    assert after["gather"] - before["gather"] == 2
    assert client.parameters("classifier")["hangtag.task"] == "single_label"


def test_models_and_readiness(client: Client) -> None:
    assert client.models() == ["classifier", "gather", "text", "two_inputs"]
    assert client.is_ready()
    assert client.is_ready("gather")
    assert not client.is_ready("nobody")
    client.wait_until_ready(30)
    client.wait_until_ready(30, "gather")


@pytest.mark.parametrize(
    ("call", "code", "message"),
    [
        (lambda c: c.classify(PIXELS, "x"), grpc.StatusCode.NOT_FOUND, "no model 'x' is served here"),
        (lambda c: c.classify(PIXELS, "classifier", version="9"), grpc.StatusCode.NOT_FOUND, "version '9' of"),
        (lambda c: c.classify(b"no image", "classifier"), grpc.StatusCode.INVALID_ARGUMENT, "not a PNG, JPEG or WebP"),
        (lambda c: c.classify(PIXELS[:5], "classifier"), grpc.StatusCode.INVALID_ARGUMENT, "got 5 x 28 and 140 bytes"),
        (lambda c: c.infer("two_inputs", {"a": ONE}), grpc.StatusCode.INVALID_ARGUMENT, "input 'b' is missing"),
        (lambda c: c.infer("gather", {"index": PIXELS}), grpc.StatusCode.INVALID_ARGUMENT, "is UINT8; the model takes"),
    ],
)
def test_an_error_carries_the_status_and_the_servers_words(
    client: Client, call: Any, code: grpc.StatusCode, message: str
) -> None:
    with pytest.raises(ClientError) as caught:
        call(client)
    assert caught.value.code is code
    assert message in str(caught.value)


def test_readiness_that_is_required_is_explained(client: Client) -> None:
    client.require_ready("gather")
    with pytest.raises(ClientError, match="serves no model 'nobody'") as caught:
        client.require_ready("nobody")
    assert caught.value.code is grpc.StatusCode.NOT_FOUND


def test_a_closed_client_refuses_calls_and_streams(client: Client) -> None:
    client.models()
    client.close()
    for call in (client.models, client.is_ready, lambda: list(client.classify_stream([PIXELS], "classifier"))):
        with pytest.raises(ClientError, match="this client is closed; make another one") as caught:
            call()
        assert caught.value.code is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("timeout", [float("inf"), float("nan")])
def test_a_timeout_that_no_deadline_can_be_is_refused(kind: Kind, timeout: float) -> None:
    with pytest.raises(OptionsError, match="timeout must be a number of seconds"):
        kind.open("127.0.0.1:1", timeout=timeout)


def test_where_nothing_listens_the_error_says_what_to_do(kind: Kind, unused_address: str) -> None:
    with kind.open(unused_address) as client:
        for call in (client.is_ready, client.models, lambda: client.classify(PIXELS, "lstm")):
            with pytest.raises(
                ClientError, match=f"no server answers at {kind.text(unused_address)}; start one with 'hangtag serve'"
            ):
                call()


def test_a_host_that_cannot_be_resolved_is_reported_with_the_option_that_names_it(kind: Kind) -> None:
    address = f"{'a' * 64}.invalid:8001"  # longer than DNS allows, so that no name server is queried
    with (
        kind.open(address) as client,
        pytest.raises(ClientError, match=f"the host of {kind.text(address)} is unknown; name the server with --server"),
    ):
        client.models()


def test_waiting_in_vain_ends_in_time(kind: Kind, unused_address: str, client: Client) -> None:
    with (
        kind.open(unused_address) as lonely,
        pytest.raises(ClientError, match=r"was not ready within 0\.2 s; its log says why"),
    ):
        lonely.wait_until_ready(0.2)
    with pytest.raises(ClientError, match=r"127\.0\.0\.1:\d+ served no model 'nobody' within 1 s"):
        client.wait_until_ready(1, "nobody")


def test_a_server_that_is_slower_than_the_deadline(kind: Kind) -> None:
    # A server that accepts the connection and never says a word.
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with kind.open(address, timeout=0.2) as client, pytest.raises(ClientError) as caught:
            client.models()
    assert caught.value.code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
    assert address in str(caught.value)


def test_waiting_outlasts_a_server_that_starts_later(kind: Kind, models: Path, unused_address: str) -> None:
    with kind.open(unused_address) as client:
        ready = threading.Event()

        def wait() -> None:
            client.wait_until_ready(60, "gather")
            ready.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not ready.is_set()
        with Server(ServerConfig(models=models, **kind.ports(unused_address))):
            assert ready.wait(60)
        waiting.join(60)


def test_one_client_serves_many_threads(client: Client) -> None:
    def ask(value: int) -> float:
        return float(client.infer("gather", {"index": np.array([value % 4])})["value"][0])

    with futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(200))) == [10.0 * (value % 4) for value in range(200)]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("boot.png", r"image must be bytes or a numpy array, not str; for a path, pass path.read_bytes\(\)"),
        (np.zeros((28, 28)), r"pixels must be uint8 \[height, width\], not float64 \[28, 28\]"),
        (np.zeros(784, np.uint8), r"pixels must be uint8 \[height, width\], not uint8 \[784\]"),
    ],
)
def test_an_image_of_another_type_is_a_type_error(kind: Kind, image: Any, message: str) -> None:
    with kind.open("127.0.0.1:1") as client, pytest.raises(TypeError, match=message):
        client.classify(image, model="cnn")
