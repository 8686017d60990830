"""Both ways to make calls, and the choice between them."""

import threading
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
import trustme

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import inference_pb2_grpc
from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.generator import channels as calls
from hangtag.serving.loadtest.generator.channels import Channel, CompletionQueueChannel, FutureChannel, connect
from hangtag.serving.loadtest.generator.messages import INFER
from tests.serving.loadtest.fake_server import FakeServer

Way = Callable[[str, Credentials], Channel]
NONE = Credentials()
both_ways = pytest.mark.parametrize("way", [CompletionQueueChannel, FutureChannel])


class Ends:
    """Collects how calls ended."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Any, int, str]] = SimpleQueue()

    def __call__(self, token: Any, ended: float, code: int, details: str) -> None:
        self._queue.put((token, code, details))

    def next(self) -> tuple[Any, int, str]:
        return self._queue.get(timeout=10)


@both_ways
def test_every_call_ends_once_with_its_token_status_and_message(server: FakeServer, way: Way) -> None:
    def behaviour(number: int, context: grpc.ServicerContext) -> None:
        if server.requests[number].id == "5":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue is full \u2014 wait")

    server.behaviour = behaviour
    one, ends = way(server.address, NONE), Ends()
    for number in range(20):
        one.send(INFER, pb.ModelInferRequest(id=str(number)).SerializeToString(), 5.0, None, number, ends)
    seen = sorted(ends.next() for _ in range(20))
    assert [token for token, *_ in seen] == list(range(20))
    assert seen[5] == (5, 8, "queue is full \u2014 wait")
    assert all(end[1:] == (0, "") for end in seen if end[0] != 5)
    one.close()


@both_ways
def test_a_deadline_is_kept_and_calls_under_way_end_when_closed(server: FakeServer, way: Way) -> None:
    gate = threading.Event()
    server.behaviour = lambda number, context: (gate.wait(10.0), None)[1]
    one, ends = way(server.address, NONE), Ends()
    one.send(INFER, b"", 0.1, None, "late", ends)
    assert ends.next()[:2] == ("late", 4)
    one.send(INFER, b"", 10.0, None, "cancelled", ends)
    one.close()
    assert ends.next()[:2] == ("cancelled", 1)
    one.close()  # A second time changes nothing.
    gate.set()


class Guarded(FakeServer):
    """Answers those who bring the token."""

    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        if ("authorization", "Bearer secret") not in [(key, value) for key, value in context.invocation_metadata()]:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
        return pb.ModelInferResponse()


@both_ways
def test_tls_and_tokens_go_along(way: Way, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    (tmp_path / "token").write_text("secret\n")
    issued = authority.issue_cert("127.0.0.1")
    encrypted = grpc.server(futures.ThreadPoolExecutor(2))
    inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Guarded(), encrypted)
    pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
    port = encrypted.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    encrypted.start()
    credentials = Credentials(tls_ca=tmp_path / "ca.pem", token_file=tmp_path / "token")
    one, ends = way(f"127.0.0.1:{port}", credentials), Ends()
    one.send(INFER, b"", 5.0, credentials.metadata(), "known", ends)
    assert ends.next() == ("known", 0, "")
    one.send(INFER, b"", 5.0, None, "stranger", ends)
    assert ends.next() == ("stranger", 16, "who are you?")
    one.close()
    encrypted.stop(None).wait()


def test_the_faster_way_is_taken_where_it_works(server: FakeServer) -> None:
    fast, public = connect(server.address, NONE), connect(server.address, NONE, public_api=True)
    assert isinstance(fast, CompletionQueueChannel)
    assert isinstance(public, FutureChannel)
    fast.close()
    public.close()


@pytest.mark.parametrize("broken", ["_channel", "send", "silent"])
def test_another_grpcio_inside_takes_the_public_way(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    class Other(CompletionQueueChannel):
        """As if a version had other names inside, or its queue never told of an end."""

        def __init__(self, address: str, credentials: Credentials) -> None:
            super().__init__(address, credentials)
            if broken == "_channel":
                raise AttributeError("'Channel' object has no attribute '_channel'")

        def send(self, *args: Any) -> None:
            if broken == "send":
                raise TypeError("integrated_call() takes 3 positional arguments")
            assert broken == "silent"

    monkeypatch.setattr(calls, "CompletionQueueChannel", Other)
    monkeypatch.setattr(calls, "CHECK_TIMEOUT", 0.5)
    one = connect(server.address, NONE)
    assert isinstance(one, FutureChannel)
    one.close()


def test_a_server_that_is_not_there_shows_in_the_calls() -> None:
    one, ends = connect("127.0.0.1:1", NONE), Ends()
    one.send(INFER, b"", 5.0, None, 1, ends)
    assert ends.next()[1] == 14  # UNAVAILABLE
    one.close()
