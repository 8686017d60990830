"""How the native transport starts, drains and ends: what it refuses, what it finishes, and what it leaves behind."""

import dataclasses
import gc
import tempfile
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from hangtag.protos import inference_pb2_grpc
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.transport.native.server import NativeServer
from tests.kit.live import TIMEOUT, Gate, LiveServer, failure, index, outputs, request


def send(live: LiveServer, value: int) -> Any:
    return live.inference.ModelInfer.future(request("gather", index=index(value)), timeout=TIMEOUT)


def test_many_servers_come_and_go(config: ServerConfig) -> None:
    def files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    held = []
    for _ in range(6):
        with LiveServer(config) as live:
            assert live.infer(request("gather", index=index(1)))["value"].tolist() == [10]
            transport = live.server._transport
            assert isinstance(transport, NativeServer)
            assert transport._folder is not None
            folder = Path(transport._folder.name)
            assert folder.stat().st_mode & 0o777 == 0o700  # only this user may enter it
        assert not folder.exists()
        gc.collect()  # a channel ends with its last reference
        held.append((files(), threading.active_count()))
    (first_files, first_threads), (last_files, last_threads) = held[2], held[-1]  # grpcio keeps some for later servers
    assert last_files <= first_files + 2
    assert last_threads <= first_threads + 1


def test_a_port_in_use_is_refused_and_leaves_nothing_behind(native: LiveServer, config: ServerConfig) -> None:
    threads = threading.active_count()
    second = Server(dataclasses.replace(config, port=native.server.port))
    with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{native.server.port}: another program has the"):
        second.start()
    assert threading.active_count() == threads
    assert native.infer(request("gather", index=index(1)))["value"].tolist() == [10]


def test_a_folder_for_temporary_files_with_too_long_a_path_is_refused(
    config: ServerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(StartError, match="set TMPDIR to a shorter one, or use --transport grpc"):
        Server(config).start()
    assert not list(folder.iterdir())


def test_a_call_that_comes_while_it_drains_is_refused_and_those_before_it_are_answered(native: LiveServer) -> None:
    with native.gate("gather") as gate:
        call = send(native, 3)
        gate.wait_until_computing()
        stopping = threading.Thread(target=native.server.stop, args=(TIMEOUT,))
        stopping.start()
        transport = native.server._transport
        assert isinstance(transport, NativeServer)
        while not transport._calls._stopping:
            threading.Event().wait(0.001)
        code, message = failure(lambda: native.infer(request("gather", index=index(4))))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert message == "the server is stopping and takes no new requests; try another replica"
        assert not call.done()
        gate.open()
        stopping.join(TIMEOUT)
        assert outputs(call.result())["value"].tolist() == [30]


def test_what_is_still_computed_when_the_time_to_drain_is_over_ends_in_peace(config: ServerConfig) -> None:
    server = Server(config)
    server.start()
    ended = threading.Event()

    def stop() -> None:
        server.stop(grace=0)
        ended.set()

    with grpc.insecure_channel(server.address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        model = server._engine.model("gather")
        assert isinstance(model, ServedModel)
        gate = Gate(model)
        calls = [stub.ModelInfer.future(request("gather", index=index(1)), timeout=TIMEOUT)]
        gate.wait_until_computing()
        calls += [stub.ModelInfer.future(request("gather", index=index(2)), timeout=TIMEOUT) for _ in range(3)]
        gate.wait_until_computing()
        gate.wait_until_queued(4)
        stopping = threading.Thread(target=stop)
        stopping.start()
        assert all(call.exception(TIMEOUT) is not None for call in calls)  # cancelled, while the gate is closed
        assert not ended.is_set()
        gate.open()  # an answer to a call that is gone, on a queue that must still be there
        assert ended.wait(TIMEOUT)
        stopping.join()
