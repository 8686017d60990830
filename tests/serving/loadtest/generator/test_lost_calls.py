"""Calls whose end gRPC never reports are failures, and a block does not wait for them for ever."""

import itertools
from typing import Any

import pytest

from hangtag.serving.loadtest.generator.block_result import OK
from hangtag.serving.loadtest.generator.channels.channel import Metadata, OnEnd
from hangtag.serving.loadtest.generator.channels.connect import connect
from hangtag.serving.loadtest.generator.channels.grpc_channels import CompletionQueueChannel
from hangtag.serving.loadtest.generator.executors import executor
from hangtag.serving.loadtest.plan.load import ClosedLoop, Load, OpenLoop
from tests.serving.loadtest.fake_server import FakeServer
from tests.serving.loadtest.generator.blocks import limits, make_generator, run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("load", [ClosedLoop(2), OpenLoop(200.0)], ids=["closed", "open"])
def test_a_call_whose_end_grpc_never_reports_is_a_failure_and_the_block_ends(
    server: FakeServer, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = itertools.count()

    class LosesOneEnd(CompletionQueueChannel):
        def send(
            self, method: str, request: bytes, timeout: float, metadata: Metadata, token: Any, on_end: OnEnd
        ) -> None:
            end = (lambda *_: None) if next(ends) == 3 else on_end
            super().send(method, request, timeout, metadata, token, end)

    monkeypatch.setattr(f"{connect.__module__}.CompletionQueueChannel", LosesOneEnd)
    monkeypatch.setattr(executor, "LOST_AFTER", 0.2)
    generator = make_generator(server, deadline=0.3)
    result = run(generator, load, limits(count=20, duration=0.2))
    generator.close()
    assert result.statuses["UNKNOWN"] == 1
    assert "did not report" in result.details["UNKNOWN"]
    assert result.statuses[OK] >= 19
    assert set(result.statuses) == {OK, "UNKNOWN"}
    assert result.queries == sum(result.statuses.values())
