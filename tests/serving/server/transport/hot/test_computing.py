"""The threads that compute are counted, whatever happens on them: the end waits for that count."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from serving.server.config import ServerConfig
from tests.serving.server.transport.live import LiveServer, index, request


@pytest.fixture
def hot(repository: Path) -> Iterator[LiveServer]:
    with LiveServer(ServerConfig(models=repository, port=0, instances=2, hot_path="on")) as server:
        yield server


def test_a_batch_is_counted_before_it_is_taken(hot: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the queue could be shut down between the two, and the answer would end the process."""
    path = hot.server._transport._hot
    assert path is not None
    batcher = hot.model("gather").batcher
    counted: list[int] = []
    take = batcher.take

    def noting(*, wait: bool = True) -> Any:
        if not wait:
            counted.append(path._computing)
        return take(wait=wait)

    monkeypatch.setattr(batcher, "take", noting)
    for value in range(4):
        assert hot.infer(request("gather", index=index(value)))["value"].tolist() == [10 * value]
    assert counted
    assert min(counted) >= 1


def test_a_bug_of_ours_on_a_thread_that_computes_ends_neither_it_nor_the_end(
    hot: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = hot.server._transport._hot
    assert path is not None
    model = hot.model("gather")
    execute, faults = model.execute, [RuntimeError("a bug")] * 3

    def broken(batch: Any) -> None:
        execute(batch)
        if faults:
            raise faults.pop()

    monkeypatch.setattr(model, "execute", broken)
    with structlog.testing.capture_logs() as logs:
        for _ in range(6):
            assert hot.infer(request("gather", index=index(1)))["value"].tolist() == [10]
    assert [line["event"] for line in logs] == ["computing failed"] * 3
    while path._computing:
        threading.Event().wait(0.001)
