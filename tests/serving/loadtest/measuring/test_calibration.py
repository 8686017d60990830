"""The generator's ceiling."""

import threading

import pytest

from hangtag.serving.loadtest.generator.messages import CallSettings
from hangtag.serving.loadtest.measuring import calibration
from hangtag.serving.loadtest.measuring.session import Progress
from hangtag.serving.loadtest.plan.load import ClosedLoop, OpenLoop

pytestmark = pytest.mark.slow


def test_the_ceiling_is_measured_on_the_null_server() -> None:
    loads = (ClosedLoop(8), OpenLoop(500.0))
    seen: list[Progress] = []
    closed, opened = calibration.calibrate(loads, (bytes(800),), 2, threading.Event(), CallSettings(), seen.append)
    assert {at.block.load for at in seen} == set(loads)
    assert {at.phase for at in seen} == {"the generator's own ceiling"}
    assert closed.load == ClosedLoop(8)
    assert closed.throughput > 100
    assert 0 < closed.p50 <= closed.p99
    assert opened.throughput == pytest.approx(500, rel=0.3)
