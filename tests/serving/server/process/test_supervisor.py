"""A supervisor runs in this process with real workers. One worker hangs, stops, or has fewer models than the others."""

import multiprocessing
import os
import resource
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import structlog.testing

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.errors import ControlError, NotFoundError, StartError, UnavailableError
from hangtag.serving.server.process.supervisor import Supervisor
from hangtag.serving.server.process.worker import Peer, PeerError
from tests.kit import onnx_models, unbatchable_models
from tests.kit.live import failure, outputs, request
from tests.kit.waiting import TIMEOUT, pass_time, until
from tests.kit.workers import QUICK_CHECKS, supervising, supervising_and_stubs, supervisor

pytestmark = pytest.mark.slow

HANG_SECONDS = 8.0
"""The seconds after which a silent worker is replaced. Even on a busy machine, a worker starts in less time."""
HANGING = replace(QUICK_CHECKS, worker_hang_seconds=HANG_SECONDS)


@pytest.fixture(autouse=True)
def path_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let spawned workers import the modules of the tests."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[4]))


def pid(number: int) -> int:
    """The process id of the worker with this number, or 0 if there is no such worker."""
    pids = [child.pid for child in multiprocessing.active_children() if child.name == f"worker-{number}"]
    return pids[0] or 0 if pids else 0


def wait_until_replaced(supervised: Supervisor, number: int, before: int) -> None:
    until(lambda: pid(number) not in (0, before) and supervised.workers().running == 2, TIMEOUT)


def instances(supervised: Supervisor) -> dict[str, int]:
    """For each model, the number of instances in all workers that answer."""
    return {version.name: version.instances for version in supervised.state().versions}


def test_a_worker_that_hangs_holds_up_nobody_and_is_replaced_by_one_with_the_latest_change(models: Path) -> None:
    with supervising(models, limits=HANGING) as supervised:
        before, hanging = instances(supervised), pid(1)
        os.kill(hanging, signal.SIGSTOP)
        began = time.monotonic()
        assert instances(supervised) == before  # the last report of the hanging worker still counts
        assert time.monotonic() - began < HANG_SECONDS / 2
        with structlog.testing.capture_logs() as logs:
            onnx_models.publish(models, "gather", onnx_models.gather(), version=2)
            supervised.load("gather")  # the first worker loads the version, but the hanging worker cannot
            wait_until_replaced(supervised, 1, hanging)
        assert [line["reason"] for line in logs if line["event"] == "worker ended"] == ["worker 1 ended with signal 9"]
        assert supervised.ready
        assert supervised.workers().restarts == 1
        until(lambda: [each.version for each in supervised.state().versions] == ["2"])
        assert instances(supervised) == before


def test_a_worker_that_ends_while_another_worker_is_slow_to_answer_counts_once(models: Path) -> None:
    limits = replace(QUICK_CHECKS, worker_answer_seconds=2.0, worker_hang_seconds=60)
    with supervising(models, limits=limits) as supervised, ThreadPoolExecutor() as other:
        hanging = pid(1)
        assert supervised.state().loads == {("gather", "ok"): 2}
        os.kill(hanging, signal.SIGSTOP)
        state = other.submit(supervised.state)
        pass_time(0.5)  # worker 0 has answered
        os.kill(pid(0), signal.SIGKILL)
        assert state.result(TIMEOUT).loads == {("gather", "ok"): 2}
        os.kill(hanging, signal.SIGCONT)


def test_unanswered_calls_for_the_state_leave_room_for_other_calls() -> None:
    ours, _theirs = multiprocessing.Pipe()
    peer = Peer(ours)
    assert isinstance([peer.begin("state") for _ in range(200)][-1].exception(0), PeerError)
    assert not peer.begin("stop").done()


def test_a_call_to_a_process_that_does_not_read_its_answers_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hangtag.serving.server.process.worker._SEND_SECONDS", 0.2)
    ours, theirs = multiprocessing.Pipe()
    peer = Peer(ours)
    answering = threading.Thread(target=peer.answer_calls, args=({"ask": lambda: bytes(1 << 22)},))
    answering.start()
    theirs.send((0, "ask", ()))
    until(theirs.poll)  # the answer fills the pipe
    calling = threading.Thread(target=peer.begin, args=("stop",), daemon=True)
    calling.start()
    calling.join(TIMEOUT)
    assert not calling.is_alive()
    theirs.close()
    answering.join(TIMEOUT)


def test_a_worker_whose_end_another_thread_sees_first_is_replaced_too(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """multiprocessing checks all processes at each start. Here, the checking thread is slow to record an exit code."""
    wait, seen = os.waitpid, threading.Event()

    def waitpid(process: int, flags: int) -> tuple[int, int]:
        if not flags:
            assert seen.wait(TIMEOUT)
        ended = wait(process, flags)
        if ended[0]:
            seen.set()
            pass_time(0.2)
        return ended

    with supervising(models) as supervised, monkeypatch.context() as patch:
        patch.setattr(os, "waitpid", waitpid)
        first = pid(0)
        os.kill(first, signal.SIGKILL)
        wait_until_replaced(supervised, 0, first)


def test_a_worker_that_hangs_at_the_first_start_ends_the_server(models: Path) -> None:
    supervised = supervisor(models, workers=1, limits=Limits(worker_check_seconds=0.05, worker_hang_seconds=1))
    failures: list[str] = []

    def start() -> None:
        with pytest.raises(StartError) as failure:
            supervised.start()
        failures.append(str(failure.value))

    starting = threading.Thread(target=start)
    starting.start()
    until(lambda: pid(0))
    os.kill(pid(0), signal.SIGSTOP)
    starting.join(TIMEOUT)
    assert failures == ["worker 0 ended with signal 9"]


def test_a_model_that_ends_the_worker_that_tries_it_first_reaches_no_other(models: Path) -> None:
    onnx_models.publish(models, "fatal", unbatchable_models.aborting())
    with supervising(models) as supervised:
        first = pid(0)
        with pytest.raises(ControlError, match="the worker that tried this first has ended"):
            supervised.load("fatal")
        wait_until_replaced(supervised, 0, first)
        assert ([*instances(supervised)], supervised.workers().restarts) == (["gather"], 1)


def test_a_workers_call_fails_where_no_thread_can_be_started_for_it_and_the_next_is_answered(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_models.publish(models, "text", onnx_models.text())

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with supervising_and_stubs(models, 1) as (supervised, (stub,)):
        load = pb.RepositoryModelLoadRequest(model_name="text")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            assert failure(lambda: stub.RepositoryModelLoad(load, timeout=TIMEOUT))[0] is grpc.StatusCode.INTERNAL
        stub.RepositoryModelLoad(load, timeout=TIMEOUT)
        assert instances(supervised).keys() == {"gather", "text"}


def test_a_first_worker_that_the_system_does_not_start_is_an_error_of_the_start(models: Path) -> None:
    supervised = supervisor(models)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(StartError, match=r"the process of worker [01] cannot be started: .*Too many open files"):
            supervised.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("number", [0, 1])
def test_a_worker_that_stops_leaves_a_change_to_the_other_and_goes_on_with_its_calls(models: Path, number: int) -> None:
    onnx_models.publish_all(models, "slow", "text")
    settings: dict[str, Any] = {"load_model": ("gather", "slow"), "instances": 1}
    with (
        supervising_and_stubs(models, 16, **settings) as (supervised, stubs),
        structlog.testing.capture_logs() as logs,
    ):
        began = time.monotonic()
        stubs[0].ModelInfer(request("slow", rounds=np.array([1000])), timeout=TIMEOUT)
        rounds = round(300 / (time.monotonic() - began))  # about 0.3 seconds of work for each call
        calls = [stub.ModelInfer.future(request("slow", rounds=np.array([rounds])), timeout=TIMEOUT) for stub in stubs]
        assert all(stub.ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT).ready for stub in stubs)
        stopping = pid(number)
        os.kill(stopping, signal.SIGTERM)
        until(lambda: not all(stub.ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT).ready for stub in stubs))
        supervised.load("text")
        assert pid(number) == stopping
        assert [outputs(call.result())["done"].tolist() for call in calls] == [[rounds]] * 16
        wait_until_replaced(supervised, number, stopping)
        reasons = [line["reason"] for line in logs if line["event"] == "worker ended"]
        assert reasons == [f"worker {number} ended with exit code 0"]
        until(lambda: instances(supervised) == {"gather": 2, "slow": 2, "text": 2}, TIMEOUT)


@pytest.mark.parametrize("stops", [False, True])
def test_a_change_waits_for_workers_that_start_and_holds_up_none(models: Path, *, stops: bool) -> None:
    onnx_models.publish(models, "text", onnx_models.text())
    limits = replace(QUICK_CHECKS, end_seconds=1)
    with supervising(models, instances=1, limits=limits) as supervised, ThreadPoolExecutor() as other:
        first, second = pid(0), pid(1)
        os.kill(first, signal.SIGKILL)
        until(lambda: pid(0) not in (0, first), TIMEOUT)
        os.kill(pid(0), signal.SIGSTOP)
        change = other.submit(supervised.load, "text")
        os.kill(second, signal.SIGKILL)
        until(lambda: pid(1) not in (0, second), TIMEOUT / 4)
        assert not change.done()
        if stops:
            other.submit(supervised.stop, grace=0)
            with pytest.raises(UnavailableError, match="the server is stopping"):
                change.result(TIMEOUT / 10)
        else:
            os.kill(pid(0), signal.SIGCONT)
            change.result(TIMEOUT)
            assert instances(supervised) == {"gather": 2, "text": 2}


@pytest.mark.parametrize("number", [0, 1])
def test_a_model_that_only_one_worker_serves_can_be_unloaded(models: Path, number: int) -> None:
    """The model's folder was deleted, so the worker that replaces a killed one starts without the model."""
    onnx_models.publish(models, "text", onnx_models.text())
    with supervising(models, instances=1) as supervised:
        supervised.load("text")
        shutil.rmtree(models / "text")
        before = pid(number)
        os.kill(before, signal.SIGKILL)
        wait_until_replaced(supervised, number, before)
        assert instances(supervised) == {"gather": 2, "text": 1}
        supervised.unload("text")
        assert instances(supervised) == {"gather": 2}
        with pytest.raises(NotFoundError, match="there is nothing to unload"):
            supervised.unload("text")


def test_a_route_without_its_shadow_is_loaded_in_every_worker(models: Path) -> None:
    for name in ("one", "two"):
        onnx_models.publish(models, name, onnx_models.doubled("batch", "batch"))
    (models / "both").mkdir()
    (models / "both/route.toml").write_text('split = {one = 100}\nshadow = {model = "two", share = 1}')
    with supervising(models, instances=1) as supervised:
        supervised.load("one")
        supervised.load("both")
        assert instances(supervised) == {"gather": 2, "one": 2, "both": 2}


def test_the_repository_is_not_polled_while_a_worker_is_missing(models: Path) -> None:
    """If loading a version crashes one worker, the other workers must continue."""

    def versions() -> list[str]:
        return [version.version for version in supervised.state().versions]

    poll = {"model_control": "poll", "poll_seconds": 0.1, "load_model": ()}
    with supervising(models, **poll) as supervised:
        first = pid(0)
        os.kill(first, signal.SIGKILL)
        until(lambda: pid(0) not in (0, first), TIMEOUT)
        os.kill(pid(0), signal.SIGSTOP)
        with pytest.raises(ControlError, match="with --model-control poll"):  # a change would wait for the worker
            supervised.load("gather")
        onnx_models.publish(models, "gather", onnx_models.gather(), version=2)
        pass_time(1.0)  # ten times as long as poll_seconds
        assert versions() == ["1"]
        os.kill(pid(0), signal.SIGCONT)
        until(lambda: versions() == ["2"], TIMEOUT)
