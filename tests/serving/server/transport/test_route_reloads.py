"""A hundred reloads of a route and its members lose and double no call, over gRPC and HTTP at once."""

import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper

from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit import onnx_models
from tests.kit.live import TIMEOUT, Array, LiveServer, outputs, request
from tests.kit.rest import Rest

MARKS = {"fast": -10.0, "slow": -20.0, "other": -30.0}
"""Name -> the second column of the model's answers; the first is the sample's own."""
FILES = (
    'cascade = ["fast", "slow"]\naccept = {output = "y", at_least = 0.5}',
    'cascade = ["fast", "slow"]\naccept = {output = "y", at_least = 0.9}\non_overload = "refuse"',
    'cascade = ["fast", "other", "slow"]\naccept = {output = "y", at_least = 0.7}',
    'cascade = ["fast", "slow"]\naccept = {output = "y", margin_at_least = 0.9}\nshadow = {model = "other", share = 1}',
    'split = {slow = 50, other = 50}\nsticky = "x-user-id"',
    'split = {fast = 90, slow = 10}\nshadow = {model = "other", share = 0.5}',
    "split = {fast = 90}",
)
"""The last one has a mistake, and changes nothing."""
RELOADS = 100
IN_FLIGHT = 12


def publish(models: Path, name: str, version: int) -> None:
    """x FP32 [batch, 2] -> y FP32 [batch, 2]: x plus the model's mark in the second column."""
    add = helper.make_node("Add", ["x", "mark"], ["y"])
    shape: onnx_models.Shape = ["batch", 2]
    model = onnx_models.model(
        [add],
        {"x": (TensorProto.FLOAT, shape)},
        {"y": (TensorProto.FLOAT, shape)},
        {"mark": np.array([0, MARKS[name]], np.float32)},
    )
    onnx_models.publish(models, name, model, version)


@pytest.fixture
def live(tmp_path: Path, transport: str) -> Iterator[LiveServer]:
    for name in MARKS:
        publish(tmp_path, name, 1)
    (tmp_path / "route").mkdir()
    (tmp_path / "route/route.toml").write_text(FILES[0])
    config = ServerConfig(
        models=tmp_path, port=0, http_port=0, transport=transport, provider="cpu", model_control="poll",
        poll_seconds=3600, max_batch_size=4, max_queue_size=4, instances=1,
    )  # fmt: skip
    with LiveServer(config) as live:
        yield live


class Load:
    """Calls from several threads until ``stop``; each is checked."""

    def __init__(self, live: LiveServer) -> None:
        self._live = live
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.ends: Counter[str] = Counter()
        """Status names -> calls that ended so."""
        self.problems: list[str] = []
        self._threads = [threading.Thread(target=self._over_grpc, args=[seed]) for seed in range(2)]
        self._threads += [threading.Thread(target=self._over_http, args=[seed]) for seed in range(2, 4)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _over_grpc(self, seed: int) -> None:
        draw = random.Random(seed)
        while not self._stop.is_set():
            sent = [samples(draw) for _ in range(IN_FLIGHT)]
            metadata = [(("x-user-id", draw.choice("abc")),) if draw.random() < 0.5 else () for _ in sent]
            futures = [
                self._live.inference.ModelInfer.future(request("route", x=x), timeout=TIMEOUT, metadata=each)
                for x, each in zip(sent, metadata, strict=True)
            ]
            for future in futures:
                if draw.random() < 0.1:
                    future.cancel()
            for x, future in zip(sent, futures, strict=True):
                try:
                    response = future.result()
                except grpc.FutureCancelledError:
                    self._ended("CANCELLED")
                except grpc.RpcError as error:
                    self._ended(error.code().name)
                else:
                    self._check(x, outputs(response)["y"], dict(future.trailing_metadata()))
                    self._ended("OK")

    def _over_http(self, seed: int) -> None:
        draw = random.Random(seed)
        with Rest(self._live.server.http_address) as rest:
            while not self._stop.is_set():
                x = samples(draw)
                response = rest.infer(request("route", x=x))
                if response.status == 200:
                    self._check(x, response.outputs["y"], response.headers)
                self._ended({200: "OK", 429: "RESOURCE_EXHAUSTED"}.get(response.status, str(response.status)))

    def _ended(self, status: str) -> None:
        with self._lock:
            self.ends[status] += 1

    def _check(self, x: Array, y: Array, metadata: Mapping[str, str]) -> None:
        """Require that each sample has the answer of the member that the reply names."""
        stages = [cost.split(";")[0] for cost in metadata["hangtag-stages"].split(",")]
        numbers = [int(number) for number in metadata["hangtag-stage"].split(",")]
        members = [stages[number - 1] for number in (numbers * len(x) if len(numbers) == 1 else numbers)]
        expected = np.stack([x[:, 0], [MARKS[member] for member in members]], axis=1)
        if not np.array_equal(y, expected.astype(np.float32)):
            self.problems.append(f"{x.tolist()} got {y.tolist()}, with {metadata}")


def samples(draw: random.Random) -> Array:
    confidences = [draw.choice([0.1, 0.6, 0.8, 0.95]) + draw.random() / 1000 for _ in range(draw.randint(1, 4))]
    return np.array([[confidence, 0] for confidence in confidences], np.float32)


def test_reloads_under_load_lose_and_double_no_call(live: LiveServer, tmp_path: Path) -> None:
    draw = random.Random(0)
    versions = dict.fromkeys(MARKS, 1)
    file = tmp_path / "route/route.toml"
    with Load(live) as load:
        for number in range(RELOADS):
            file.unlink()
            file.write_text(FILES[number % len(FILES)])
            if number % 5 == 0:
                name = draw.choice(list(MARKS))
                versions[name] += 1
                publish(tmp_path, name, versions[name])
            live.server.control.poll()
    assert load.problems == []
    assert set(load.ends) == {"OK", "RESOURCE_EXHAUSTED", "CANCELLED"}, load.ends
    statistics = live.statistics("route").inference_stats
    assert load.ends["OK"] <= statistics.success.count <= load.ends["OK"] + load.ends["CANCELLED"]
    ended = statistics.success.count + statistics.fail.count
    assert load.ends["OK"] + load.ends["RESOURCE_EXHAUSTED"] <= ended <= load.ends.total()
