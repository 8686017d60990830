"""``hangtag serve --workers 2`` in real processes, which share their ports, statistics and models."""

from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from hangtag.protos import inference_pb2 as pb
from tests.kit import onnx_models
from tests.kit.command import hangtag
from tests.kit.live import failure, index, request
from tests.kit.rest import Rest
from tests.kit.waiting import TIMEOUT
from tests.serving.server.process.conftest import (
    TRANSPORTS,
    Stub,
    ask,
    connections,
    metrics,
    pids,
    stop,
    two_workers,
)

pytestmark = pytest.mark.slow


def answered(stub: Stub) -> int:
    (statistics,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="gather"), timeout=TIMEOUT).model_stats
    return int(statistics.inference_stats.success.count)


@TRANSPORTS
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
        stop(server)
        for pid in pids(server):
            assert not Path(f"/proc/{pid}").exists()


def test_both_share_the_http_port_and_each_has_the_metrics_of_both(models: Path) -> None:
    with two_workers(models) as server:
        address = server.http_address
        with ExitStack() as stack:
            rests = [stack.enter_context(Rest(address)) for _ in range(16)]
            answers = [rest.infer(request("gather", index=index(2))) for rest in rests]
            assert [answer.outputs["value"].item() for answer in answers] == [20] * 16
            of_all = [metrics(rest.get("/metrics").body.decode()) for rest in rests]
            assert {(each["nv_inference_count"], each["hangtag_workers"]) for each in of_all} == {(16, 2)}
            of_each = {rest.get("/v2/models/gather/stats").json["model_stats"][0]["inference_count"] for rest in rests}
            assert of_each == {16}
        http_port = address.rpartition(":")[2]
        refused = hangtag("serve", "--models", models, "--port", 0, "--http-port", http_port, exit_codes=[1])
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


def test_an_error_at_the_start_is_one_line(models: Path) -> None:
    (models / "gather/1/model.onnx").write_bytes(b"broken")
    result = hangtag("serve", "--models", models, "--port", 0, "--workers", 2, exit_codes=[1])
    assert "Traceback" not in result.stderr
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert f"{models}/gather" in error


def test_polling_reaches_both_whose_port_is_no_other_servers(models: Path) -> None:
    with two_workers(models, "--model-control", "poll", "--poll-seconds", "0.1") as server:
        onnx_models.publish(models, "text", onnx_models.text())
        server.wait_for_count('"model loaded"', 4)
        port = server.wait_until_ready().rpartition(":")[2]
        for workers in (1, 2):
            refused = hangtag("serve", "--models", models, "--port", port, "--workers", workers, exit_codes=[1])
            assert f"cannot listen on 127.0.0.1:{port}: another program has the port" in refused.stderr
        stop(server)
