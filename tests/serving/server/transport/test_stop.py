"""A server answers while it loads its models, and loses no accepted call when it stops."""

import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2_grpc

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.errors import STOPPING
from studies.stubs import InferenceStub
from tests.kit import onnx_models
from tests.kit.conversation import gather
from tests.kit.live import LiveServer, failure, index, number, outputs, request, status_of, watch
from tests.kit.over_http import HTTP, live_server
from tests.kit.waiting import TIMEOUT, until

NEVER = 3600
STOPS, CALLS = 10, 8
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
SERVICES = ("", "inference.GRPCInferenceService", "hangtag.v1.Classifier")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return onnx_models.publish_all(tmp_path, "added", "free_axis", "gather")


def versions(live: LiveServer, name: str) -> list[str]:
    """The versions of a model that are ready."""
    states = live.server.state().versions
    return [state.version for state in states if (state.name, state.state) == (name, "READY")]


def states(live: LiveServer, *, ready: bool = False) -> set[tuple[str, str]]:
    listed = live.inference.RepositoryIndex(pb.RepositoryIndexRequest(ready=ready), timeout=TIMEOUT).models
    return {(model.name, model.state) for model in listed}


def is_refused(live: LiveServer, transport: str) -> bool:
    """Return True if the server, which is stopping, refuses a new call. While a port closes, other errors may occur."""
    error = live.begin(request("free_axis", x=number(1))).exception()
    end = (error.code(), error.details()) if error else None
    if transport == "native":  # native keeps its connections until the server ends
        assert end in (None, (UNAVAILABLE, STOPPING))
    return end == (UNAVAILABLE, STOPPING) or bool(end and "Connection refused" in end[1])


def test_what_a_server_says_while_it_loads_serves_and_when_it_has_ended(models: Path, transport: str) -> None:
    live = live_server(transport, models)
    with live.loading("gather") as go_on:
        health = health_pb2_grpc.HealthStub(live.channel)
        watched = {service: watch(health, service) for service in (*SERVICES, "gather")}
        for service in SERVICES:
            assert status_of(health, service) == next(watched[service]) == "NOT_SERVING"
        assert next(watched["gather"]) == "SERVICE_UNKNOWN"
        assert live.inference.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT).live
        assert not live.ready()
        assert not live.ready("gather")
        assert ("gather", "LOADING") in states(live)
        assert states(live, ready=True) == set()
        code, message = failure(lambda: live.infer(request("gather", index=index(1))))
        assert code is UNAVAILABLE
        assert message.startswith("the models are being loaded; wait until the server is ready")
        go_on()
        assert [next(statuses) for statuses in watched.values()] == ["SERVING"] * 4
        assert live.ready()
        assert live.ready("gather")
        assert live.infer(request("gather", index=index(1)))["value"].tolist() == [10]
        with live.stopping():  # every Watch sends the new state and then ends at once
            assert [list(statuses) for statuses in watched.values()] == [["NOT_SERVING"]] * 4
        assert failure(lambda: live.inference.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT))[0] is UNAVAILABLE


def test_no_call_that_was_accepted_is_lost_and_later_ones_are_refused(models: Path, transport: str) -> None:
    for _ in range(STOPS):
        with (
            live_server(transport, models, instances=1, max_batch_size=4) as live,
            live.gates.closed("gather") as gate,
        ):
            calls = live.occupy(gate, *[gather(3)] * (1 + CALLS))
            with live.stopping() as thread:
                until(lambda live=live: is_refused(live, transport))  # type: ignore[misc]
                if transport in ("native", "grpc"):
                    assert not live.ready()
                assert thread.is_alive()
                assert not any(call.done() for call in calls)
                gate.open()
                assert [outputs(call.result())["value"].tolist() for call in calls] == [[30]] * (1 + CALLS)


def test_a_large_response_leaves_whole(models: Path, transport: str) -> None:
    """Long after the model has computed the response of four megabytes, the transport is still writing it."""
    million = np.ones((1, 1_000_000), np.float32)
    with live_server(transport, models) as live, live.gates.closed("added") as gate:
        (call,) = live.occupy(gate, request("added", x=million, y=million))
        with live.stopping():
            gate.open()
            assert (outputs(call.result())["sum"] == 2).all()


def test_calls_that_outlast_the_grace_period_are_ended_and_the_server_too(models: Path, transport: str) -> None:
    with live_server(transport, models, instances=1) as live, live.gates.closed("gather") as gate:
        calls = live.occupy(gate, *[gather(1)] * 4)
        with live.stopping(grace=0) as thread:
            ends = {call.exception(TIMEOUT).code() for call in calls}  # the calls end while the model still computes
            assert ends <= {UNAVAILABLE, grpc.StatusCode.CANCELLED}
            assert thread.is_alive()
            gate.open()  # the model returns a result after the call has ended


def test_a_poll_that_loads_a_model_does_not_hold_up_the_stop(models: Path, transport: str) -> None:
    with live_server(transport, models, model_control="poll", poll_seconds=0.1) as live:
        with live.gates.held_load("gather") as load:
            onnx_models.publish(models, "gather", onnx_models.gather(), version=2)
            load.wait()
            with live.stopping() as thread:

                def is_refused() -> bool:  # until Envoy drains, a call may still be answered
                    try:
                        live.infer(request("gather", index=index(1)))
                    except grpc.RpcError as error:
                        return error.code() in (UNAVAILABLE, grpc.StatusCode.CANCELLED)
                    return False

                until(is_refused)
                assert thread.is_alive(), "it did not wait for the load, and the process would end in the midst of it"
                load.release()
        assert versions(live, "gather") == ["1"]


def test_a_call_that_loads_a_model_ends_with_unavailable_and_changes_nothing(models: Path, transport: str) -> None:
    with live_server(transport, models, model_control="explicit", load_model=("*",)) as live:
        with live.gates.held_load("gather") as load:
            onnx_models.publish(models, "gather", onnx_models.gather(), version=2)
            message = pb.RepositoryModelLoadRequest(model_name="gather")
            call = live.inference.RepositoryModelLoad.future(message, timeout=TIMEOUT)
            load.wait()
            with live.stopping():
                load.release()
                error = call.exception(TIMEOUT)
        assert (error.code(), error.details()) == (UNAVAILABLE, "the server is stopping, and loads no more models")
        assert versions(live, "gather") == ["1"]


def test_a_poll_that_ends_during_the_drain_leaves_the_server_not_ready(models: Path, transport: str) -> None:
    with (
        live_server(transport, models, model_control="poll", poll_seconds=NEVER) as live,
        live.gates.closed("free_axis") as gate,
        live.gates.held_load("gather") as load,
    ):
        (call,) = live.occupy(gate, request("free_axis", x=number(3)))
        onnx_models.publish(models, "added", onnx_models.added(), version=2)
        onnx_models.publish(models, "gather", onnx_models.gather(), version=2)
        poll = threading.Thread(target=live.server.control.poll)
        poll.start()
        load.wait()
        with live.stopping():
            load.release()
            poll.join(TIMEOUT)
            assert (versions(live, "added"), versions(live, "gather")) == (["2"], ["1"])
            assert not live.server.ready
            if transport == "native":
                until(lambda: not live.ready())
            gate.open()
            assert outputs(call.result())["total"].tolist() == [[3]]


@pytest.mark.parametrize("transport", ["native", "grpc", HTTP])
def test_during_the_drain_nothing_is_ready_and_nothing_unloaded(models: Path, transport: str) -> None:
    """While a gRPC call is in flight, the server still answers probes on the same connection and over HTTP."""
    with live_server(transport, models, model_control="explicit", load_model=("*",)) as live:
        with live.gates.closed("free_axis") as gate:
            stub = InferenceStub(live.channel)
            call = stub.ModelInfer.future(request("free_axis", x=number(3)), timeout=TIMEOUT)
            gate.wait_until_computing()
            with live.stopping():
                until(lambda: is_refused(live, transport))
                assert live.inference.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT).live
                assert not live.ready()
                if transport != HTTP:  # while the server drains, no HTTP request about models is answered
                    assert not live.ready("gather")
                unload = pb.RepositoryModelUnloadRequest(model_name="gather")
                code, message = failure(lambda: live.inference.RepositoryModelUnload(unload, timeout=TIMEOUT))
                assert (code, message[:22]) == (UNAVAILABLE, "the server is stopping")
                gate.open()
                assert outputs(call.result())["total"].tolist() == [[3]]
        assert versions(live, "gather") == ["1"]
