"""Callers may use up the server's open files. The server survives, logs this, and answers other callers afterwards."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import grpc
import pytest

from hangtag.protos import inference_pb2 as pb
from studies.stubs import InferenceStub
from tests.kit import onnx_models, raw
from tests.kit.command import Serving, serving
from tests.kit.http2 import OPEN
from tests.kit.live import index, outputs, request
from tests.kit.rest import Rest
from tests.kit.waiting import TIMEOUT, pass_time, until
from tests.kit.workers import ask, connections

pytestmark = pytest.mark.slow

FILES = 128
"""The number of files that the server may open. After its start, the server has about forty files open."""
FULL = '"no more files can be opened; new connections must wait, or are closed"'
FREE = '"files can be opened again"'


class Starved:
    """A server that may open only a few files, and a connection that was opened before the attack."""

    def __init__(self, server: Serving) -> None:
        self.server = server
        self.address = server.address
        self.http = server.http_address
        self._channel = grpc.insecure_channel(self.address)
        self._inference = InferenceStub(self._channel)
        self.require_answers()  # from now on, the connections for these calls are open

    def wait_until(self, event: str) -> None:
        """Wait until this event is the log's latest event about open files. The server may log it repeatedly."""

        def latest() -> str:
            return next((each for line in reversed(self.server.log) for each in (FULL, FREE) if each in line), FREE)

        until(lambda: latest() == event)

    def require_answers(self) -> None:
        """Require answers to the two kinds of calls that the native transport treats differently."""
        answer = self._inference.ModelInfer(request("gather", index=index(1)), timeout=TIMEOUT)
        assert outputs(answer)["value"].tolist() == [10]
        assert self._inference.ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT).ready

    def require_new_connections(self) -> None:
        """Require that the server accepts new connections on each of its ports."""
        with connections(self.server, 1) as (stub,):
            assert ask(stub) == 20
        with Rest(self.http) as rest:
            assert rest.get("/v2/health/ready").status == 200
        assert "hangtag_model_ready" in self.server.metrics()

    def wait_until_closed(self) -> None:
        """Wait until the server has closed the attack's connections, which may happen after the clients closed them."""
        until(lambda: len(list(Path(f"/proc/{self.server.process.pid}/fd").iterdir())) <= FILES // 2)

    def is_idle(self) -> bool:
        """Return True if the server used little processor time for a second. A new connection costs processor time
        too."""
        before = self._processor_seconds()
        pass_time(1.0)
        return self._processor_seconds() - before < 0.3

    def _processor_seconds(self) -> float:
        fields = Path(f"/proc/{self.server.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self._channel.close()


def connect(address: str, first: bytes, stack: ExitStack) -> list[socket.socket]:
    """Open ``FILES`` connections, which are more than the server can accept. The kernel queues the rest."""
    opened = []
    for _ in range(FILES):
        connection = stack.enter_context(raw.connect(address))
        with suppress(OSError):  # the server may have ended the connection
            connection.sendall(first)
        opened.append(connection)
    return opened


@contextmanager
def starved(models: Path, transport: str, *more: str) -> Iterator[Starved]:
    onnx_models.publish(models, "gather", onnx_models.gather())
    few = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))"
    options = ("--models", str(models), "--port", "0", "--transport", transport, "--drain-seconds", "1", *more)
    with serving(*options, first=few) as server, closing(Starved(server)) as target:
        yield target


@pytest.mark.parametrize("transport", ["native", "grpc"])
def test_it_lives_without_a_file_to_open_and_accepts_others_afterwards(tmp_path: Path, transport: str) -> None:
    with starved(tmp_path, transport) as target:
        assert any("limit on open files is below" in line for line in target.server.log)
        for address, first in ((target.address, OPEN), (target.http, b"GET")):
            with ExitStack() as stack:
                connect(address, first, stack)
                target.wait_until(FULL)
                target.require_answers()
            target.wait_until(FREE)
            target.wait_until_closed()
            target.require_new_connections()
        assert not any("Traceback" in line for line in target.server.log)
        with ExitStack() as stack:
            connect(target.address, OPEN, stack)
            target.wait_until(FULL)
            target.server.signal(signal.SIGTERM)
            assert target.server.wait() == 0


def test_connections_to_the_metrics_that_wait_for_a_file_keep_no_thread_busy(tmp_path: Path) -> None:
    with starved(tmp_path, "native") as target:
        metrics = target.server.metrics_url.split("/")[2]
        with ExitStack() as stack:
            connect(target.http, b"GET", stack)
            target.wait_until(FULL)
            for _ in range(4):
                stack.enter_context(raw.connect(metrics))
            until(target.is_idle)
            target.require_answers()
        target.wait_until(FREE)
        target.wait_until_closed()
        target.require_new_connections()
