"""The generator's ceiling."""

import threading

import pytest

from hangtag.serving.connection.http.codec.wire import HttpRequest
from hangtag.serving.loadtest.generator.channels.http_text import as_text
from hangtag.serving.loadtest.generator.messages import CallSettings
from hangtag.serving.loadtest.measuring import calibration
from hangtag.serving.loadtest.measuring.session import Progress
from hangtag.serving.loadtest.plan.load import ClosedLoop, OpenLoop

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("protocol", ["gRPC", "HTTP"])
def test_the_ceiling_is_measured_on_the_null_server(protocol: str) -> None:
    loads = (ClosedLoop(8), OpenLoop(500.0))
    seen: list[Progress] = []
    request = bytes(800)
    if protocol == "HTTP":
        request = as_text("http://127.0.0.1", HttpRequest("POST", "null", request))
    stop = threading.Event()
    closed, opened = calibration.calibrate(protocol, loads, (request,), 2, stop, CallSettings(), seen.append)
    assert {closed.protocol, opened.protocol} == {protocol}
    assert {at.block.load for at in seen} == set(loads)
    assert {at.phase for at in seen} == {"the generator's own ceiling"}
    assert closed.load == ClosedLoop(8)
    assert closed.throughput > 100
    assert 0 < closed.p50 <= closed.p99
    assert opened.throughput == pytest.approx(500, rel=0.3)
