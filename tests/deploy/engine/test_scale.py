"""Two servers behind the proxy: they share the load, and one may die or stop."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import pytest

from protos import inference_pb2, inference_pb2_grpc
from serving.client import Client
from tests.deploy.engine.stack import Stack, docker
from tests.deploy.engine.steady_load import IN_FLIGHT, SteadyLoad

REPLICAS = (1, 2)


def inferences(stack: Stack, index: int) -> int:
    """How many samples a replica has computed with lstm since it started."""
    with grpc.insecure_channel(stack.address("server", 8001, index)) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer = stub.ModelStatistics(
            inference_pb2.ModelStatisticsRequest(name="lstm"), timeout=10, wait_for_ready=True
        )
    return int(answer.model_stats[0].inference_count)


@contextmanager
def started_anew(stack: Stack, index: int) -> Iterator[Callable[[], None]]:
    """Gives a function that returns once the container was started anew and its server is ready."""
    container = stack.container("server", index)["Id"]
    now = docker("info", "--format", "{{.SystemTime}}").strip()
    which = ("--since", now, "--filter", f"container={container}", "--filter", "event=start")
    with subprocess.Popen(["docker", "events", *which], stdout=subprocess.PIPE, text=True) as events:
        assert events.stdout is not None
        started = events.stdout

        def wait() -> None:
            started.readline()
            with Client(stack.address("server", 8001, index)) as client:
                client.wait_until_ready(60)

        try:
            yield wait
        finally:
            events.kill()


@pytest.fixture
def load(scaled: Stack) -> Iterator[SteadyLoad]:
    with SteadyLoad(scaled.address("proxy", 8000)) as load:
        yield load


def assert_shared(stack: Stack, load: SteadyLoad) -> None:
    before = [inferences(stack, index) for index in REPLICAS]
    load.wait_for_answers(200)
    gained = [inferences(stack, index) - count for index, count in zip(REPLICAS, before, strict=True)]
    assert min(gained) >= 0.25 * sum(gained), gained


def wait_until_called(stack: Stack, load: SteadyLoad, index: int) -> None:
    """Until the proxy, which keeps a replica that failed away for some seconds, lets it have calls again."""
    before, until = inferences(stack, index), time.monotonic() + 60
    while inferences(stack, index) == before:
        assert time.monotonic() < until, "the proxy never took it back"
        load.wait_for_answers(50)


def test_the_replicas_share_one_client_s_calls(scaled: Stack, load: SteadyLoad) -> None:
    assert_shared(scaled, load)
    assert load.failures == []


def test_one_killed_costs_no_more_than_its_calls_in_flight(scaled: Stack, load: SteadyLoad) -> None:
    state = scaled.container("server", 2)["State"]
    kill = f"import os, signal; os.kill({state['Pid']}, signal.SIGKILL)"
    with started_anew(scaled, 2) as wait:
        # As the kernel ends what took too much memory. After `docker kill` the engine would not restart it.
        docker("run", "--rm", "--pid", "host", "--user", "0", "--entrypoint", "python", "hangtag:cpu", "-c", kill)
        load.wait_for_answers(200)
        assert len(load.failures) <= IN_FLIGHT, load.failures
        wait()
    after = scaled.container("server", 2)
    assert after["RestartCount"] == 1
    assert after["State"]["Pid"] != state["Pid"]
    wait_until_called(scaled, load, 2)
    assert_shared(scaled, load)
    assert len(load.failures) <= IN_FLIGHT, load.failures


def test_one_stopped_under_load_costs_no_call(scaled: Stack, load: SteadyLoad) -> None:
    name = scaled.container("server", 1)["Name"]
    docker("stop", "--time", "30", name)
    state = scaled.container("server", 1)["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    load.wait_for_answers(100)
    with started_anew(scaled, 1) as wait:
        docker("start", name)
        wait()
    wait_until_called(scaled, load, 1)
    assert_shared(scaled, load)
    assert load.failures == []


def test_the_proxy_answers_for_a_replica(scaled: Stack) -> None:
    with Client(scaled.address("proxy", 8000)) as client:
        assert client.is_ready("cnn")
