import socket
from concurrent import futures

import grpc
import pytest

from serving.loadtest.errors import TargetError
from serving.loadtest.target import probe
from tests.serving.loadtest.fake_server import FakeServer


def test_a_server_says_what_it_is_and_what_its_models_take(server: FakeServer) -> None:
    target = probe(server.address, ("fast", "slow"))
    assert (target.name, target.version) == ("fake", "0.0")
    assert list(target.models) == ["fast", "slow"]
    assert target.models["fast"].inputs[0].name == "image"


def test_an_unknown_model_is_refused_with_those_there_are(server: FakeServer) -> None:
    with pytest.raises(TargetError, match="has no model 'lstn'; it has fast, slow"):
        probe(server.address, ("lstn",))


def test_a_server_that_cannot_list_its_models_still_says_which_is_unknown(server: FakeServer) -> None:
    server.lists_models = False
    with pytest.raises(TargetError, match=r"has no model 'lstn'\."):
        probe(server.address, ("lstn",))


def test_a_model_that_is_not_ready_is_refused(server: FakeServer) -> None:
    with pytest.raises(TargetError, match="model 'loading' is not ready"):
        probe(server.address, ("loading",))


def test_nothing_at_the_address_is_said_at_once() -> None:
    with socket.socket() as unused:  # Bound but not listening: connections are refused.
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(TargetError, match=f"no server answers at {address}"):
            probe(address, ("cnn",))


def test_a_grpc_server_of_another_kind_is_recognised() -> None:
    other = grpc.server(futures.ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    try:
        with pytest.raises(TargetError, match="does not speak the Open Inference Protocol"):
            probe(f"127.0.0.1:{port}", ("cnn",))
    finally:
        other.stop(None).wait()
