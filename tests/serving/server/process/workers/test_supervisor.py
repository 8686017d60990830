"""The supervisor in this process, with real workers: faults that cannot be caused from outside."""

import multiprocessing
import os
import resource
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.model_control import ModelControl
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.process.workers import replacement, supervisor, worker_process
from hangtag.serving.server.process.workers.messages import Poll
from hangtag.serving.server.process.workers.pipe_rpc import Peer
from hangtag.serving.server.process.workers.supervisor import Supervisor
from hangtag.serving.server.process.workers.worker import SupervisorControl
from hangtag.serving.server.process.workers.worker_process import WorkerProcess
from tests.serving.server.process.workers.supervised import TIMEOUT, wait_until_replaced

pytestmark = pytest.mark.slow

HANG_SECONDS = Limits().worker_hang_seconds


def test_a_worker_that_hangs_is_killed_and_replaced(supervised: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = supervised._workers[0]
    assert hanging.pid is not None

    os.kill(hanging.pid, signal.SIGSTOP)
    hanging.last_answer -= HANG_SECONDS  # as if it had not answered for so long
    wait_until_replaced(supervised, 0, hanging)
    assert hanging.exit_code == -signal.SIGKILL
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
                self.last_answer -= HANG_SECONDS + 1  # as if it had not answered for so long
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
            self.last_answer -= HANG_SECONDS + 1  # as if it had not answered for so long

    monkeypatch.setattr(supervisor, "WorkerProcess", Hangs)
    with pytest.raises(StartError, match="worker 0 ended with signal 9"):
        Supervisor(
            ServerConfig(models=models, port=0, http_port=-1, workers=1, limits=Limits(worker_check_seconds=0.05))
        ).start()


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
        state = SupervisorControl(of_worker, ModelControl(Engine(supervised._config)), 0.2).state()
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

    monkeypatch.setattr(supervisor, "WorkerProcess", Refused)
    before = supervised._workers[0]
    before.kill()
    wait_until_replaced(supervised, 0, before)
    assert len(refusals) == 2 * replacement.MAX_ATTEMPTS
    assert not supervised.failure
