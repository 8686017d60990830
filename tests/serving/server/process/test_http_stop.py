"""``hangtag serve`` gets a signal while it is called over HTTP."""

import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.kit import onnx_models
from tests.kit.command import TIMEOUT, Serving, serving
from tests.kit.live import request
from tests.kit.rest import Rest, as_http
from tests.serving.server.process.slow_model import slow

pytestmark = pytest.mark.slow

CALLERS = 8


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    onnx_models.publish(tmp_path, "slow", slow())
    with serving("--models", str(tmp_path), "--port", "0") as server:
        yield server


def address_of(server: Serving) -> str:
    (address,) = re.findall(r" http=(\S+)", server.wait_for("ready"))
    return str(address)


def test_a_signal_under_load_loses_no_request_that_was_accepted(server: Serving) -> None:
    """Each caller's last request is refused in words, and its connection closed, or finds the port closed."""
    answered: list[int] = []
    ends: list[str] = []
    address = address_of(server)

    def call(number: int) -> None:
        with Rest(address) as rest:
            while True:
                try:
                    answer = rest.infer(request("slow", rounds=np.array([200])))
                except ConnectionRefusedError:
                    ends.append("refused")
                    return
                if answer.status != 200:
                    ends.append(f"{answer.status} {answer.headers['connection']}: {answer.error}")
                    return
                assert answer.outputs["done"].tolist() == [200]
                answered.append(number)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    while {*answered} != {*range(CALLERS)}:
        assert all(caller.is_alive() for caller in callers), ends
        threading.Event().wait(0.001)
    server.signal(signal.SIGTERM)
    for caller in callers:
        caller.join(TIMEOUT)
    assert server.wait() == 0
    assert len(ends) == CALLERS  # else a caller met a connection that was cut
    stopping = "503 close: the server is stopping and takes no new requests; try another replica"
    assert {*ends} <= {stopping, "refused"}
    assert not any("Traceback" in line for line in server.log)


def test_a_second_signal_ends_it_at_once(server: Serving) -> None:
    path, body, headers = as_http(request("slow", rounds=np.array([2**40])))
    with Rest(address_of(server)) as endless, Rest(address_of(server)) as other:
        endless.connection.request("POST", path, body, headers)
        assert other.get("/v2/health/live").status == 200
        server.signal(signal.SIGTERM)
        server.wait_for("stopping")
        server.signal(signal.SIGTERM)
        assert server.wait() == 1
        with pytest.raises(ConnectionError):
            endless.connection.getresponse()
