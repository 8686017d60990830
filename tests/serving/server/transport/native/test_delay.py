"""max_queue_delay on the native transport, where the thread that sweeps may be the only one that knows of a call."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hangtag.protos import classifier_pb2
from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit.live import TIMEOUT, LiveServer, index, outputs, request


def send(live: LiveServer, value: int) -> Any:
    return live.inference.ModelInfer.future(request("gather", index=index(value)), timeout=TIMEOUT)


def test_a_delay_holds_a_call_back_until_the_batch_is_full_or_the_time_is_over(repository: Path) -> None:
    config = ServerConfig(
        models=repository,
        port=0,
        http_port=-1,
        max_batch_size=2,
        max_queue_delay_microseconds=10_000_000,
        transport="native",
    )
    with LiveServer(config) as live:
        calls = [send(live, 1), send(live, 2)]
        assert [outputs(call.result())["value"].tolist() for call in calls] == [[10], [20]]
        assert live.statistics("gather").execution_count == 1
    brief = ServerConfig(
        models=repository,
        port=0,
        http_port=-1,
        max_batch_size=2,
        max_queue_delay_microseconds=2_000,
        transport="native",
    )
    with LiveServer(brief) as live:
        assert live.infer(request("gather", index=index(3)))["value"].tolist() == [30]


@pytest.mark.parametrize("delay_us", [0, 400_000], ids=["no delay", "a delay"])
@pytest.mark.parametrize("method", ["ModelInfer", "Classify"])
def test_a_single_call_that_comes_during_a_computation_is_answered_though_nothing_follows(
    repository: Path, method: str, delay_us: int
) -> None:
    config = ServerConfig(
        models=repository,
        port=0,
        http_port=-1,
        max_batch_size=2,
        instances=1,
        max_queue_delay_microseconds=delay_us,
        transport="native",
    )
    pictures = np.zeros((2, 28, 28), np.uint8)
    raw = classifier_pb2.RawImage(height=28, width=28, pixels=bytes(784))
    with LiveServer(config) as live, live.gate("lstm") as gate:
        full = live.inference.ModelInfer.future(request("lstm", image=pictures), timeout=TIMEOUT)
        gate.wait_until_computing()
        gate.wait_until_queued()
        if method == "ModelInfer":
            single = live.inference.ModelInfer.future(request("lstm", image=pictures[:1]), timeout=TIMEOUT)
        else:
            single = live.classifier.Classify.future(
                classifier_pb2.ClassifyRequest(model_name="lstm", raw=raw), timeout=TIMEOUT
            )
        gate.wait_until_queued()
        gate.open()
        assert full.exception() is None
        assert single.exception() is None
