"""What the calls of every client return, over gRPC and over HTTP, and the errors that they raise."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag import AsyncClient, Client, ClientError, UserError
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.command import python
from tests.kit.kinds import Kind, message_of
from tests.kit.server import server as running_server

ONE = np.ones((1, 3), np.float32)
PIXELS = np.random.default_rng(7).integers(0, 256, (28, 28), dtype=np.uint8)
SOON = 15
"""The seconds after which the test considers a call lost."""
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


def test_a_classification_has_labels_and_times(client: Client, garment: Path) -> None:
    answer = client.classify(PIXELS, "classifier", top_k=10)
    assert (answer.model, answer.version, answer.batch_size) == ("classifier", "1", 1)
    logits = onnx_models.logits_of(PIXELS[np.newaxis])[0]
    assert [label.index for label in answer.labels] == np.argsort(-logits).tolist()
    assert [label.name for label in answer.labels] == [onnx_models.LABELS[label.index] for label in answer.labels]
    assert sum(label.probability for label in answer.labels) == pytest.approx(1, rel=1e-5)
    assert min(answer.queue_ms, answer.preprocess_ms, answer.compute_ms) >= 0
    view, copy = (client.classify(pixels, "classifier").labels for pixels in (PIXELS.T, PIXELS.T.copy()))
    assert view == copy
    assert len(client.classify(garment.read_bytes(), "classifier", version="1").labels) == 3


def test_models_are_compared(client: Client) -> None:
    outcomes = client.compare(PIXELS, ["gather", "classifier@7", "classifier", "classifier@1", "nobody"], top_k=10)
    assert list(outcomes) == ["gather", "classifier@7", "classifier", "classifier@1", "nobody"]
    gather, unknown, serving, first, nobody = outcomes.values()
    failed = [each.code for each in (gather, unknown, nobody) if isinstance(each, ClientError)]
    assert failed == [INVALID, NOT_FOUND, NOT_FOUND]
    assert not isinstance(serving, ClientError)
    assert not isinstance(first, ClientError)
    assert (first.version, first.labels) == (serving.version, serving.labels)
    assert [label.index for label in first.labels] == np.argsort(-onnx_models.logits_of(PIXELS[None])[0]).tolist()
    assert list(client.compare(PIXELS, ["classifier@1"])) == ["classifier@1"]
    assert list(client.compare(PIXELS)) == ["classifier"]  # every model that classifies
    assert "'classifier'" in message_of(INVALID, client.compare, PIXELS, ["classifier", "classifier"])


def test_a_version_may_stand_with_the_name(client: Client) -> None:
    inputs = {"image": PIXELS[None]}

    def streamed(model: str) -> Any:
        (outcome,) = client.infer_stream(model, [inputs])
        if isinstance(outcome, ClientError):
            raise outcome
        return outcome["logits"].tolist()

    calls: list[Callable[[str, str], Any]] = [
        lambda model, version: client.classify(PIXELS, model, version=version).labels,
        lambda model, version: client.infer(model, inputs, version=version)["logits"].tolist(),
        lambda model, version: client.parameters(model, version=version),
    ]
    for call in calls:
        assert call("classifier@1", "") == call("classifier", "1") == call("classifier", "")
        for model, version in (("classifier@7", ""), ("classifier@1", "7")):
            assert message_of(NOT_FOUND, call, model, version)
    assert streamed("classifier@1") == streamed("classifier")
    assert message_of(NOT_FOUND, streamed, "classifier@7")


def test_arrays_are_inferred(client: Client) -> None:
    a, b = np.array([[1, 2, 3]], np.float32), np.array([[4, 5, 6]], np.int64)
    answer = client.infer("two_inputs", {"a": a, "b": b})
    assert (answer["sum"].tolist(), answer["double"].tolist()) == ([[5, 7, 9]], [[8, 10, 12]])
    assert (answer.model, answer.version, answer.answered_by) == ("two_inputs", "1", ("two_inputs",))
    assert (answer.stages, answer.sample_stages, answer.unsure, answer.batch_size) == ((), (), 0, 1)
    assert (answer.queue_ms or 0) >= 0
    assert (answer.compute_ms or 0) > 0
    assert client.infer("text", {"text": np.array(["å", "b"])})["shouted"].tolist() == ["å!".encode(), b"b!"]


def test_an_answer_may_be_large(client: Client) -> None:
    word = "x" * (6 * 1024 * 1024)
    assert client.infer("text", {"text": np.array([word], np.object_)})["shouted"][0] == f"{word}!".encode()


def test_parameters_models_and_statistics(client: Client) -> None:
    before = {one.name: one.inference_count for one in client.statistics()}
    client.infer("gather", {"index": np.array([1, 2])})
    after = {one.name: one.inference_count for one in client.statistics()}
    assert after["gather"] - before["gather"] == 2
    assert client.parameters("classifier")["hangtag.task"] == "single_label"
    assert client.models() == ["classifier", "gather", "text", "two_inputs"]


def test_pixels_may_be_in_colour(kind: Kind, tmp_path: Path) -> None:
    onnx_models.publish(tmp_path, "colours", onnx_models.colours())
    blue = np.full((24, 36, 3), (10, 20, 200), np.uint8)
    with running_server(tmp_path) as server, kind.open(kind.of(server)) as client:
        assert [label.name for label in client.classify(blue, "colours").labels] == ["blue", "green", "red"]


def test_a_model_is_named_once_whichever_versions_serve(kind: Kind, tmp_path: Path) -> None:
    for version in (1, 2):
        onnx_models.publish(tmp_path, "gather", onnx_models.gather(), version=version)
    with running_server(tmp_path, num_versions=2) as server, kind.open(kind.of(server)) as client:
        assert {each.version for each in client.statistics()} == {"1", "2"}
        assert client.models() == ["gather"]


@pytest.mark.parametrize(
    ("call", "code", "fact"),
    [
        (lambda c: c.classify(PIXELS, "x"), NOT_FOUND, "'x'"),
        (lambda c: c.classify(PIXELS, "classifier", version="9"), NOT_FOUND, "'9'"),
        (lambda c: c.classify(b"no image", "classifier"), INVALID, "PNG, JPEG or WebP"),
        (lambda c: c.classify(PIXELS[:5], "classifier"), INVALID, "5 x 28"),
        (lambda c: c.infer("two_inputs", {"a": ONE}), INVALID, "'b'"),
        (lambda c: c.infer("gather", {"index": PIXELS}), INVALID, "UINT8"),
        (lambda c: c.load_model("gather"), grpc.StatusCode.FAILED_PRECONDITION, "--model-control explicit"),
        (lambda c: c.unload_model("gather"), grpc.StatusCode.FAILED_PRECONDITION, "--model-control explicit"),
    ],
)
def test_an_error_carries_the_status_and_the_servers_words(
    client: Client, call: Any, code: grpc.StatusCode, fact: str
) -> None:
    assert fact in message_of(code, call, client)


def test_a_closed_client_refuses_calls_and_streams(client: Client) -> None:
    client.models()
    client.close()
    for call in (client.models, client.is_ready, lambda: list(client.classify_stream([PIXELS], "classifier"))):
        assert "closed" in message_of(grpc.StatusCode.CANCELLED, call)


@pytest.mark.parametrize("timeout", [float("inf"), float("nan")])
def test_a_timeout_that_no_deadline_can_be_is_refused(kind: Kind, timeout: float) -> None:
    with pytest.raises(UserError, match="timeout"):
        kind.open("127.0.0.1:1", timeout=timeout)


def test_one_client_serves_many_threads(client: Client) -> None:
    def ask(value: int) -> float:
        return float(client.infer("gather", {"index": np.array([value % 4])})["value"][0])

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(200))) == [10.0 * (value % 4) for value in range(200)]


FORKS = """
import os, sys, threading, warnings
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from hangtag import Client

warnings.simplefilter("always")
client = Client(ADDRESS)
with ThreadPoolExecutor(16, initializer=threading.Barrier(16).wait) as pool:
    models, *_ = pool.map(lambda _: client.models(), range(16))
unfinished = client.infer_stream("gather", [{"index": np.array([0])}] * 2)
if STREAM:
    next(unfinished)
children = []
for calls in (True, False):
    if not (child := os.fork()):
        if not calls:
            sys.exit()
        try:
            client.models()
        except RuntimeError:
            client.close()
            del client
            sys.exit(Client(ADDRESS).models() != models)
        sys.exit("the client used its parent's connections")
    children.append(child)
failed = [child for child in children if os.waitpid(child, 0)[1]]
answers = [client.models() == models for _ in range(20)]
sys.exit(bool(failed) or not all(answers))
"""
FORKS_IN_A_TASK = """
import asyncio, os
from hangtag import AsyncClient

async def main():
    async with AsyncClient(ADDRESS) as client:
        models = await client.models()
        if not (child := os.fork()):
            await client.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert await client.models() == models

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("http", "stream", "code"),
    [(False, False, FORKS), (True, True, FORKS), (True, False, FORKS_IN_A_TASK)],  # gRPC supports no fork during a call
)
def test_a_forked_process_refuses_its_parents_client_and_leaves_its_connections_open(
    server: Server, http: bool, stream: bool, code: str
) -> None:
    address = f"http://{server.http_address}" if http else server.address
    ended = python(f"ADDRESS, STREAM = {address!r}, {stream}\n{code}")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_over_http_a_client_may_be_made_before_its_loop_runs_and_refuses_another_loop(server: Server) -> None:
    client = AsyncClient(f"http://{server.http_address}")
    with asyncio.Runner() as first, asyncio.Runner() as second:
        assert first.run(client.is_ready("gather"))
        with pytest.raises(RuntimeError, match="another event loop"):
            second.run(client.is_ready("gather"))
        first.run(client.close())


def test_over_http_a_client_that_is_freed_closes_its_connections(server: Server) -> None:
    body = f"await AsyncClient('http://{server.http_address}').is_ready(); await asyncio.sleep(0.1)"
    code = f"import asyncio\nfrom hangtag import AsyncClient\nasync def main(): {body}\nasyncio.run(main())"
    assert python(code, PYTHONWARNINGS="always::ResourceWarning").stderr == ""


def test_both_clients_have_the_same_methods() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(AsyncClient) == public(Client)
