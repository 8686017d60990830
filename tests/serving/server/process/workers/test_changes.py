"""Load and unload calls in several workers, of which one fails, stops, or has less than the others."""

import threading
from pathlib import Path
from typing import Any

import pytest

from hangtag.serving.server.errors import NotFoundError, UnavailableError
from hangtag.serving.server.process.workers import supervisor
from hangtag.serving.server.process.workers.messages import Load
from hangtag.serving.server.process.workers.pipe_rpc import PeerError
from hangtag.serving.server.process.workers.supervisor import Supervisor
from hangtag.serving.server.process.workers.worker_process import WorkerProcess
from tests.kit import onnx_models
from tests.kit.repository import Repository
from tests.serving.server.process.workers.supervised import TIMEOUT, wait_until_replaced

pytestmark = pytest.mark.slow


def refuses_to_load(worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
    call = worker.call

    def refuse(message: Any, timeout: float | None = None) -> Any:
        if isinstance(message, Load):
            raise error or PeerError("out of memory")
        return call(message, timeout)

    monkeypatch.setattr(worker, "call", refuse)


def models_of(worker: WorkerProcess) -> set[str]:
    worker.refresh()
    return {version.name for version in worker.state.versions}


def test_a_worker_that_cannot_follow_is_replaced_by_one_that_starts_with_the_model(
    supervised: Supervisor, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_models.publish(models, "text", onnx_models.text())
    second = supervised._workers[1]
    refuses_to_load(second, monkeypatch)
    supervised.load("text")
    assert models_of(wait_until_replaced(supervised, 1, second)) == {"gather", "text"}
    assert supervised.ready


def test_a_worker_that_stops_meanwhile_is_not_killed_so_that_it_answers_its_calls(
    supervised: Supervisor, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_models.publish(models, "text", onnx_models.text())
    second = supervised._workers[1]
    refuses_to_load(second, monkeypatch, UnavailableError("the server is stopping, and changes nothing any more"))
    supervised.load("text")
    assert not second.join(timeout=1)


def test_a_worker_that_stops_leaves_the_change_to_the_others(
    supervised: Supervisor, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_models.publish(models, "text", onnx_models.text())
    first, second = supervised._workers.values()
    refuses_to_load(first, monkeypatch, UnavailableError("the server is stopping, and changes nothing any more"))
    supervised.load("text")
    assert models_of(second) == {"gather", "text"}
    refuses_to_load(second, monkeypatch, UnavailableError("the server is stopping, and changes nothing any more"))
    with pytest.raises(UnavailableError):
        supervised.load("text")


@pytest.mark.parametrize("having", [0, 1])
def test_a_model_that_only_one_worker_serves_can_be_unloaded(supervised: Supervisor, models: Path, having: int) -> None:
    """As after its folder is gone, and another worker was replaced by one that starts without it."""
    onnx_models.publish(models, "text", onnx_models.text())
    workers = list(supervised._workers.values())
    workers[having].call(Load("text"))
    supervised.unload("text")
    assert [models_of(worker) for worker in workers] == [{"gather"}] * 2
    assert list(supervised._workers.values()) == workers
    with pytest.raises(NotFoundError, match="there is nothing to unload"):
        supervised.unload("text")


def test_a_route_without_its_shadow_is_loaded_in_every_worker(supervised: Supervisor, models: Path) -> None:
    repository = Repository(models)
    repository.publish("one")
    repository.publish("two")
    repository.route("both", 'split = {one = 100}\nshadow = {model = "two", share = 1}')
    supervised.load("one")
    supervised.load("both")
    assert [models_of(worker) for worker in supervised._workers.values()] == [{"both", "gather", "one"}] * 2


def test_a_replacement_that_starts_before_the_call_ends_has_the_model_too(
    supervised: Supervisor, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_models.publish(models, "text", onnx_models.text())
    second = supervised._workers[1]
    refuses_to_load(second, monkeypatch)
    replaced = threading.Event()

    class Noted(WorkerProcess):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            replaced.set()

    monkeypatch.setattr(supervisor, "WorkerProcess", Noted)
    check = supervised._check_workers

    def check_after_the_replacement_has_started() -> None:
        if threading.current_thread() is threading.main_thread():
            assert replaced.wait(TIMEOUT)
        check()

    monkeypatch.setattr(supervised, "_check_workers", check_after_the_replacement_has_started)
    supervised.load("text")
    assert models_of(wait_until_replaced(supervised, 1, second)) == {"gather", "text"}
