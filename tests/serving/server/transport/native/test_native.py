"""The native transport receives calls even while every thread computes, and has limits that other transports lack."""

import gc
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hangtag.protos import classifier_pb2
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit import onnx_models
from tests.kit.command import hangtag, last_line
from tests.kit.conversation import Conversation, gather
from tests.kit.http2 import GOAWAY, OPEN, PING, RST_STREAM, call, frame
from tests.kit.live import LiveServer, index, number, outputs, request
from tests.kit.over_http import live_server
from tests.kit.raw import connect
from tests.kit.waiting import TIMEOUT

pytestmark = pytest.mark.quick

ACK = 0x1
CANCEL, ENHANCE_YOUR_CALM = struct.pack(">I", 8), struct.pack(">I", 11)
ANY_PING = b"hangtag!"
SOON = 15.0
"""The seconds after which the test considers a call lost."""


@pytest.fixture
def config(few: Path) -> ServerConfig:
    return ServerConfig(
        models=few, port=0, http_port=-1, max_batch_size=4, max_queue_size=8, instances=2, transport="native"
    )


@pytest.fixture
def native(config: ServerConfig) -> Iterator[LiveServer]:
    with LiveServer(config) as server:
        yield server


def test_while_every_thread_computes_others_are_answered_and_a_full_queue_refuses(native: LiveServer) -> None:
    raw = classifier_pb2.RawImage(height=28, width=28, pixels=bytes(784))
    picture = classifier_pb2.ClassifyRequest(model_name="classifier", raw=raw)
    with native.gates.closed("gather") as gate:
        # Each of these two calls occupies one of the two threads.
        calls = [*native.occupy(gate, gather(1)), *native.occupy(gate, gather(2))]
        for length in (1, 2):  # twice, because different threads may receive the two calls
            assert native.infer(request("free_axis", x=number(length)))["total"].tolist() == [[length]]
            assert native.statistics("gather").inference_count == 0
        assert len(native.classifier.Classify(picture, timeout=TIMEOUT).labels) == 3
        calls += [native.begin(gather(3)) for _ in range(8)]
        native.wait_until_queued("gather", 8)
        refused = [native.begin(gather(1)) for _ in range(100)]
        assert {each.exception(TIMEOUT).code() for each in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        gate.open()
        assert [outputs(each.result())["value"].item() for each in calls] == [10, 20, *[30] * 8]
        assert sorted(gate.batch_sizes) == [1, 1, 4, 4]
    assert native.infer(request("gather", index=index(3)))["value"].tolist() == [30]


def test_a_model_may_have_more_instances_than_the_server_has_threads(tmp_path: Path) -> None:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    (tmp_path / "gather/serving.toml").write_text("instances = 4\nmax_batch_size = 1\n")
    with live_server("native", tmp_path, instances=1) as live, live.gates.closed("gather") as gate:
        calls = [live.begin(gather(value)) for value in range(4)]
        for _ in calls:
            gate.wait_until_computing()  # four batches are computed at the same time
        gate.open()
        assert [outputs(each.result())["value"].item() for each in calls] == [0, 10, 20, 30]


MIXED: dict[str, dict[str, Any]] = {
    "fewer threads than instances": {"instances": 1, "max_batch_size": 1},
    "a delay": {"instances": 2, "max_batch_size": 2, "max_queue_delay_microseconds": 3_000},
    "more threads than instances": {"instances": 3, "max_batch_size": 4},
}
"""The settings of each server. The model ``gather`` has two instances on every server."""


@pytest.fixture(scope="module", params=MIXED)
def mixed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    models = onnx_models.publish_all(tmp_path_factory.mktemp("mixed"), "gather", "free_axis")
    (models / "gather/serving.toml").write_text("instances = 2\n")
    with live_server("native", models, **MIXED[request.param]) as live:
        yield live


@settings(max_examples=40, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(
    calls=st.lists(
        st.tuples(st.booleans(), st.sampled_from(["waits", "waits", "is in a stream", "leaves", "is late"])),
        min_size=1,
        max_size=20,  # after more resets, the server would end the connection
    ),
    seconds=st.sampled_from([0.0, 0.0, 0.001, 0.008]),
)
def test_whichever_calls_come_none_is_left_waiting(
    mixed: LiveServer, calls: list[tuple[bool, str]], seconds: float
) -> None:
    """The threads of a model and the stand-by threads share the queues. A batch takes ``seconds``."""
    for name in ("gather", "free_axis"):
        mixed.gates.counted(name).delay = seconds
    stream = Conversation(mixed.inference.ModelStreamInfer)
    in_stream, alone = [], []
    for place, (is_gather, way) in enumerate(calls):
        value = place % 4
        sent = request("gather", index=index(value)) if is_gather else request("free_axis", x=number(10 * value))
        if way == "is in a stream":
            stream.send(sent)
            in_stream.append(10 * value)
            continue
        call = mixed.inference.ModelInfer.future(sent, timeout=0.001 if way == "is late" else SOON)
        if way == "leaves":
            call.cancel()
        elif way == "waits":
            alone.append((10 * value, call))
    for value, call in alone:
        assert [array.item() for array in outputs(call.result()).values()] == [value]
    answers = [outputs(answer.infer_response) for answer in stream.finish()]
    assert [array.item() for each in answers for array in each.values()] == in_stream
    for name in ("gather", "free_axis"):
        mixed.wait_until_queued(name, 0)


@pytest.mark.parametrize("delay_us", [0, 400_000], ids=["no delay", "a delay"])
@pytest.mark.parametrize("method", ["ModelInfer", "Classify"])
def test_a_single_call_that_comes_during_a_computation_is_answered_though_nothing_follows(
    few: Path, method: str, delay_us: int
) -> None:
    """The call may be known only to the thread that received it."""
    pictures = np.zeros((2, 28, 28), np.uint8)
    raw = classifier_pb2.RawImage(height=28, width=28, pixels=bytes(784))
    with (
        live_server("native", few, max_batch_size=2, instances=1, max_queue_delay_microseconds=delay_us) as live,
        live.gates.closed("classifier") as gate,
    ):
        (full,) = live.occupy(gate, request("classifier", image=pictures))
        sent: Any = classifier_pb2.ClassifyRequest(model_name="classifier", raw=raw)
        if method == "ModelInfer":
            sent = request("classifier", image=pictures[:1])
        service = live.inference if method == "ModelInfer" else live.classifier
        single = getattr(service, method).future(sent, timeout=TIMEOUT)
        live.wait_until_queued("classifier", 1)
        gate.open()
        assert full.exception() is None
        assert single.exception() is None


def test_a_delay_holds_a_call_back_until_the_batch_is_full_or_the_time_is_over(few: Path) -> None:
    config = ServerConfig(models=few, port=0, http_port=-1, max_batch_size=2, transport="native")
    with LiveServer(replace(config, max_queue_delay_microseconds=10_000_000)) as live:
        calls = [live.begin(gather(1)), live.begin(gather(2))]
        assert [outputs(each.result())["value"].tolist() for each in calls] == [[10], [20]]
        assert live.statistics("gather").execution_count == 1
    with LiveServer(replace(config, max_queue_delay_microseconds=2_000)) as live:
        assert live.infer(request("gather", index=index(3)))["value"].tolist() == [30]


def test_many_servers_come_and_go(config: ServerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    held = []
    for _ in range(6):
        with LiveServer(config) as live:
            assert live.infer(request("gather", index=index(1)))["value"].tolist() == [10]
            (folder,) = tmp_path.iterdir()  # The private socket is in this folder.
            assert folder.stat().st_mode & 0o777 == 0o700  # Only this user may enter the folder.
        assert not list(tmp_path.iterdir())
        gc.collect()  # a gRPC channel closes when it is garbage-collected
        held.append((len(list(Path("/proc/self/fd").iterdir())), threading.active_count()))
    # grpcio keeps some file descriptors and threads for later servers.
    (first_files, first_threads), (last_files, last_threads) = held[2], held[-1]
    assert last_files <= first_files + 2
    assert last_threads <= first_threads + 1


def test_a_folder_for_temporary_files_with_too_long_a_path_is_refused(few: Path, tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    options = ("--models", str(few), "--port", "0", "--transport", "native")
    result = hangtag("serve", *options, TMPDIR=str(folder))
    assert result.returncode == 1
    assert "set TMPDIR to a shorter path, or use --transport grpc" in last_line(result.stderr)
    assert not list(folder.iterdir())


def reset_at_once(live: LiveServer, streams: Iterable[int]) -> bytes:
    """Begin and reset streams in one write. Return the server's first PING or GOAWAY frame after this write."""
    sent = OPEN + frame(PING, ANY_PING)
    with connect(live.server.address, sent) as connection, connection.makefile("rb") as received:
        # Without this wait, the server could read the connection's preface and the streams together.
        assert answer(received).endswith(ANY_PING)
        pairs = b"".join(call(stream) + frame(RST_STREAM, CANCEL, stream=stream) for stream in streams)
        connection.sendall(pairs + frame(PING, ANY_PING))
        return answer(received)


def answer(received: BinaryIO) -> bytes:
    while True:
        head = received.read(9)
        assert len(head) == 9, "the connection ended without a GOAWAY"
        payload = received.read(int.from_bytes(head[:3], "big"))
        if head[3] == GOAWAY or (head[3] == PING and head[4] & ACK):
            return bytes(head[3:4] + payload)


MOST_RESETS = 20
"""The number of streams that a client may reset at once. hangtag's own clients open half as many streams."""


def test_the_resets_that_clients_make_do_not_end_a_connection(native: LiveServer) -> None:
    """hangtag's clients rely on this limit, which the package pygrpc-native sets."""
    for _ in range(3):
        assert reset_at_once(native, range(1, 2 * MOST_RESETS, 2)) == bytes([PING]) + ANY_PING


def test_a_rapid_reset_ends_its_connection_and_no_other(native: LiveServer) -> None:
    """This attack is known as CVE-2023-44487."""
    end = reset_at_once(native, range(1, 2001, 2))
    assert end[0] == GOAWAY
    assert end[5:9] == ENHANCE_YOUR_CALM
    assert native.inference.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT).live
