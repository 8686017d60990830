"""``hangtag serve --workers 2`` in real processes, which are killed."""

import os
import re
import select
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import inference_pb2_grpc
from tests import onnx_models
from tests.serving.command import TIMEOUT, Serving, hangtag, serving
from tests.serving.server.transport.http.rest import Rest
from tests.serving.server.transport.live import failure, index, outputs, request

pytestmark = pytest.mark.slow

CALLERS = 8
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
TRANSPORTS = pytest.mark.parametrize("transport", ["native", "grpc"])
Stub = inference_pb2_grpc.GRPCInferenceServiceStub


@pytest.fixture
def models(tmp_path: Path) -> Path:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    return tmp_path


@contextmanager
def two_workers(models: Path, *options: str, first: str = "") -> Iterator[Serving]:
    with serving("--models", str(models), "--port", "0", "--workers", "2", *options, first=first) as server:
        server.wait_until_ready()
        yield server


@contextmanager
def connections(server: Serving, count: int = CALLERS) -> Iterator[list[Stub]]:
    """Stubs with a connection each, so that the kernel spreads them over the workers."""
    with ExitStack() as stack:
        address = server.wait_until_ready()
        yield [Stub(stack.enter_context(grpc.insecure_channel(address, OWN_CONNECTION))) for _ in range(count)]


def pids(server: Serving) -> list[int]:
    """The process ids of the workers that listened, the earliest first."""
    lines = [line for line in list(server.log) if 'event="worker listens"' in line]
    return [int(re.findall(r"pid=(\d+)", line)[0]) for line in lines]


def ask(stub: Stub) -> float:
    answer = outputs(stub.ModelInfer(request("gather", index=index(2)), timeout=TIMEOUT, wait_for_ready=True))
    return float(answer["value"].item())


def answered(stub: Stub) -> int:
    (statistics,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="gather"), timeout=TIMEOUT).model_stats
    return int(statistics.inference_stats.success.count)


def metrics(server: Serving) -> dict[str, float]:
    match = re.search(r"url=(\S+)", server.wait_for("metrics"))
    assert match
    with urllib.request.urlopen(match[1], timeout=TIMEOUT) as response:
        text = response.read().decode()
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(("hangtag_worker", "nv_inference_count", "hangtag_transport"))
    }


def stop(server: Serving) -> None:
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, "".join(server.log)
    assert not any("Traceback" in line for line in server.log)


@TRANSPORTS
def test_both_take_calls_and_each_reports_the_statistics_of_both(models: Path, transport: str) -> None:
    with two_workers(models, "--transport", transport) as server:
        assert len(pids(server)) == 2
        with connections(server, 16) as stubs:
            assert [ask(stub) for stub in stubs] == [20] * 16
            assert {answered(stub) for stub in stubs} == {16}
            assert metrics(server) == {
                "nv_inference_count": 16,
                "hangtag_transport": 2,
                "hangtag_workers": 2,
                "hangtag_workers_wanted": 2,
                "hangtag_worker_restarts_total": 0,
            }
        stop(server)
        for pid in pids(server):
            assert not Path(f"/proc/{pid}").exists()


def test_both_share_the_http_port_and_each_has_the_metrics_of_both(models: Path) -> None:
    with two_workers(models) as server:
        (address,) = re.findall(r" http=(\S+)", server.wait_for("ready"))
        with ExitStack() as stack:
            rests = [stack.enter_context(Rest(address)) for _ in range(16)]
            answers = [rest.infer(request("gather", index=index(2))) for rest in rests]
            assert [answer.outputs["value"].item() for answer in answers] == [20] * 16
            counts = {
                sample.value
                for rest in rests
                for family in text_string_to_metric_families(rest.get("/metrics").body.decode())
                for sample in family.samples
                if sample.name == "nv_inference_count"
            }
            assert counts == {16}
            (workers,) = re.findall(r"^hangtag_workers (\S+)$", rests[0].get("/metrics").body.decode(), re.MULTILINE)
            assert float(workers) == 2
            of_each = {rest.get("/v2/models/gather/stats").json["model_stats"][0]["inference_count"] for rest in rests}
            assert of_each == {16}
        refused = hangtag("serve", "--models", str(models), "--port", "0", "--http-port", address.rpartition(":")[2])
        assert refused.returncode == 1
        assert f"cannot listen on {address} for HTTP: another program has the port" in refused.stderr
        stop(server)


def test_load_and_unload_calls_reach_both(models: Path) -> None:
    with two_workers(models, "--model-control", "explicit") as server, connections(server, 16) as stubs:
        first = stubs[0]
        load = pb.RepositoryModelLoadRequest(model_name="gather")
        first.RepositoryModelLoad(load, timeout=TIMEOUT, wait_for_ready=True)
        assert [ask(stub) for stub in stubs] == [20] * 16
        (models / "gather/2").mkdir()
        (models / "gather/2/model.onnx").write_bytes(b"broken")
        code, message = failure(lambda: first.RepositoryModelLoad(load, timeout=TIMEOUT))
        assert (code, "gather/2/model.onnx cannot be loaded" in message) == (grpc.StatusCode.FAILED_PRECONDITION, True)
        assert [ask(stub) for stub in stubs] == [20] * 16
        first.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="gather"), timeout=TIMEOUT)
        for stub in stubs:
            assert failure(lambda stub=stub: ask(stub))[0] is grpc.StatusCode.NOT_FOUND  # type: ignore[misc]
        stop(server)


class Caller:
    """Makes one call after another over a connection of its own, in a thread of its own, until ``done`` is set."""

    def __init__(self, address: str, done: threading.Event) -> None:
        self.answers: list[float] = []
        self.failures: list[grpc.StatusCode] = []
        self._changed = threading.Condition()
        self._connection: grpc.ChannelConnectivity | None = None
        self._channel = grpc.insecure_channel(address, OWN_CONNECTION)
        self._channel.subscribe(self._on_connection)
        self._thread = threading.Thread(target=self._call, args=(done,))
        self._thread.start()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, TIMEOUT)

    def wait_until_called(self) -> None:
        """Wait for one more answer over a connection that is known to be there."""
        before = len(self.answers)
        self.wait_until(lambda: len(self.answers) > before and self._connection is grpc.ChannelConnectivity.READY)

    def close(self) -> None:
        self._thread.join(TIMEOUT)
        self._channel.close()

    def _on_connection(self, state: grpc.ChannelConnectivity) -> None:
        with self._changed:
            self._connection = state
            self._changed.notify_all()

    def _call(self, done: threading.Event) -> None:
        stub = Stub(self._channel)
        while not done.is_set():
            try:
                answer = ask(stub)
            except grpc.RpcError as error:
                self.failures.append(error.code())
                # Until the client's channel knows that the connection is lost, it sends the next call into it too.
                self.wait_until(lambda: self._connection is not grpc.ChannelConnectivity.READY)
                continue
            with self._changed:
                self.answers.append(answer)
                self._changed.notify_all()


@TRANSPORTS
def test_a_worker_that_is_killed_under_load_costs_only_its_calls_in_flight(models: Path, transport: str) -> None:
    options = ("--model-control", "explicit", "--load-model", "gather", "--transport", transport)
    with two_workers(models, *options) as server:
        done = threading.Event()
        callers = [Caller(server.wait_until_ready(), done) for _ in range(CALLERS)]
        try:
            for caller in callers:
                caller.wait_until_called()
            victim, survivor = pids(server)
            # Published and not loaded: the worker that comes back must serve what the other one serves.
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
            assert caller.failures in ([], [grpc.StatusCode.UNAVAILABLE])  # the one call that was in flight
        now = metrics(server)
        assert (now["hangtag_workers"], now["hangtag_worker_restarts_total"]) == (2, 1)
        with connections(server, 16) as stubs:
            assert [ask(stub) for stub in stubs] == [20] * 16
        assert pids(server)[1] == survivor
        stop(server)


def test_a_model_loaded_while_a_worker_starts_reaches_it(models: Path) -> None:
    with two_workers(models, "--model-control", "explicit", "--load-model", "gather") as server:
        onnx_models.publish(models, "gather", onnx_models.gather(), version=2)
        onnx_models.publish(models, "text", onnx_models.text())
        os.kill(pids(server)[0], signal.SIGKILL)
        server.wait_for('"worker ended"')
        with connections(server, 1) as (stub,):
            for name in ("gather", "text"):
                load = pb.RepositoryModelLoadRequest(model_name=name)
                stub.RepositoryModelLoad(load, timeout=TIMEOUT, wait_for_ready=True)
        server.wait_for_count('"worker listens"', 3)
        with connections(server, 16) as stubs:
            sent = request("gather", index=index(2))
            assert {stub.ModelInfer(sent, timeout=TIMEOUT).model_version for stub in stubs} == {"2"}
            assert all(stub.ModelReady(pb.ModelReadyRequest(name="text")).ready for stub in stubs)
        stop(server)


def test_a_worker_that_gets_sigterm_is_replaced_and_all_end_with_their_supervisor(models: Path) -> None:
    with two_workers(models) as server:
        os.kill(pids(server)[0], signal.SIGTERM)
        server.wait_for_count('"worker listens"', 3)
        with connections(server) as stubs:
            assert [ask(stub) for stub in stubs] == [20] * CALLERS
        workers = [os.pidfd_open(pid) for pid in pids(server)[1:]]
        server.signal(signal.SIGKILL)
        for worker in workers:
            assert select.select([worker], [], [], TIMEOUT)[0]
            os.close(worker)


def test_when_a_worker_cannot_be_replaced_the_server_fails(models: Path) -> None:
    modules = "from hangtag.serving.server.process.workers import replacement, supervisor"
    fewer = "replacement.MAX_ATTEMPTS = supervisor.MAX_ATTEMPTS = 2"
    with two_workers(models, first=f"{modules}\n{fewer}") as server:
        (models / "gather/1/model.onnx").write_bytes(b"broken")
        os.kill(pids(server)[0], signal.SIGKILL)
        assert server.wait() == 1
        waited = [re.findall(r"replaced_in_seconds=(\S+)", line) for line in server.log if '"worker ended"' in line]
        assert waited == [["0.1"], ["0.2"]]
        assert server.log[-1].startswith("Error: a worker could not be replaced, 2 times: ")
        assert "gather/1/model.onnx cannot be loaded" in server.log[-1]
        for pid in pids(server):
            assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("broken", [True, False], ids=["a broken model", "no model"])
def test_an_error_at_the_start_is_one_line(models: Path, broken: bool) -> None:
    file = models / "gather/1/model.onnx"
    file.write_bytes(b"broken") if broken else file.unlink()
    result = hangtag("serve", "--models", str(models), "--port", "0", "--workers", "2")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert f"{models}/gather" in error


@pytest.fixture(scope="module")
def polled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, Path]]:
    """Two workers that follow their repository, and the repository."""
    models = tmp_path_factory.mktemp("models")
    onnx_models.publish(models, "gather", onnx_models.gather())
    with two_workers(models, "--model-control", "poll", "--poll-seconds", "0.1") as server:
        yield server, models
        stop(server)


def test_polling_reaches_both(polled: tuple[Serving, Path]) -> None:
    server, models = polled
    onnx_models.publish(models, "text", onnx_models.text())
    server.wait_for_count('"model loaded"', 4)


def test_a_port_that_another_server_shares_is_refused(polled: tuple[Serving, Path]) -> None:
    server, models = polled
    port = server.wait_until_ready().rpartition(":")[2]
    for workers in ("1", "2"):
        result = hangtag("serve", "--models", str(models), "--port", port, "--workers", workers)
        assert result.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}: another program has the port" in result.stderr
