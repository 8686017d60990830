"""The supervisor in this process, with real workers: faults that cannot be caused from outside."""

import multiprocessing
import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.model_control import ModelControl
from hangtag.serving.server.errors import NotFoundError, StartError, UnavailableError
from hangtag.serving.server.process.workers import messages, replacement, supervisor, worker_process
from hangtag.serving.server.process.workers.messages import Load, Poll
from hangtag.serving.server.process.workers.pipe_rpc import Peer, PeerError
from hangtag.serving.server.process.workers.supervisor import Supervisor
from hangtag.serving.server.process.workers.worker import SupervisorControl
from hangtag.serving.server.process.workers.worker_process import WorkerProcess
from tests import onnx_models
from tests.serving.server.engine.control.route_files import publish_members, write

pytestmark = pytest.mark.slow

TIMEOUT = 60.0


@pytest.fixture
def models(tmp_path: Path) -> Path:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    return tmp_path


@pytest.fixture
def supervised(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    monkeypatch.setattr(supervisor, "CHECK_SECONDS", 0.05)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[5]))
    config = ServerConfig(
        models=models, port=0, http_port=-1, workers=2, model_control="explicit", load_model=("gather",)
    )
    supervised = Supervisor(config)
    supervised.start()
    yield supervised
    supervised.stop(grace=5)


def wait_until_replaced(supervised: Supervisor, number: int, before: WorkerProcess) -> WorkerProcess:
    def replaced() -> bool:
        return supervised._workers[number] is not before and supervised._workers[number].listening

    with supervised._changed:
        assert supervised._changed.wait_for(replaced, TIMEOUT)
        return supervised._workers[number]


def test_a_worker_that_hangs_is_killed_and_replaced(supervised: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = supervised._workers[0]
    assert hanging.pid is not None

    class TakesItsTime(WorkerProcess):
        def __init__(self, *arguments: Any) -> None:
            monkeypatch.setattr(supervisor, "HANG_SECONDS", TIMEOUT)
            super().__init__(*arguments)

    monkeypatch.setattr(supervisor, "WorkerProcess", TakesItsTime)
    os.kill(hanging.pid, signal.SIGSTOP)
    monkeypatch.setattr(messages, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(supervisor, "HANG_SECONDS", 1.0)
    wait_until_replaced(supervised, 0, hanging)
    assert hanging.exit_code == -signal.SIGKILL
    monkeypatch.undo()
    assert supervised.workers().running == 2
    assert supervised.workers().restarts >= 1


def test_a_worker_that_hangs_before_it_listens_is_killed_and_replaced(
    supervised: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[WorkerProcess] = []

    class FirstHangs(WorkerProcess):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            assert self.pid is not None
            if not started:
                os.kill(self.pid, signal.SIGSTOP)
                self.last_answer -= supervisor.HANG_SECONDS + 1  # as if it had not answered for so long
            started.append(self)

    monkeypatch.setattr(supervisor, "WorkerProcess", FirstHangs)
    supervised._workers[0].kill()
    with supervised._changed:
        assert supervised._changed.wait_for(lambda: started and started[-1].listening, TIMEOUT)
    hanging, good = started
    assert hanging.exit_code == -signal.SIGKILL
    assert supervised._workers[0] is good
    assert supervised.workers().running == 2


def test_a_worker_that_hangs_at_the_first_start_ends_the_server(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hangs(WorkerProcess):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            assert self.pid is not None
            os.kill(self.pid, signal.SIGSTOP)
            self.last_answer -= supervisor.HANG_SECONDS + 1  # as if it had not answered for so long

    monkeypatch.setattr(supervisor, "WorkerProcess", Hangs)
    monkeypatch.setattr(supervisor, "CHECK_SECONDS", 0.05)
    with pytest.raises(StartError, match="worker 0 ended with signal 9"):
        Supervisor(ServerConfig(models=models, port=0, http_port=-1, workers=1)).start()


def test_a_first_worker_that_the_system_does_not_start_is_an_error_of_the_start(models: Path) -> None:
    supervised = Supervisor(ServerConfig(models=models, port=0, http_port=-1, workers=2))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(StartError, match=r"no process can be started for worker 0: .*Too many open files"):
            supervised.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_replacement_that_gets_no_thread_is_ended_and_another_is_started(
    supervised: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[Peer] = []

    class FirstGetsNone(Peer):
        def start(self) -> None:
            if not refused:
                refused.append(self)
                raise RuntimeError("can't start new thread")
            super().start()

    monkeypatch.setattr(worker_process, "Peer", FirstGetsNone)
    before = supervised._workers[0]
    before.kill()
    wait_until_replaced(supervised, 0, before)
    assert refused
    running = [child.name for child in multiprocessing.active_children() if child.name.startswith("worker-")]
    assert sorted(running) == ["worker-0", "worker-1"]


def test_a_worker_reports_the_state_of_all_while_another_hangs(
    supervised: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "ANSWER_SECONDS", 0.2)
    hanging, answering = supervised._workers.values()
    assert hanging.pid is not None
    ours, theirs = multiprocessing.Pipe()
    ended = threading.Event()
    of_supervisor = Peer(ours, lambda message: supervised._answer(answering, message), ended.set)
    of_worker = Peer(theirs, lambda message: None)
    of_supervisor.start()
    of_worker.start()
    before = supervised.state()
    os.kill(hanging.pid, signal.SIGSTOP)
    try:
        state = SupervisorControl(of_worker, ModelControl(Engine(supervised._config))).state()
        assert [version.instances for version in state.versions] == [version.instances for version in before.versions]
        assert state.workers.running == 2
    finally:
        os.kill(hanging.pid, signal.SIGCONT)
        with socket.socket(fileno=os.dup(theirs.fileno())) as pipe:
            pipe.shutdown(socket.SHUT_RDWR)
        assert ended.wait(TIMEOUT)


def test_the_repository_is_polled_only_while_all_workers_listen(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[5]))
    config = ServerConfig(models=models, port=0, http_port=-1, workers=2, model_control="poll", poll_seconds=0.1)
    supervised = Supervisor(config)
    checks, polls = threading.Semaphore(0), threading.Semaphore(0)
    started: list[WorkerProcess] = []
    check = supervised._check_workers

    def counted_check() -> None:
        check()
        checks.release()

    class Stopped(WorkerProcess):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            assert self.pid is not None
            os.kill(self.pid, signal.SIGSTOP)
            started.append(self)

    supervised.start()
    first, second = supervised._workers.values()
    call = second.call

    def counted_call(message: Any, timeout: float | None = None) -> Any:
        if isinstance(message, Poll):
            polls.release()
        return call(message, timeout)

    monkeypatch.setattr(supervised, "_check_workers", counted_check)
    monkeypatch.setattr(supervisor, "WorkerProcess", Stopped)
    monkeypatch.setattr(second, "call", counted_call)
    try:
        assert polls.acquire(timeout=TIMEOUT)
        first.kill()
        while not started:
            assert checks.acquire(timeout=TIMEOUT)
        assert checks.acquire(timeout=TIMEOUT)
        while polls.acquire(blocking=False):  # those from before the worker ended
            pass
        while checks.acquire(blocking=False):
            pass
        for _ in range(5):  # over more than poll_seconds
            assert checks.acquire(timeout=TIMEOUT)
        assert not polls.acquire(blocking=False)
        assert started[0].pid is not None
        os.kill(started[0].pid, signal.SIGCONT)
        assert polls.acquire(timeout=TIMEOUT)
    finally:
        supervised.stop(grace=5)


def test_other_workers_serve_on_while_the_system_starts_no_process(
    supervised: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals: list[Any] = []

    class Refused(WorkerProcess):
        def __init__(self, *arguments: Any) -> None:
            if len(refusals) < 2 * replacement.MAX_ATTEMPTS:
                refusals.append(arguments)
                raise StartError("Resource temporarily unavailable")
            super().__init__(*arguments)

    monkeypatch.setattr(replacement, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(supervisor, "WorkerProcess", Refused)
    before = supervised._workers[0]
    before.kill()
    wait_until_replaced(supervised, 0, before)
    assert len(refusals) == 2 * replacement.MAX_ATTEMPTS
    assert not supervised.failure


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
    publish_members(models)
    write(models, "both", 'split = {one = 100}\nshadow = {model = "two", share = 1}')
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
