"""Two servers behind the proxy: they share the load, and one may die or stop."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import grpc
import numpy as np
import pytest

from hangtag.protos import inference_pb2, inference_pb2_grpc
from hangtag.serving.client import Client
from tests.deploy.engine.stack import Stack, docker
from tests.deploy.engine.steady_load import IN_FLIGHT, SteadyLoad

REPLICAS = (1, 2)
SHARED_WITHIN = 60.0  # seconds, as docs/deploy.md says


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


def inferences(stub: inference_pb2_grpc.GRPCInferenceServiceStub) -> int:
    """How many samples a replica has computed with lstm since it started."""
    request = inference_pb2.ModelStatisticsRequest(name="lstm")
    answer = stub.ModelStatistics(request, timeout=10, wait_for_ready=True)
    return int(answer.model_stats[0].inference_count)


@contextmanager
def counted(stack: Stack) -> Iterator[Callable[[], list[int]]]:
    """Gives a function that says how many samples each replica has computed since the call before."""
    with ExitStack() as opened:
        addresses = [stack.address("server", 8001, index) for index in REPLICAS]
        channels = [opened.enter_context(grpc.insecure_channel(address)) for address in addresses]
        stubs = [inference_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in channels]
        before = [inferences(stub) for stub in stubs]

        def gained() -> list[int]:
            nonlocal before
            now = [inferences(stub) for stub in stubs]
            since, before = [new - old for new, old in zip(now, before, strict=True)], now
            return since

        yield gained


def shared(gained: list[int]) -> bool:
    """Of the two that are drawn for a call both are the same one a quarter of the times: the slowest gets so much, in
    the mean. A replica that is out gets nothing."""
    return min(gained) >= sum(gained) / 8


def wait_until_shared(stack: Stack, load: SteadyLoad) -> None:
    """Until each replica has its share of 200 answers: SHARED_WITHIN seconds at most after all of them are ready."""
    with counted(stack) as gained:
        until = time.monotonic() + SHARED_WITHIN
        load.wait_for_answers(200)
        while not shared(latest := gained()):
            assert time.monotonic() < until, f"the latest answers came from {latest}"
            load.wait_for_answers(200)


def test_the_replicas_share_one_client_s_calls(scaled: Stack, load: SteadyLoad) -> None:
    wait_until_shared(scaled, load)
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
    wait_until_shared(scaled, load)
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
    wait_until_shared(scaled, load)
    assert load.failures == []


def unknown_method(channel: grpc.Channel) -> None:
    call: Callable[..., object] = channel.unary_unary("/inference.GRPCInferenceService/NoSuchMethod")
    call(b"", timeout=10)


def short_deadline(channel: grpc.Channel) -> None:
    """Five milliseconds for what takes ten times as long."""
    image = inference_pb2.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=[64, 28, 28])
    request = inference_pb2.ModelInferRequest(
        model_name="cnn", inputs=[image], raw_input_contents=[bytes(64 * 28 * 28)]
    )
    inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=0.005)


@pytest.mark.parametrize(
    ("mistake", "code"),
    [(unknown_method, grpc.StatusCode.UNIMPLEMENTED), (short_deadline, grpc.StatusCode.DEADLINE_EXCEEDED)],
)
def test_a_caller_s_mistakes_take_no_replica_out(
    scaled: Stack, mistake: Callable[[grpc.Channel], None], code: grpc.StatusCode
) -> None:
    """One call after the other, so that nothing but who is out decides who is asked."""
    with (
        counted(scaled) as gained,
        grpc.insecure_channel(scaled.address("proxy", 8000)) as channel,
        Client(scaled.address("proxy", 8000)) as client,
    ):
        for _ in range(5):
            for _ in range(20):
                with pytest.raises(grpc.RpcError) as refused:
                    mistake(channel)
                assert refused.value.code() is code
            for _ in range(40):
                client.infer("lstm", {"image": np.zeros((1, 28, 28), np.uint8)})
            assert shared(gained())


def test_the_proxy_answers_for_a_replica(scaled: Stack) -> None:
    with Client(scaled.address("proxy", 8000)) as client:
        assert client.is_ready("cnn")
