"""The limits for a single client, tested with real clients."""

import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.config.limits import Limits
from studies.stubs import InferenceStub
from tests.kit.certificates import Certificates
from tests.kit.http2 import OPEN
from tests.kit.live import index, is_closed, outputs, request
from tests.kit.over_http import ENVOY, live_server
from tests.kit.raw import connect, read_to_the_end
from tests.kit.rest import Rest
from tests.kit.waiting import TIMEOUT, until


def test_the_number_of_connections_is_limited_and_one_that_ends_makes_room(models: Path) -> None:
    with (
        live_server(ENVOY, models, max_connections=3, http_port=0) as live,
        Rest(live.server.http_address) as over_http,
    ):
        assert over_http.get("/v2/health/live").status == 200
        assert live.infer(request("gather", index=index(1)))["value"].tolist() == [10]  # the first connection
        taken = [connect(live.server.address, OPEN) for _ in range(2)]
        assert all(connection.recv(9) for connection in taken)  # the server accepted each connection
        with connect(live.server.address, OPEN) as one, connect(live.server.address, OPEN) as another:
            read_to_the_end(one)
            read_to_the_end(another)
        assert not any(map(is_closed, taken))
        assert over_http.get("/v2/health/live").status == 200  # connections to another port do not count
        assert live.infer(request("gather", index=index(2)))["value"].tolist() == [20]
        for connection in taken:
            connection.close()
        with live.connect() as channel:
            stub = InferenceStub(channel)
            answer = stub.ModelInfer(request("gather", index=index(3)), timeout=TIMEOUT, wait_for_ready=True)
            assert outputs(answer)["value"].tolist() == [30]


@pytest.fixture(params=[True, False], ids=["TLS", "clear text"])
def security(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The options of a server with TLS, or of one without."""
    return Certificates(tmp_path_factory.mktemp("certificates")).server() if request.param else {}


def test_connections_that_begin_no_handshake_are_limited(models: Path, security: dict[str, Any]) -> None:
    with live_server(ENVOY, models, max_connections=3, **security) as live, ExitStack() as stack:
        silent = [stack.enter_context(connect(live.server.address)) for _ in range(5)]
        until(lambda: sum(map(is_closed, silent)) >= 2)
        assert sum(map(is_closed, silent)) == 2


def test_a_connection_whose_handshake_does_not_come_is_closed(models: Path, security: dict[str, Any]) -> None:
    """A connection without TLS has no handshake that could time out; the server closes it because it is idle."""
    with live_server(ENVOY, models, limits=Limits(peer_seconds=1), connection_idle_seconds=1, **security) as live:
        began = time.monotonic()
        with connect(live.server.address) as silent:
            read_to_the_end(silent)
        assert time.monotonic() - began > 0.9  # the server waited 1 s for the handshake


def test_no_call_of_a_burst_on_one_connection_is_refused(models: Path, transport: str) -> None:
    own = [("grpc.use_local_subchannel_pool", 1)]
    with live_server(transport, models) as live:
        for _ in range(3):
            with grpc.insecure_channel(live.server.address, options=own) as channel:
                stub = InferenceStub(channel)
                assert stub.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT).live  # the client learns the limit
                calls = [stub.ModelInfer.future(request("gather", index=index(1)), timeout=TIMEOUT) for _ in range(400)]
                assert [call.exception() for call in calls if call.exception()] == []


def test_a_connection_without_calls_is_closed(models: Path) -> None:
    with live_server(ENVOY, models, connection_idle_seconds=1) as live, live.connect() as channel:
        stub = InferenceStub(channel)
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT).live
        idle = threading.Event()

        def on_change(state: grpc.ChannelConnectivity) -> None:
            if state is grpc.ChannelConnectivity.IDLE:
                idle.set()

        channel.subscribe(on_change)
        assert idle.wait(TIMEOUT)
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT).live  # the client has reconnected by itself


def test_old_connections_are_replaced_without_losing_a_call(models: Path) -> None:
    with live_server(ENVOY, models, connection_age_seconds=0.2) as live, live.connect() as channel:
        stub = InferenceStub(channel)
        left = threading.Semaphore(0)

        def on_change(state: grpc.ChannelConnectivity) -> None:
            if state is grpc.ChannelConnectivity.IDLE:
                left.release()

        channel.subscribe(on_change)

        def is_left() -> bool:
            calls = [stub.ModelInfer.future(request("gather", index=index(1)), timeout=TIMEOUT) for _ in range(8)]
            assert all(outputs(call.result())["value"].tolist() == [10] for call in calls)
            return left.acquire(blocking=False)

        for _ in range(4):  # the client is idle before its first call, and after the end of each of three connections
            until(is_left)


def test_a_client_that_does_not_answer_pings_is_disconnected(models: Path) -> None:
    with live_server(ENVOY, models, keepalive_seconds=1, limits=Limits(peer_seconds=1)) as live:
        began = time.monotonic()
        with connect(live.server.address, OPEN) as connection:
            read_to_the_end(connection)  # The server ends the connection, although nothing more was sent.
        assert time.monotonic() - began > 1.8  # The server pings after 1 s, and waits 1 s for the answer.
