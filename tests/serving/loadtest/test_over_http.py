"""`hangtag loadtest` measures hangtag's server and other servers over HTTP and gRPC, even if connections break."""

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.command import refusal
from tests.kit.fake_server import FakeServer, running, running_over_http
from tests.kit.link import link
from tests.kit.other_servers import Answer, web_server
from tests.kit.server import server as serving
from tests.serving.loadtest.command import LOOP, QUICK, measure

DEEP = b"[" * 100_000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which the second version of ``classifier`` has other labels."""
    folder = tmp_path_factory.mktemp("models")
    onnx_models.publish(folder, "classifier", onnx_models.classifier())
    onnx_models.publish(folder, "classifier", onnx_models.classifier(labels=json.dumps([*"abcdefghij"])), version=2)
    onnx_models.publish(folder, "other", onnx_models.classifier())
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    with serving(models, num_versions=2) as started:
        yield started


@pytest.mark.parametrize("method", ["infer", "classify"])
def test_a_model_is_measured_over_both_protocols(server: Server, models: Path, tmp_path: Path, method: str) -> None:
    """The measured version is not the latest one."""
    page = tmp_path / "page.html"
    url = f"http://{server.http_address}"
    targets = (f"grpc={server.address}/classifier@1", f"rest={url}/classifier@1", f"another={url}/other")
    command = tuple(word for target in targets for word in ("--target", target))
    images = np.random.default_rng(5).integers(0, 256, (40, 28, 28), np.uint8)
    np.savez(tmp_path / "samples.npz", image=images, labels=onnx_models.logits_of(images).argmax(axis=1))
    more = ("--samples", tmp_path / "samples.npz", "--accuracy", "--min-duration", "200ms", "--html", page)
    measured = measure(tmp_path, *command, "--method", method, *QUICK, "--concurrency", 4, *more)
    for run in measured.runs:
        assert run["total"]["statuses"] == {"OK": run["total"]["queries"]}
    assert {target["accuracy"]["accuracy"] for target in measured.document["targets"]} == {1.0}
    assert "rest classifies 100.00% of 40 samples" in measured.text
    size = (models / "classifier/1/model.onnx").stat().st_size
    assert size != (models / "classifier/2/model.onnx").stat().st_size
    for target in measured.document["targets"]:
        assert (target["answering_version"], target["method"], target["file_bytes"]) == ("1", method, size)
    # Every target has an accuracy of 100 %, so only the fastest is on the Pareto front.
    (picture,) = re.findall(r'<svg[^>]*aria-label="Accuracy against latency".*?</svg>', page.read_text(), re.DOTALL)
    assert not re.search(r'<path d="M [^"L]*L [^"]*"[^>]*stroke-dasharray', picture)


# The server's answers during a load test, each with the status and the message that the report shows.
ANSWERS: dict[str, tuple[Answer, str, str]] = {
    "closes": ((200, {"connection": "close"}, b"{}"), "OK", ""),
    "in-chunks": ((200, {"transfer-encoding": "chunked"}, b"2\r\n{}\r\n0\r\n\r\n"), "OK", ""),
    "is-full": ((429, {}, b'{"error": "queue is full"}'), "RESOURCE_EXHAUSTED", "queue is full"),
    "is-a-proxy": ((503, {"connection": "close"}, b"<html>"), "UNAVAILABLE", "HTTP 503"),
    "is-hostile": ((503, {}, b'{"error": ' + DEEP), "UNAVAILABLE", "HTTP 503"),
}


def test_answers_of_other_servers_are_read(tmp_path: Path) -> None:
    """The paths of the server begin with a prefix, as behind a gateway."""
    paths: list[str] = []

    def server_that(answer: Answer) -> Callable[[str], Answer]:
        fake = FakeServer()

        def respond(path: str) -> Answer:
            paths.append(path)
            own = fake.over_http(path.removeprefix("/tenant/a"))
            return answer if path.endswith("infer") and len(fake.requests) > 1 else own

        return respond

    with ExitStack() as stack:
        command: list[str] = []
        for name, (answer, _, _) in ANSWERS.items():
            address = stack.enter_context(web_server(server_that(answer)))
            command += ["--target", f"{name}=http://{address}/tenant/a/fast"]
        measured = measure(tmp_path, *command, *LOOP)
    assert all(path.startswith("/tenant/a/v2") for path in paths)
    for name, (_, status, message) in ANSWERS.items():
        run = measured.run(name)
        assert run["total"]["statuses"].keys() == {status}, name
        assert run["error_messages"] == ({} if status == "OK" else {status: message})


@pytest.mark.parametrize("protocol", ["gRPC", "HTTP"])
def test_a_connection_that_breaks_fails_its_call_and_the_next_one_gets_another(tmp_path: Path, protocol: str) -> None:
    fake = FakeServer()
    url = "http://" * (protocol == "HTTP")
    with (running_over_http if url else running)(fake), link(fake.address.removeprefix(url)) as to:

        def behaviour(number: int, context: object) -> None:
            if number == 50:
                to.cut()
            if number == 100:
                os.kill(os.getpid(), signal.SIGINT)

        fake.behaviour = behaviour
        command = ("fast", "--server", f"{url}{to.address}", "--concurrency", 2, "--min-duration", 30)
        (run,) = measure(tmp_path, *command, "--blocks", 1, "--warm-up", 0).runs
        # Some connections are for reading the server's metadata. Each of the two calls in flight uses one connection
        # before the cut and one after it.
        assert to.connections <= 12
    assert 1 <= run["total"]["statuses"]["UNAVAILABLE"] <= 2
    assert run["total"]["statuses"]["OK"] > 80
    if url:
        assert "the connection was lost before the answer" in run["error_messages"]["UNAVAILABLE"]


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("body", [DEEP, b'{"error": ' + DEEP, b"9" * 100_000, b"\xff", b""], ids=lambda b: repr(b[:20]))
def test_a_server_that_describes_itself_in_nonsense_is_refused_in_one_line(status: int, body: bytes) -> None:
    with web_server(lambda _: (status, {}, body)) as address:
        assert f"http://{address}" in refusal("loadtest", "cnn", "--server", f"http://{address}", *LOOP)
