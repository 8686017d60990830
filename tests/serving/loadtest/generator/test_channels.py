"""Both channel implementations, and the choice between them."""

import threading
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import inference_pb2_grpc
from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.generator.channels.channel import Channel
from hangtag.serving.loadtest.generator.channels.connect import connect
from hangtag.serving.loadtest.generator.channels.grpc_channels import CompletionQueueChannel, FutureChannel
from hangtag.serving.loadtest.generator.messages import INFER
from tests.serving.loadtest.fake_server import FakeServer
from tests.serving.loadtest.generator.ends import Ends

MakeChannel = Callable[[str, Credentials], Channel]
NONE = Credentials()
both_channels = pytest.mark.parametrize("make_channel", [CompletionQueueChannel, FutureChannel])


@both_channels
def test_every_call_ends_once_with_its_token_status_and_message(server: FakeServer, make_channel: MakeChannel) -> None:
    def behaviour(number: int, context: grpc.ServicerContext) -> None:
        if server.requests[number].id == "5":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue is full \u2014 wait")

    server.behaviour = behaviour
    channel, ends = make_channel(server.address, NONE), Ends()
    for number in range(20):
        channel.send(INFER, pb.ModelInferRequest(id=str(number)).SerializeToString(), 5.0, None, number, ends)
    seen = sorted(ends.next() for _ in range(20))
    assert [token for token, *_ in seen] == list(range(20))
    assert seen[5] == (5, 8, "queue is full \u2014 wait")
    assert all(end[1:] == (0, "") for end in seen if end[0] != 5)
    channel.close()


@both_channels
def test_a_deadline_is_kept_and_calls_in_flight_end_when_closed(server: FakeServer, make_channel: MakeChannel) -> None:
    gate = threading.Event()
    server.behaviour = lambda number, context: (gate.wait(10.0), None)[1]
    channel, ends = make_channel(server.address, NONE), Ends()
    channel.send(INFER, b"", 0.1, None, "late", ends)
    assert ends.next()[:2] == ("late", 4)
    channel.send(INFER, b"", 10.0, None, "cancelled", ends)
    channel.close()
    assert ends.next()[:2] == ("cancelled", 1)
    channel.close()  # A second time changes nothing.
    gate.set()


class Guarded(FakeServer):
    """Answers calls with the right token only."""

    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        if ("authorization", "Bearer secret") not in [(key, value) for key, value in context.invocation_metadata()]:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
        return pb.ModelInferResponse()


@both_channels
def test_tls_and_tokens_are_sent(make_channel: MakeChannel, tmp_path: Path) -> None:
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
    channel, ends = make_channel(f"127.0.0.1:{port}", credentials), Ends()
    channel.send(INFER, b"", 5.0, credentials.metadata(), "known", ends)
    assert ends.next() == ("known", 0, "")
    channel.send(INFER, b"", 5.0, None, "stranger", ends)
    assert ends.next() == ("stranger", 16, "who are you?")
    channel.close()
    encrypted.stop(None).wait()


def test_the_completion_queue_is_used_where_it_works(server: FakeServer) -> None:
    fast, public = connect(server.address, NONE), connect(server.address, NONE, public_api=True)
    assert isinstance(fast, CompletionQueueChannel)
    assert isinstance(public, FutureChannel)
    fast.close()
    public.close()


@pytest.mark.parametrize("broken", ["_channel", "send", "silent"])
def test_different_internals_of_grpcio_fall_back_to_the_public_api(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    class Other(CompletionQueueChannel):
        """As a grpcio version with other internal names, or whose queue never returns an event."""

        def __init__(self, address: str, credentials: Credentials) -> None:
            super().__init__(address, credentials)
            if broken == "_channel":
                raise AttributeError("'Channel' object has no attribute '_channel'")

        def send(self, *args: Any) -> None:
            if broken == "send":
                raise TypeError("integrated_call() takes 3 positional arguments")
            assert broken == "silent"

    monkeypatch.setattr(f"{connect.__module__}.CompletionQueueChannel", Other)
    monkeypatch.setattr(f"{connect.__module__}.CHECK_TIMEOUT", 0.5)
    channel = connect(server.address, NONE)
    assert isinstance(channel, FutureChannel)
    channel.close()


def test_an_unreachable_server_shows_in_the_calls() -> None:
    channel, ends = connect("127.0.0.1:1", NONE), Ends()
    channel.send(INFER, b"", 5.0, None, 1, ends)
    assert ends.next()[1] == 14  # UNAVAILABLE
    channel.close()
