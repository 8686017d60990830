"""Two servers behind the proxy: few calls fail when one server dies, and Prometheus scrapes both servers."""

import json
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import grpc
import numpy as np
import pytest
import yaml

from hangtag.protos import inference_pb2
from hangtag.serving.client import Client, ClientError
from studies.stubs import InferenceStub
from tests.deploy.dashboard import expressions
from tests.deploy.engine.stack import ROOT, Stack, docker
from tests.kit.waiting import until

REPLICAS = (1, 2)
BALANCED_WITHIN = 60.0  # seconds, stated in docs/how-to/several-servers.md
IN_FLIGHT = 4
IMAGE = {"image": np.zeros((1, 28, 28), np.uint8)}


class SteadyLoad:
    """IN_FLIGHT threads that call a model repeatedly through one connection. Use this class as a context manager."""

    def __init__(self, address: str) -> None:
        self._client = Client(address, timeout=10.0)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(IN_FLIGHT)]
        self.answered = 0
        """How many calls succeeded."""
        self.failures: list[str] = []
        """An error message for each call that failed."""

    def wait_for_answers(self, count: int = 100) -> None:
        """Wait until the server has answered this many more calls."""
        target = self.answered + count
        until(lambda: self.answered >= target)

    def __enter__(self) -> "SteadyLoad":
        for thread in self._threads:
            thread.start()
        self.wait_for_answers()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        self._client.close()

    def _call(self) -> None:
        while not self._stop.is_set():
            try:
                self._client.infer("lstm", IMAGE)
            except ClientError as error:
                self.failures.append(str(error))
            else:
                with self._lock:
                    self.answered += 1


@contextmanager
def restart_of(stack: Stack, index: int) -> Iterator[Callable[[], None]]:
    """Yields a function that waits until the engine has restarted a container and its server is ready."""
    container = stack.container("server", index)["Id"]
    now = docker("info", "--format", "{{.SystemTime}}").strip()
    filters = ("--since", now, "--filter", f"container={container}", "--filter", "event=start")
    with subprocess.Popen(["docker", "events", *filters], stdout=subprocess.PIPE, text=True) as events:
        assert events.stdout is not None
        start_events = events.stdout

        def wait() -> None:
            start_events.readline()
            with Client(stack.address("server", 8001, index)) as client:
                client.wait_until_ready(60)

        try:
            yield wait
        finally:
            events.kill()


@pytest.fixture
def load(scaled: Stack) -> Iterator[SteadyLoad]:
    with SteadyLoad(scaled.address("proxy", 8080)) as load:
        yield load


@contextmanager
def inference_counter(stack: Stack) -> Iterator[Callable[[], list[int]]]:
    """Yields a function that returns how many samples of lstm each replica has computed since the previous call."""
    with ExitStack() as exits:
        clients = [exits.enter_context(Client(stack.address("server", 8001, index))) for index in REPLICAS]

        def counts() -> list[int]:
            statistics = [{each.name: int(each.inference_count) for each in client.statistics()} for client in clients]
            return [each["lstm"] for each in statistics]

        before = counts()

        def count_since_last() -> list[int]:
            nonlocal before
            now = counts()
            more, before = [new - old for new, old in zip(now, before, strict=True)], now
            return more

        yield count_since_last


def balanced(counts: list[int]) -> bool:
    """Return whether each replica has received at least an eighth of the calls.

    For each call, Envoy draws two replicas, with replacement, and chooses the one with fewer calls in flight. For a
    quarter of the calls, both draws are the slower replica, so this replica receives a quarter of the calls on average.
    An ejected replica receives no calls.
    """
    return min(counts) >= sum(counts) / 8


def wait_until_balanced(stack: Stack, load: SteadyLoad) -> None:
    """Wait for at most BALANCED_WITHIN seconds until ``balanced`` holds for 200 calls. All replicas must be ready."""
    with inference_counter(stack) as count_since_last:

        def is_shared() -> bool:
            load.wait_for_answers(200)
            return balanced(count_since_last())

        until(is_shared, BALANCED_WITHIN)


def test_the_replicas_share_one_client_s_calls(scaled: Stack, load: SteadyLoad) -> None:
    wait_until_balanced(scaled, load)
    assert load.failures == []


def test_killing_a_replica_fails_only_its_calls_in_flight(scaled: Stack, load: SteadyLoad) -> None:
    state = scaled.container("server", 2)["State"]
    kill = f"import os, signal; os.kill({state['Pid']}, signal.SIGKILL)"
    with restart_of(scaled, 2) as wait:
        # SIGKILL, as from the kernel's out-of-memory killer. The engine does not restart a container after `docker
        # kill`.
        docker("run", "--rm", "--pid", "host", "--user", "0", "--entrypoint", "python", "hangtag:cpu", "-c", kill)
        load.wait_for_answers(200)
        assert len(load.failures) <= IN_FLIGHT, load.failures
        wait()
    after = scaled.container("server", 2)
    assert after["RestartCount"] == 1
    assert after["State"]["Pid"] != state["Pid"]
    wait_until_balanced(scaled, load)
    assert len(load.failures) <= IN_FLIGHT, load.failures


def test_stopping_a_replica_under_load_fails_no_call(scaled: Stack, load: SteadyLoad) -> None:
    name = scaled.container("server", 1)["Name"]
    docker("stop", "--time", "30", name)
    state = scaled.container("server", 1)["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    load.wait_for_answers(100)
    with restart_of(scaled, 1) as wait:
        docker("start", name)
        wait()
    wait_until_balanced(scaled, load)
    assert load.failures == []


def call_unknown_method(channel: grpc.Channel) -> None:
    call: Callable[..., object] = channel.unary_unary("/inference.GRPCInferenceService/NoSuchMethod")
    call(b"", timeout=10)


def call_with_short_deadline(channel: grpc.Channel) -> None:
    """Call a model with a deadline of 5 ms, and with a batch that takes ten times as long."""
    image = inference_pb2.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=[64, 28, 28])
    request = inference_pb2.ModelInferRequest(
        model_name="cnn", inputs=[image], raw_input_contents=[bytes(64 * 28 * 28)]
    )
    InferenceStub(channel).ModelInfer(request, timeout=0.005)


@pytest.mark.parametrize(
    ("mistake", "code"),
    [
        (call_unknown_method, grpc.StatusCode.UNIMPLEMENTED),
        (call_with_short_deadline, grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
def test_invalid_calls_eject_no_replica(
    scaled: Stack, mistake: Callable[[grpc.Channel], None], code: grpc.StatusCode
) -> None:
    """The calls run one after another, so that only an ejection can make the replicas' shares unequal."""
    with (
        inference_counter(scaled) as count_since_last,
        grpc.insecure_channel(scaled.address("proxy", 8080)) as channel,
        Client(scaled.address("proxy", 8080)) as client,
    ):
        for _ in range(5):
            for _ in range(20):
                with pytest.raises(grpc.RpcError) as error:
                    mistake(channel)
                assert error.value.code() is code
            for _ in range(40):
                client.infer("lstm", IMAGE)
            assert balanced(count_since_last())


MONITORING = ROOT / "deploy/monitoring"
SCRAPED_WITHIN = 90.0


def samples(stack: Stack, expression: str) -> list[float]:
    """The values of an instant vector, from Prometheus' HTTP API."""
    address, query = stack.address("prometheus", 9090), urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"http://{address}/api/v1/query?{query}", timeout=10) as response:
        return [float(sample["value"][1]) for sample in json.load(response)["data"]["result"]]


def test_every_query_of_the_dashboard_returns_data(scaled: Stack, load: SteadyLoad) -> None:
    def has_data(expression: str) -> bool:
        with Client(scaled.address("proxy", 8080)) as client, pytest.raises(ClientError):  # a panel counts failed calls
            client.infer("lstm", {"image": np.zeros((1, 2, 2), np.uint8)})
        return bool(samples(scaled, expression))

    for _, expression in expressions(MONITORING / "grafana/hangtag.json", model=".*", rate_interval="30s"):
        if "_shadow_" not in expression:  # no shipped route has a shadow
            until(partial(has_data, expression), SCRAPED_WITHIN)
    assert load.failures == []


@pytest.mark.usefixtures("load")
def test_the_autoscaler_s_metric_has_a_value(scaled: Stack) -> None:
    """Each replica has some of the load's calls in flight. In Kubernetes, the metric is grouped by pod."""
    (rule,) = yaml.safe_load((ROOT / "deploy/kubernetes/prometheus-adapter.yaml").read_text())["rules"]["custom"]
    query = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'job="hangtag"').replace("<<.GroupBy>>", "instance")
    until(lambda: [value > 0 for value in samples(scaled, query)] == [True, True], SCRAPED_WITHIN)
    assert sum(samples(scaled, query)) < 2 * IN_FLIGHT


def test_promtool_accepts_the_rules_and_their_tests() -> None:
    checks = "promtool check rules rules.yml && promtool test rules rules.test.yml"
    mount = f"{MONITORING}:/rules:ro"
    docker("run", "--rm", "--volume", mount, "--workdir", "/rules", "hangtag:stand-ins", "sh", "-c", checks)
