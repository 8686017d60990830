"""Streams of small requests with large answers, whose client sends and does not read."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kit import onnx_models
from tests.kit.command import serving
from tests.kit.live import TIMEOUT, outputs, request
from tests.serving.server.hostile.conftest import TIMES, Attacked, tiled

pytestmark = pytest.mark.slow

MIB = 1 << 20
STREAMS, REQUESTS, NUMBERS = 4, 200, 1000
QUIET_SECONDS = 1.0
MOST_MEMORY = 25 * MIB
"""Of a stream, with what gRPC has taken over: 7 to 10 MiB were measured, and 60 to 65 when answers did not count."""


@pytest.fixture
def small(target: Attacked, tmp_path: Path) -> Iterator[Attacked]:
    """A server that takes messages of 1 MiB, over the same transport; an answer of its model is 0.4 of that."""
    onnx_models.publish(tmp_path, "tiled", tiled())
    arguments = ("--models", str(tmp_path), "--port", "0", "--transport", target.transport, "--max-message-mib", "1")
    with serving(*arguments) as server:
        attacked = Attacked(server, target.transport)
        yield attacked
        attacked.close()


def unread(server: Attacked) -> Any:
    sent = (request("tiled", x=np.full((1, NUMBERS), value, np.float32)) for value in range(REQUESTS))
    return server.inference.ModelStreamInfer(sent, timeout=TIMEOUT)


def wait_until_quiet(server: Attacked) -> int:
    """Wait until no further request is answered; return how many were."""
    answered, since = server.answered("tiled"), time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        time.sleep(QUIET_SECONDS / 20)
        if (now := server.answered("tiled")) != answered:
            answered, since = now, time.monotonic()
    return answered


def test_unread_streams_hold_about_a_message_each_and_go_on_to_their_end_once_they_are_read(small: Attacked) -> None:
    list(small.inference.ModelStreamInfer(iter([request("tiled", x=np.ones((1, NUMBERS), np.float32))])))
    before, answered = small.memory(), small.answered("tiled")
    streams = [unread(small) for _ in range(STREAMS)]
    count = wait_until_quiet(small) - answered
    assert count >= STREAMS
    assert small.memory() - before < STREAMS * MOST_MEMORY
    for stream in streams:
        for value, answer in enumerate(stream):
            (y,) = outputs(answer.infer_response).values()
            assert y.shape == (1, TIMES * NUMBERS)
            assert (y == value).all()
        assert value == REQUESTS - 1
