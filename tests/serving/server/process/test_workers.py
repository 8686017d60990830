"""``hangtag serve --workers 2`` runs processes that share ports, statistics and models, and replaces each that ends."""

import os
import re
import resource
import select
import signal
import threading
from contextlib import ExitStack
from http.client import IncompleteRead
from pathlib import Path

import grpc
import numpy as np
import pytest

from hangtag.protos import inference_pb2 as pb
from tests.kit import onnx_models
from tests.kit.command import Serving, hangtag, with_limits
from tests.kit.live import failure, index, request
from tests.kit.over_http import HTTP, inference_over_http
from tests.kit.rest import Rest
from tests.kit.waiting import TIMEOUT, until
from tests.kit.workers import Stub, ask, asking, connections, metrics, pids, stop, two_workers

pytestmark = pytest.mark.slow
CALLERS = 8


def answered(stub: Stub) -> int:
    (statistics,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="gather"), timeout=TIMEOUT).model_stats
    return int(statistics.inference_stats.success.count)


@pytest.mark.parametrize("transport", ["native", "grpc"])
def test_both_take_calls_and_each_reports_the_statistics_of_both(models: Path, transport: str) -> None:
    with two_workers(models, "--transport", transport) as server:
        assert len(pids(server)) == 2
        with connections(server, 16) as stubs:
            assert [ask(stub) for stub in stubs] == [20] * 16
            assert {answered(stub) for stub in stubs} == {16}
            assert metrics(server.metrics()) == {
                "nv_inference_count": 16,
                "hangtag_transport": 2,
                "hangtag_workers": 2,
                "hangtag_workers_wanted": 2,
                "hangtag_worker_restarts_total": 0,
            }
        with ExitStack() as stack:  # the workers share the HTTP port too, and each reports the metrics of both workers
            rests = [stack.enter_context(Rest(server.http_address)) for _ in range(16)]
            answers = [rest.infer(request("gather", index=index(2))) for rest in rests]
            assert [answer.outputs["value"].item() for answer in answers] == [20] * 16
            of_all = [metrics(rest.get("/metrics").body.decode()) for rest in rests]
            assert {(each["nv_inference_count"], each["hangtag_workers"]) for each in of_all} == {(32, 2)}
            of_each = [rest.get("/v2/models/gather/stats").json["model_stats"][0] for rest in rests]
            assert {each["inference_count"] for each in of_each} == {32}
        stop(server)
        for pid in pids(server):
            assert not Path(f"/proc/{pid}").exists()


def test_load_and_unload_calls_reach_both(models: Path) -> None:
    """The test makes its calls over gRPC and over HTTP. Over HTTP, each call has its own connection."""
    with two_workers(models, "--model-control", "explicit") as server, connections(server, 16) as stubs:
        first, over_http = stubs[0], inference_over_http(server.http_address)
        load = pb.RepositoryModelLoadRequest(model_name="gather")
        over_http.RepositoryModelLoad(load, timeout=TIMEOUT)
        assert [ask(stub) for stub in stubs] == [20] * 16
        (models / "gather/2").mkdir()
        (models / "gather/2/model.onnx").write_bytes(b"broken")
        code, message = failure(lambda: first.RepositoryModelLoad(load, timeout=TIMEOUT))
        assert (code, "gather/2/model.onnx cannot be loaded" in message) == (grpc.StatusCode.FAILED_PRECONDITION, True)
        assert [ask(stub) for stub in stubs] == [20] * 16
        first.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="gather"), timeout=TIMEOUT)
        for stub in stubs:
            assert failure(lambda stub=stub: ask(stub))[0] is grpc.StatusCode.NOT_FOUND  # type: ignore[misc]
        sent = request("gather", index=index(2))
        codes = {failure(lambda: over_http.ModelInfer(sent, timeout=TIMEOUT))[0] for _ in range(16)}
        assert codes == {grpc.StatusCode.NOT_FOUND}
        stop(server)


def test_polling_reaches_both_whose_ports_are_no_other_servers(models: Path) -> None:
    with two_workers(models, "--model-control", "poll", "--poll-seconds", "0.1") as server:
        onnx_models.publish(models, "text", onnx_models.text())
        server.wait_for_count('"model loaded"', 4)
        port = server.address.rpartition(":")[2]
        for workers in (1, 2):
            refused = hangtag("serve", "--models", models, "--port", port, "--workers", workers, exit_codes=[1])
            assert f"cannot listen on 127.0.0.1:{port}: another program has the port" in refused.stderr
        http_port = server.http_address.rpartition(":")[2]
        refused = hangtag("serve", "--models", models, "--port", 0, "--http-port", http_port, exit_codes=[1])
        assert f"cannot listen on 127.0.0.1:{http_port} for HTTP: another program has the port" in refused.stderr
        stop(server)


class Caller:
    """A caller with its own thread and connection, which makes one call after another until ``done`` is set."""

    def __init__(self, server: Serving, transport: str, done: threading.Event) -> None:
        self.answers: list[float] = []
        self.failures: list[grpc.StatusCode] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._call, args=(server, transport, done))
        self._thread.start()

    def wait_until_called(self) -> None:
        """Wait until this caller has one more answer."""
        with self._changed:
            before = len(self.answers)
            assert self._changed.wait_for(lambda: len(self.answers) > before, TIMEOUT)

    def close(self) -> None:
        self._thread.join(TIMEOUT)

    def _call(self, server: Serving, transport: str, done: threading.Event) -> None:
        while not done.is_set():
            with asking(server, transport) as call:
                try:
                    while not done.is_set():
                        self._add(call())
                except (ConnectionError, IncompleteRead):  # over HTTP, the next call needs another connection
                    self.failures.append(grpc.StatusCode.UNAVAILABLE)
                except grpc.RpcError as error:
                    self.failures.append(error.code())

    def _add(self, answer: float) -> None:
        with self._changed:
            self.answers.append(answer)
            self._changed.notify_all()


@pytest.mark.parametrize("transport", ["native", "grpc", HTTP])
def test_a_worker_that_is_killed_under_load_costs_only_its_calls_in_flight(models: Path, transport: str) -> None:
    own = "grpc" if transport == HTTP else transport
    options = ("--model-control", "explicit", "--load-model", "gather", "--transport", own)
    with two_workers(models, *options) as server:
        done = threading.Event()
        callers = [Caller(server, transport, done) for _ in range(CALLERS)]
        try:
            for caller in callers:
                caller.wait_until_called()
            victim, survivor = pids(server)
            supervisor = Path(f"/proc/{server.process.pid}/fd")
            descriptors = len(list(supervisor.iterdir()))
            # This version is published but not loaded, so the new worker must serve what the other worker serves.
            onnx_models.publish(models, "gather", onnx_models.text(), version=2)
            os.kill(victim, signal.SIGKILL)
            assert "signal 9" in server.wait_for('"worker ended"')
            for caller in callers:
                caller.wait_until_called()
            server.wait_for_count('"worker listens"', 3)
        finally:
            done.set()
            for caller in callers:
                caller.close()
        for caller in callers:
            assert set(caller.answers) == {20}
            # Only the call in flight fails. Over HTTP, the next call may also fail, on a connection to the dying
            # worker.
            assert set(caller.failures) <= {grpc.StatusCode.UNAVAILABLE}
            assert len(caller.failures) <= (2 if transport == HTTP else 1)
        until(lambda: len(list(supervisor.iterdir())) == descriptors)  # it closes the worker's descriptors
        now = metrics(server.metrics())
        assert (now["hangtag_workers"], now["hangtag_worker_restarts_total"]) == (2, 1)
        with connections(server, 16) as stubs:
            assert [ask(stub) for stub in stubs] == [20] * 16
        assert pids(server)[1] == survivor
        stop(server)


def test_a_worker_that_gets_sigterm_is_replaced_and_all_end_with_their_supervisor(models: Path) -> None:
    """The workers end even while they compute a request that never ends."""
    onnx_models.publish(models, "slow", onnx_models.slow())
    bounds = with_limits(end_seconds=1.0)
    with two_workers(models, "--drain-seconds", "0.1", first=bounds) as server, connections(server, CALLERS) as stubs:
        endless = request("slow", rounds=np.array([2**40]))
        calls = [stub.ModelInfer.future(endless, timeout=TIMEOUT) for stub in stubs]
        assert all(stub.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT).live for stub in stubs)
        os.kill(pids(server)[0], signal.SIGTERM)
        server.wait_for_count('"worker listens"', 3)
        assert any(call.done() for call in calls)
        workers = [os.pidfd_open(pid) for pid in pids(server)[1:]]
        server.signal(signal.SIGKILL)
        for worker in workers:
            assert select.select([worker], [], [], TIMEOUT)[0]
            os.close(worker)


def delays(server: Serving) -> list[str]:
    """For each worker that ended, the logged delay in seconds until its replacement."""
    return [re.findall(r"replaced_in_seconds=(\S+)", line)[0] for line in server.log if '"worker ended"' in line]


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        ({"worker_attempts": 1}, ["0.1", "0.2"]),  # Only workers that never listened count as failed attempts.
        ({"worker_stable_seconds": 0.0}, ["0.1", "0.1"]),  # Each worker counts as stable, which resets the delay.
        ({"worker_restart_seconds": 31.0}, ["30.0", "30.0"]),  # This is the longest delay.
    ],
)
def test_workers_that_listened_and_end_at_once_are_all_replaced(
    models: Path, limits: dict[str, float], seconds: list[str]
) -> None:
    with two_workers(models, first=with_limits(**limits)) as server:
        for pid in pids(server):
            os.kill(pid, signal.SIGKILL)
        server.wait_for_count('"worker ended"', 2)
        assert delays(server) == seconds
        if "30.0" not in seconds:
            server.wait_for_count('"worker listens"', 4)
        stop(server)


def test_a_worker_that_the_system_does_not_start_is_started_later_however_often_that_fails(models: Path) -> None:
    with two_workers(models, first=with_limits(worker_attempts=2, worker_restart_seconds=0.001)) as server:
        supervisor, files = server.process.pid, resource.RLIMIT_NOFILE
        before = resource.prlimit(supervisor, files)
        resource.prlimit(supervisor, files, (3, before[1]))
        os.kill(pids(server)[0], signal.SIGKILL)
        assert "Too many open files" in server.wait_for('"worker not started"')
        server.wait_for_count('"worker not started"', 5)
        with connections(server, 1) as (stub,):
            assert ask(stub) == 20
        resource.prlimit(supervisor, files, before)
        server.wait_for_count('"worker listens"', 3)
        stop(server)


def test_when_a_worker_cannot_be_replaced_the_server_fails(models: Path) -> None:
    with two_workers(models, first=with_limits(worker_attempts=2)) as server:
        (models / "gather/1/model.onnx").write_bytes(b"broken")
        os.kill(pids(server)[0], signal.SIGKILL)
        assert server.wait() == 1
        assert delays(server) == ["0.1", "0.2"]
        assert server.log[-1].startswith("Error: a worker could not be replaced in 2 attempts: ")
        assert "gather/1/model.onnx cannot be loaded" in server.log[-1]
        for pid in pids(server):
            assert not Path(f"/proc/{pid}").exists()
