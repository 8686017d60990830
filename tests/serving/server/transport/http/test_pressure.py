"""Clients that leave or are late, a full queue, batches of several transports, and a server that stops."""

import json
import threading
import time

import pytest

from tests.kit.live import TIMEOUT, LiveServer, index, request
from tests.kit.raw import connected, send, status_line
from tests.kit.rest import Rest, as_http
from tests.serving.server.transport.http.test_classify import IMAGE

pytestmark = pytest.mark.slow


def test_a_full_queue_refuses_at_once(own_http: LiveServer) -> None:
    with own_http.gate("gather") as gate, connected(own_http) as first:
        send(first)
        gate.wait_until_computing()
        waiting = [Rest(own_http.server.http_address) for _ in range(4)]
        for each in waiting:
            path, body, headers = as_http(request("gather", index=index(1)))
            each.connection.request("POST", path, body, headers)
        gate.wait_until_queued(5)
        with Rest(own_http.server.http_address) as another:
            refused = another.infer(request("gather", index=index(1)))
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert "queue" in refused.error
        gate.open()
        assert status_line(first) == b"HTTP/1.1 200 OK"
        for each in waiting:
            assert each.connection.getresponse().status == 200
            each.connection.close()


def test_http_and_grpc_share_batches(own_http: LiveServer) -> None:
    with own_http.gate("gather") as gate, connected(own_http) as first, connected(own_http) as second:
        send(first)
        gate.wait_until_computing()
        send(second)
        gate.wait_until_queued(2)
        by_grpc = own_http.inference.ModelInfer.future(request("gather", index=index(2)), timeout=TIMEOUT)
        gate.wait_until_queued()
        gate.open()
        assert status_line(first) == status_line(second) == b"HTTP/1.1 200 OK"
        assert by_grpc.result().outputs
        assert gate.batch_sizes == [1, 2]


def test_a_request_whose_client_leaves_is_not_computed(own_http: LiveServer) -> None:
    with own_http.gate("gather") as gate, connected(own_http) as first:
        send(first)
        gate.wait_until_computing()
        with connected(own_http) as leaving:
            send(leaving)
            gate.wait_until_queued(2)
        gate.wait_until_cancelled()
        gate.open()
        assert status_line(first) == b"HTTP/1.1 200 OK"
        assert gate.batch_sizes == [1]


def test_a_comparison_whose_client_leaves_is_dropped_by_every_model(own_http: LiveServer) -> None:
    with (
        own_http.gate("classifier") as first_gate,
        own_http.gate("lstm") as second_gate,
        Rest(own_http.server.http_address) as stays,
    ):
        gates = (first_gate, second_gate)
        stays.connection.request("POST", "/v1/classify/classifier,lstm", IMAGE)
        for gate in gates:
            gate.wait_until_computing()
        with Rest(own_http.server.http_address) as leaving:
            leaving.connection.request("POST", "/v1/classify/classifier,lstm", IMAGE)
            for gate in gates:
                gate.wait_until_queued(2)
        for gate in gates:
            gate.wait_until_cancelled()
            gate.open()
        outcomes = json.loads(stays.connection.getresponse().read())["outcomes"]
        assert all("answer" in outcome for outcome in outcomes)
        assert [gate.batch_sizes for gate in gates] == [[1], [1]]


def test_a_request_past_its_own_timeout_is_dropped(own_http: LiveServer) -> None:
    with own_http.gate("gather") as gate, connected(own_http) as first, Rest(own_http.server.http_address) as late:
        send(first)
        gate.wait_until_computing()
        sent = request("gather", index=index(1))
        sent.parameters["timeout"].int64_param = 20_000
        path, body, headers = as_http(sent)
        late.connection.request("POST", path, body, headers)
        gate.wait_until_queued(2)
        over = time.monotonic() + 0.02
        while time.monotonic() < over:
            continue
        gate.open()
        answer = late.connection.getresponse()
        assert answer.status == 504
        assert b"deadline" in answer.read()
        assert status_line(first) == b"HTTP/1.1 200 OK"
        assert gate.batch_sizes == [1]


def test_a_server_that_stops_answers_what_it_accepted_and_refuses_the_rest(own_http: LiveServer) -> None:
    with own_http.gate("gather") as gate, connected(own_http) as first, Rest(own_http.server.http_address) as idle:
        assert idle.get("/v2/health/ready").status == 200
        send(first)
        gate.wait_until_computing()
        begun, refuse_new = threading.Event(), own_http.server._http.refuse_new  # type: ignore[union-attr]

        def noting() -> None:
            refuse_new()
            begun.set()

        own_http.server._http.refuse_new = noting  # type: ignore[method-assign,union-attr]
        call = own_http.inference.ModelInfer.future(request("gather", index=index(1)), timeout=TIMEOUT)
        gate.wait_until_queued(2)
        stopping = threading.Thread(target=own_http.server.stop, args=(TIMEOUT,))
        stopping.start()
        assert begun.wait(TIMEOUT)
        refused = idle.infer(request("gather", index=index(1)))
        assert (refused.status, refused.headers["connection"]) == (503, "close")
        assert refused.error == "the server is stopping and takes no new requests; try another replica"
        with Rest(own_http.server.http_address) as probe:
            assert probe.get("/v2/health/live").json == {"live": True}
            assert probe.get("/v2/health/ready").status == 503
        gate.open()
        assert status_line(first) == b"HTTP/1.1 200 OK"
        assert call.result().outputs
        stopping.join(TIMEOUT)
        assert not stopping.is_alive()
    with pytest.raises(ConnectionRefusedError), connected(own_http):
        pass


def test_what_outlasts_the_grace_period_is_cut(own_http: LiveServer) -> None:
    with own_http.gate("gather") as gate, connected(own_http) as first, connected(own_http) as silent:
        send(first)
        gate.wait_until_computing()
        stopping = threading.Thread(target=own_http.server.stop, args=(0,))
        stopping.start()
        for connection in (first, silent):
            try:
                assert connection.recv(1) == b""
            except ConnectionResetError:
                continue
        gate.open()
        stopping.join(TIMEOUT)
        assert not stopping.is_alive()
