"""Tests of waiting for a server or a model, of ``hangtag health``, and of ``hangtag models load`` and ``unload``."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from hangtag.serving.client import Client, ConnectionOptions
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.command import invoke, refusal
from tests.kit.kinds import Kind, grpc_kinds, message_of
from tests.kit.link import Link, link
from tests.kit.other_servers import CHECK, grpc_server, health, listener, refusing, say_nothing, web_server
from tests.kit.server import server as running_server
from tests.kit.waiting import TIMEOUT, until

LATE = grpc.StatusCode.DEADLINE_EXCEEDED
protocols = pytest.mark.parametrize("http", [False, True], ids=["gRPC", "HTTP"])


@protocols
@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        ("", "the server at {0} is ready"),
        ("--model gather --wait 30", "gather at {0} is ready"),
        ("--wait 0", "the server at {0} is ready"),
        ("--model nobody", "{0} serves no model 'nobody'"),
        ("--model nobody --wait 0.1", "{0} served no model 'nobody' within 0.1 s"),
    ],
)
def test_the_command_reports_it_by_its_exit_code(server: Server, http: bool, arguments: str, fact: str) -> None:
    address = f"http://{server.http_address}" if http else server.address
    result = invoke("health", "--server", address, *arguments.split(), exit_code=int("nobody" in arguments))
    shown, other = (result.stderr, result.stdout) if "nobody" in arguments else (result.stdout, result.stderr)
    assert (other, shown.count("\n")) == ("", 1)
    assert fact.format(address) in shown


@protocols
@pytest.mark.parametrize(
    ("arguments", "fact"), [("", "no server answers at {0}"), ("--wait 2", "within 2 s: no server answers at {0}")]
)
def test_the_command_where_nothing_listens(http: bool, arguments: str, fact: str) -> None:
    with refusing() as free:
        address = f"http://{free}" if http else free
        assert fact.format(address) in refusal("health", "--server", address, *arguments.split(), alone=True)


@protocols
def test_the_command_where_something_listens_and_says_nothing(http: bool) -> None:
    with listener(say_nothing) as silent:
        address = f"http://{silent}" if http else silent
        message = refusal("health", "--server", address, "--wait", 0.2, alone=True)
    assert f"the server at {address} was not ready within 0.2 s: the server did not answer" in message


@pytest.mark.parametrize("arguments", [(), ("--model", "cnn")], ids=["the server", "a model"])
def test_a_server_that_still_loads_is_not_ready(arguments: tuple[str, ...]) -> None:
    """The server does not know its models yet, so an unknown model is not the caller's mistake."""

    def check(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[object]:
        if next(requests):
            context.abort(grpc.StatusCode.NOT_FOUND, "")
        yield health(serving=False)

    with grpc_server({CHECK: check}) as address:
        message = refusal("health", "--server", address, *arguments, alone=True)
    assert f"{arguments[1] if arguments else 'the server'} at {address} is not ready" in message


def test_a_client_knows_what_is_ready_and_requires_it(client: Client) -> None:
    assert client.is_ready()
    assert client.is_ready("gather")
    assert not client.is_ready("nobody")
    client.require_ready("gather")
    assert "'nobody'" in message_of(grpc.StatusCode.NOT_FOUND, client.require_ready, "nobody")
    client.wait_until_ready(30)
    client.wait_until_ready(30, "gather")


def test_waiting_in_vain_ends_in_time(kind: Kind, client: Client) -> None:
    with refusing() as address, kind.open(address) as lonely:
        assert "within 0.2 s" in message_of(LATE, lonely.wait_until_ready, 0.2)
        message = message_of(LATE, client.wait_until_ready, 0.5, "nobody")
    assert "'nobody' within 0.5 s" in message


def test_waiting_outlasts_a_server_that_starts_later(kind: Kind, models: Path) -> None:
    with refusing() as address:
        pass
    with kind.open(address) as client, ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.wait_until_ready, TIMEOUT, "gather")
        with running_server(models, **kind.ports(address)):
            waiting.result(TIMEOUT)


@grpc_kinds
def test_a_wait_continues_after_a_failed_check_and_gives_the_reason_at_its_end(kind: Kind) -> None:
    def check(_requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[object]:
        checks.append(context)
        context.abort(grpc.StatusCode.UNAVAILABLE, "there is no replica")
        yield

    checks: list[grpc.ServicerContext] = []
    soon = ConnectionOptions(initial_backoff=0.01)
    with grpc_server({CHECK: check}) as address, kind.open(address, options=soon) as client:
        assert "there is no replica" in message_of(LATE, client.wait_until_ready, 0.5)
    assert 1 < len(checks) < 10  # each pause is twice as long as the pause before it


def test_a_wait_ends_at_once_where_the_server_refuses_the_question(kind: Kind) -> None:
    without_health = web_server(lambda _: (404, {}, b"")) if kind.http else grpc_server({})
    with without_health as address, kind.open(address) as client:
        assert message_of(grpc.StatusCode.UNIMPLEMENTED, client.wait_until_ready, TIMEOUT)


@contextmanager
def waiting(kind: Kind, models: Path) -> Iterator[tuple[Server, Link, Client, Future[None]]]:
    """A client that waits for a model that its server has not loaded. The link between them can be cut."""
    with (
        running_server(models, model_control="explicit", load_model=("text",)) as server,
        link(kind.of(server)) as to,
        kind.open(to.address) as client,
        ThreadPoolExecutor() as pool,
    ):
        assert client.is_ready()
        before = to.answered_bytes
        wait = pool.submit(client.wait_until_ready, TIMEOUT, "gather")
        until(lambda: to.answered_bytes > before)  # the first answer to a check
        yield server, to, client, wait


def test_another_server_may_take_the_place_of_the_one_that_stops(kind: Kind, models: Path) -> None:
    with waiting(kind, models) as (first, _, _, wait):
        address = kind.of(first)
        first.stop()
        with running_server(models, **kind.ports(address)):
            wait.result(TIMEOUT)


def test_the_connection_may_break(kind: Kind, models: Path) -> None:
    with waiting(kind, models) as (server, to, _, wait), Client(server.address) as control:
        to.cut()
        control.load_model("gather")
        wait.result(TIMEOUT)


def test_a_client_that_is_closed_waits_no_longer(kind: Kind, models: Path) -> None:
    with waiting(kind, models) as (_, _, client, wait):
        client.close()
        assert message_of(grpc.StatusCode.CANCELLED, wait.result, TIMEOUT / 2)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return onnx_models.publish_all(tmp_path / "models", "gather", "text")


@pytest.fixture(params=["gRPC", "HTTP"])
def explicit(repository: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that serves the model ``text`` and loads the model ``gather`` on request."""
    with running_server(repository, model_control="explicit", load_model=("text",)) as running:
        yield running.address if request.param == "gRPC" else f"http://{running.http_address}"


def models(address: str, *arguments: str) -> str:
    """The command's output."""
    return invoke("models", *arguments, "--server", address).stdout


def served(address: str) -> list[str]:
    with Client(address) as client:
        return client.models()


def test_a_model_is_loaded_loaded_again_and_unloaded(explicit: str, repository: Path) -> None:
    assert models(explicit, "load", "gather") == f"{explicit} serves gather version 1\n"
    assert served(explicit) == ["gather", "text"]
    onnx_models.publish(repository, "gather", onnx_models.gather(), version=2)
    assert models(explicit, "load", "gather").endswith("gather version 2\n")
    assert models(explicit, "unload", "text") == f"{explicit} no longer serves text\n"
    assert served(explicit) == ["gather"]


def test_what_cannot_be_done_is_one_line(explicit: str, repository: Path) -> None:
    (repository / "broken/1").mkdir(parents=True)
    (repository / "broken/1/model.onnx").write_bytes(b"not a model")
    for arguments, facts in (
        ("load nope", ["'nope'", "gather, text"]),
        ("unload gather", ["'gather'", "served: text"]),
        ("load broken", ["broken/1/model.onnx cannot be loaded"]),
        ("load gather --timeout 1e-9", [f"no complete answer from {explicit}"]),
    ):
        error = refusal("models", *arguments.split(), "--server", explicit)
        assert all(fact in error for fact in facts), error
    assert "text" in served(explicit)
