"""The threads that compute are counted, whatever happens on them: the end waits for that count."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.transport.hot.completion_queue import UnaryCall
from tests import onnx_models
from tests.serving.server.transport.live import TIMEOUT, LiveServer, index, outputs, request


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


def test_a_model_with_more_instances_than_the_server_has_a_thread_for_each(tmp_path: Path) -> None:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    (tmp_path / "gather" / "serving.toml").write_text("instances = 4\nmax_batch_size = 1\n")
    config = ServerConfig(models=tmp_path, port=0, instances=1, hot_path="on")
    with LiveServer(config) as live, live.gate("gather") as gate:
        calls: list[Any] = [
            live.inference.ModelInfer.future(request("gather", index=index(value)), timeout=TIMEOUT)
            for value in range(4)
        ]
        for _ in calls:
            gate.wait_until_computing()
        path = live.server._transport._hot
        assert path is not None
        assert sum(thread.name != "hot-reserve" for thread in path._threads) == 4
        gate.open()
        assert [outputs(call.result())["value"].item() for call in calls] == [0, 10, 20, 30]


def test_the_answers_of_a_batch_leave_together(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one thread, which neither polls nor takes the next batch in between."""
    did: list[tuple[int, str]] = []

    def note(owner: Any, method: str) -> None:
        original = getattr(owner, method)

        def noting(*arguments: Any, **options: Any) -> Any:
            did.append((threading.get_ident(), method))
            return original(*arguments, **options)

        monkeypatch.setattr(owner, method, noting)

    config = ServerConfig(models=repository, port=0, max_batch_size=4, instances=1, hot_path="on")
    with LiveServer(config) as hot, hot.gate("gather") as gate:
        path = hot.server._transport._hot
        assert path is not None
        calls = [hot.inference.ModelInfer.future(request("gather", index=index(0)), timeout=TIMEOUT)]
        gate.wait_until_computing()
        calls += [
            hot.inference.ModelInfer.future(request("gather", index=index(n % 4)), timeout=TIMEOUT) for n in range(8)
        ]
        gate.wait_until_queued(9)
        note(UnaryCall, "answer")
        note(path._queue, "next")
        note(hot.model("gather").batcher, "take")
        gate.open()
        assert [outputs(call.result())["value"].item() for call in calls] == [0, *[0, 10, 20, 30] * 2]
        assert gate.batch_sizes == [1, 4, 4]
    thread = next(thread for thread, what in did if what == "answer")
    begun = [what for number, what in did if number == thread]
    assert [what for _, what in did].count("answer") == 9
    assert begun[:11] == ["answer", "take", *["answer"] * 4, "take", *["answer"] * 4]
