"""The options of a connection: their allowed values, message limits, pings, and calls to several servers."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag import Client, ConnectionOptions, UserError
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.process.server import Server
from tests.kit.certificates import Certificates
from tests.kit.kinds import Kind, grpc_kinds, message_of
from tests.kit.link import link
from tests.kit.other_servers import INFERENCE, WATCH, grpc_server, health, output
from tests.kit.server import server as running_server
from tests.kit.waiting import TIMEOUT, until

ROUND_ROBIN = ConnectionOptions(round_robin=True, retries=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retries", 5),
        ("retries", -1),
        ("initial_backoff", 0),
        ("max_backoff", float("inf")),
        ("keepalive_seconds", float("nan")),
        ("max_message_mib", -1),
    ],
)
def test_a_value_out_of_its_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{name} .* not {value}") as caught:
        ConnectionOptions(**{name: value})
    assert isinstance(caught.value, ValueError)


def echo(client: Client, size: int) -> int:
    answer = client.infer("text", {"text": np.array(["x" * size], np.object_)})
    return len(answer["shouted"][0])


def test_an_answer_above_the_limit_is_refused(kind: Kind, server: Server) -> None:
    with kind.open(kind.of(server), options=ConnectionOptions(max_message_mib=1)) as client:
        assert echo(client, (1 << 20) - 1000) == (1 << 20) - 999  # the message is a little larger than its text
        assert message_of(grpc.StatusCode.RESOURCE_EXHAUSTED, echo, client, 1 << 20)


@grpc_kinds
def test_pings_notice_a_server_that_vanished(kind: Kind, server: Server) -> None:
    pings = ConnectionOptions(retries=0, keepalive_seconds=0.2, keepalive_timeout_seconds=0.2)
    with link(kind.of(server)) as to, kind.open(to.address, timeout=60, options=pings) as client:
        assert echo(client, 1) == 2
        to.lose_answers()
        assert message_of(grpc.StatusCode.UNAVAILABLE, echo, client, 1)  # long before the timeout of 60 seconds


def call(client: Client, times: int) -> None:
    for _ in range(times):
        assert client.infer("gather", {"index": np.array([1])})["value"] == [10]


def answered(server: Server) -> int:
    return sum(version.counters.inference_count for version in server.state().versions if version.name == "gather")


@contextmanager
def two(models: Path, **settings: Any) -> Iterator[tuple[Server, Server, str]]:
    """Two servers, and one address that names both."""
    with (
        running_server(models, http_port=-1, **settings) as one,
        running_server(models, http_port=-1, host="127.0.0.2", **settings) as other,
    ):
        yield one, other, f"ipv4:{one.address},{other.address}"


def called(client: Client, condition: Callable[[], object]) -> Callable[[], object]:
    """A condition that makes a call each time it is evaluated."""

    def ask() -> object:
        call(client, 1)
        return condition()

    return ask


@grpc_kinds
@pytest.mark.parametrize("transport", ["native", "grpc"])
def test_every_server_gets_its_share(kind: Kind, transport: str, models: Path) -> None:
    with two(models, transport=transport) as (one, other, address), kind.open(address, options=ROUND_ROBIN) as client:
        until(called(client, lambda: answered(one) and answered(other)))  # both servers have answered calls
        before = answered(one), answered(other)
        call(client, 10)
        assert (answered(one), answered(other)) == (before[0] + 5, before[1] + 5)


@grpc_kinds
def test_without_it_one_server_gets_every_call(kind: Kind, models: Path) -> None:
    with two(models) as (one, other, address), kind.open(address) as client:
        call(client, 10)
        assert sorted((answered(one), answered(other))) == [0, 10]


@grpc_kinds
def test_a_server_that_says_that_it_serves_no_more_gets_no_more_calls(kind: Kind, models: Path) -> None:
    stops, ended, calls = threading.Event(), threading.Event(), []

    def watch(_requests: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[Any]:
        yield health(serving=True)
        assert stops.wait(TIMEOUT)
        yield health(serving=False)
        ended.wait(TIMEOUT)

    def infer(_requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        calls.append(context)
        yield pb.ModelInferResponse(model_name="gather", outputs=[output("value", "FP32", [1], fp32_contents=[10])])

    def ten_go_elsewhere() -> bool:
        before = len(calls)
        call(client, 10)
        return len(calls) == before

    with (
        running_server(models, http_port=-1) as server,
        grpc_server({WATCH: watch, f"{INFERENCE}ModelInfer": infer}) as stopping,
        kind.open(f"ipv4:{server.address},{stopping}", options=ROUND_ROBIN) as client,
    ):
        try:
            until(called(client, lambda: calls and answered(server)))
            stops.set()
            until(ten_go_elsewhere)
            assert ten_go_elsewhere()
        finally:
            ended.set()


@grpc_kinds
def test_with_tls_the_first_address_of_a_list_is_the_servers_name(kind: Kind, models: Path, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    mine = certificates.client(by=None)
    with (
        two(models, **certificates.server()) as (one, other, address),
        kind.open(address, credentials=mine, options=ConnectionOptions(round_robin=True)) as client,
    ):
        until(called(client, lambda: answered(one) and answered(other)))
