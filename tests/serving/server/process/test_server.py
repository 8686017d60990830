"""``hangtag serve`` in a process of its own."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import inference_pb2_grpc
from tests import onnx_models
from tests.serving.command import TIMEOUT, Serving, environment, hangtag, serving
from tests.serving.server.transport.live import index, outputs, request

pytestmark = pytest.mark.slow

SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)

TRANSPORTS = pytest.mark.parametrize("transport", ["native", "grpc"])


def slow() -> onnx.ModelProto:
    """rounds INT64 [1] -> done INT64 [1]: a loop of that many rounds."""
    make = onnx.helper.make_node
    info = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [
            make("Identity", ["going"], ["still_going"]),
            make("MatMul", ["matrix", "matrix"], ["product"]),
            make("ReduceMax", ["product"], ["largest"], keepdims=0),
            make("Cast", ["largest"], ["step"], to=onnx.TensorProto.INT64),
            make("Add", ["count", "step"], ["next"]),
        ],
        "body",
        [
            info("i", onnx.TensorProto.INT64, []),
            info("going", onnx.TensorProto.BOOL, []),
            info("count", onnx.TensorProto.INT64, [1]),
        ],
        [info("still_going", onnx.TensorProto.BOOL, []), info("next", onnx.TensorProto.INT64, [1])],
    )
    return onnx_models.model(
        [
            make("Squeeze", ["rounds"], ["times"]),
            make("Loop", ["times", "yes", "zero"], ["done"], body=body),
        ],
        {"rounds": (onnx.TensorProto.INT64, [1])},
        {"done": (onnx.TensorProto.INT64, [1])},
        {"yes": np.array(True), "zero": np.zeros(1, np.int64), "matrix": np.eye(32, dtype=np.float32)},
    )


@pytest.fixture
def models(tmp_path: Path) -> Path:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    onnx_models.publish(tmp_path, "slow", slow())
    return tmp_path


def metrics(server: Serving) -> str:
    """The server's metrics, in Prometheus' text format."""
    match = re.search(r"url=(\S+)", server.wait_for("metrics"))
    assert match
    with urllib.request.urlopen(match[1], timeout=TIMEOUT) as response:
        return str(response.read().decode())


@SIGNALS
def test_it_logs_that_it_is_ready_answers_and_ends_on_a_signal(models: Path, number: signal.Signals) -> None:
    with serving("--models", str(models), "--port", "0") as server:
        address = server.wait_until_ready()
        with grpc.insecure_channel(address) as channel:
            stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert outputs(stub.ModelInfer(request("gather", index=index(2)), timeout=TIMEOUT))["value"] == [20]
        server.signal(number)
        assert server.wait() == 0
    assert f"signal={number.name}" in server.wait_for("stopping")
    assert server.wait_for("stopped")
    assert not any("Traceback" in line for line in server.log)
    assert all(line.startswith(("event=", "time=", "level=")) or "event=" in line for line in server.log)


def calls_in_flight(stub: Any, server: Serving, rounds: int) -> list[Any]:
    """Two calls that the server has accepted: it computes one, and one is queued. None where they ended meanwhile."""
    sent = request("slow", rounds=np.array([rounds]))
    calls = [stub.ModelInfer.future(sent, timeout=TIMEOUT) for _ in range(2)]
    queued = 'nv_inference_pending_request_count{model="slow",version="1"} 1.0'
    while not any(call.done() for call in calls):
        if queued in metrics(server):
            return calls
    assert [outputs(call.result())["done"].tolist() for call in calls] == [[rounds]] * 2
    return []


@TRANSPORTS
def test_a_call_in_flight_is_finished_first(models: Path, transport: str) -> None:
    with (
        serving("--models", str(models), "--port", "0", "--transport", transport, "--instances", "1") as server,
        grpc.insecure_channel(server.wait_until_ready()) as channel,
    ):
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        began = time.monotonic()
        stub.ModelInfer(request("slow", rounds=np.array([1000])), timeout=TIMEOUT)
        rounds = round(500 / (time.monotonic() - began))  # about half a second of work
        while not (calls := calls_in_flight(stub, server, rounds)):  # a busy machine takes longer to look
            rounds *= 2
        server.signal(signal.SIGTERM)
        server.wait_for("stopping")
        assert [outputs(call.result())["done"].tolist() for call in calls] == [[rounds]] * 2
        assert server.wait() == 0


@TRANSPORTS
def test_a_signal_under_load_loses_no_call_that_was_accepted(models: Path, transport: str) -> None:
    """Each caller's call in flight is answered; native refuses the next one by name, and grpcio's core by its own."""
    answered: list[int] = []
    ends: list[tuple[grpc.StatusCode, str]] = []
    with serving("--models", str(models), "--port", "0", "--transport", transport) as server:
        address = server.wait_until_ready()

        def call(number: int) -> None:
            own = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(address, own) as channel:
                stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
                while True:
                    try:
                        stub.ModelInfer(request("slow", rounds=np.array([200])), timeout=TIMEOUT)
                    except grpc.RpcError as error:
                        ends.append((error.code(), error.details() or ""))
                        return
                    answered.append(number)

        callers = [threading.Thread(target=call, args=(number,)) for number in range(8)]
        for caller in callers:
            caller.start()
        while {*answered} != {*range(8)}:
            assert all(caller.is_alive() for caller in callers), ends
            threading.Event().wait(0.001)
        server.signal(signal.SIGTERM)
        for caller in callers:
            caller.join(TIMEOUT)
        assert server.wait() == 0
    if transport == "native":  # its connections outlive the calls in flight, so no call ends with one
        stopping = "the server is stopping and takes no new requests; try another replica"
        assert ends == [(grpc.StatusCode.UNAVAILABLE, stopping)] * 8
    else:  # a call that is just arriving is CANCELLED, and a later one finds nobody
        assert {code for code, _ in ends} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert not any("Traceback" in line for line in server.log)


@TRANSPORTS
def test_a_second_signal_ends_it_at_once(models: Path, transport: str) -> None:
    with (
        serving("--models", str(models), "--port", "0", "--transport", transport) as server,
        grpc.insecure_channel(server.wait_until_ready()) as channel,
    ):
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelInfer.future(request("slow", rounds=np.array([2**40])), timeout=TIMEOUT)
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT).live
        server.signal(signal.SIGTERM)
        server.wait_for("stopping")
        assert not call.done()
        server.signal(signal.SIGTERM)
        assert server.wait() == 1
        assert call.exception(TIMEOUT).code() is grpc.StatusCode.UNAVAILABLE


def test_a_signal_right_after_ready_is_not_lost(models: Path) -> None:
    for _ in range(2):
        with serving("--models", str(models), "--port", "0") as server:
            server.wait_for("ready")
            server.signal(signal.SIGTERM)
            assert server.wait() == 0


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server for tests that leave it as it was; its port comes from a variable."""
    folder = tmp_path_factory.mktemp("models")
    onnx_models.publish(folder, "gather", onnx_models.gather())
    with serving("--models", str(folder), HANGTAG_SERVE_PORT="0") as server:
        server.wait_until_ready()
        yield server


def test_metrics_are_at_the_address_in_the_log(started: Serving) -> None:
    assert 'hangtag_model_ready{model="gather",version="1"} 1.0' in metrics(started)


def test_metrics_can_be_turned_off_and_the_error_names_a_port_in_use(models: Path) -> None:
    with socket.socket() as taken, serving("--models", str(models), "--port", "0", "--metrics-port", "-1") as server:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = hangtag("serve", "--models", str(models), "--port", "0", "--metrics-port", str(port))
        assert result.returncode == 1
        assert result.stderr.startswith(f"Error: cannot listen on 127.0.0.1:{port} for metrics: ")
        server.wait_until_ready()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert not any("event=metrics" in line for line in server.log)


def test_a_port_in_use_gives_one_clear_line(models: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = hangtag("serve", "--models", str(models), "--port", str(port))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"Error: cannot listen on 127.0.0.1:{port}: another program has the port. ")


def test_the_http_port_can_be_turned_off_and_one_in_use_is_named(models: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = hangtag("serve", "--models", str(models), "--port", "0", "--http-port", str(port))
    assert result.returncode == 1
    assert last_line(result.stderr).startswith(f"Error: cannot listen on 127.0.0.1:{port} for HTTP: another program ")
    assert "--http-port (0 picks a free one, -1 turns HTTP off)" in last_line(result.stderr)
    with serving("--models", str(models), "--port", "0", "--http-port", "-1") as server:
        assert " http=" not in server.wait_for("ready")


@pytest.mark.parametrize("module", ["uvicorn", "starlette", "httptools", "python_multipart"])
def test_a_package_that_is_missing_for_http_is_named(models: Path, module: str) -> None:
    program = f"import sys; sys.modules[{module!r}] = None; from hangtag.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", "--models", str(models), "--port", "0"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=environment())
    assert result.returncode == 1
    assert last_line(result.stderr) == (
        f"Error: HTTP needs the Python package '{module}'; install it with: pip install '.[rest]', or turn HTTP off "
        "with --http-port -1"
    )


def test_a_server_without_http_does_not_import_what_http_needs(models: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from hangtag.serving.server.config.server_config import ServerConfig\n"
        "from hangtag.serving.server.process.server import Server\n"
        "with Server(ServerConfig(models=Path(sys.argv[1]), port=0, http_port=-1)): pass\n"
        "print(*(name for name in ('uvicorn', 'starlette') if name in sys.modules))"
    )
    command = [sys.executable, "-c", program, str(models)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=environment())
    assert (result.returncode, result.stdout.splitlines()[-1]) == (0, "")


def test_the_command_that_shows_which_server_has_the_port_works(models: Path) -> None:
    with serving("--models", str(models), "--port", "0") as server:
        port = server.wait_until_ready().rpartition(":")[2]
        refused = hangtag("serve", "--models", str(models), "--port", port)
        suggested = re.search(r"see 'hangtag ([^']*)'", refused.stderr)
        assert suggested, refused.stderr
        shown = hangtag(*suggested[1].split())
    assert shown.stdout == f"the server at 127.0.0.1:{port} is ready\n"


@pytest.mark.parametrize(
    ("option", "what"), [("--port", ""), ("--http-port", " for HTTP"), ("--metrics-port", " for metrics")]
)
def test_a_privileged_port_names_the_permission_that_is_missing(models: Path, option: str, what: str) -> None:
    """Made to happen: the command runs without the capability that root usually has."""
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first <= 81:
        pytest.skip(f"this kernel lets everybody bind ports from {first} on")
    ports = {"--port": "0", "--http-port": "0", "--metrics-port": "0"} | {option: "81"}
    result = subprocess.run(
        [
            *(("setpriv", "--bounding-set", "-net_bind_service") if os.geteuid() == 0 else ()),
            *(sys.executable, "-m", "hangtag", "serve", "--models", str(models)),
            *(word for pair in ports.items() for word in pair),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=environment(),
    )
    assert result.returncode == 1
    line = last_line(result.stderr)
    assert line.startswith(
        f"Error: cannot listen on 127.0.0.1:81{what}: permission is missing, because ports below {first} "
    )
    assert f"Choose another port with {option} (0 picks a free one" in line


def test_an_address_of_another_machine_is_named(models: Path) -> None:
    result = hangtag("serve", "--models", str(models), "--host", "192.0.2.1", "--metrics-port", "-1")
    assert result.returncode == 1
    assert last_line(result.stderr).startswith(
        "Error: cannot listen on 192.0.2.1:8001: the address is not this machine's. "
    )


def last_line(text: str) -> str:
    assert "Traceback" not in text
    return text.splitlines()[-1]


def test_the_error_names_a_missing_repository(tmp_path: Path) -> None:
    result = hangtag("serve", "--models", str(tmp_path / "nowhere"), "--port", "0")
    assert result.returncode == 1
    assert last_line(result.stderr).startswith(f"Error: {tmp_path}/nowhere is not a folder. Name the model repository")


def test_the_error_names_an_empty_repository(tmp_path: Path) -> None:
    result = hangtag("serve", "--models", str(tmp_path), "--port", "0")
    assert result.returncode == 1
    assert last_line(result.stderr).startswith(f"Error: {tmp_path} holds no model")


def test_the_error_names_a_broken_model(models: Path) -> None:
    file = onnx_models.publish(models, "broken", onnx_models.gather())
    file.write_bytes(file.read_bytes()[:50])
    result = hangtag("serve", "--models", str(models), "--port", "0")
    assert result.returncode == 1
    assert last_line(result.stderr).startswith(f"Error: {file} cannot be loaded by ONNX Runtime")


def test_values_that_do_not_fit_together_are_explained(models: Path) -> None:
    result = hangtag("serve", "--models", str(models), "--max-batch-size", "512")
    assert result.returncode == 1
    assert last_line(result.stderr).startswith("Error: --max-queue-size (256) is below --max-batch-size (512)")


def test_listening_beyond_loopback_logs_a_warning(models: Path) -> None:
    with serving("--models", str(models), "--port", "0", "--host", "0.0.0.0") as server:
        server.wait_until_ready()
        (warning,) = [line for line in server.log if "level=warning" in line]
        assert "LISTENING BEYOND LOOPBACK: anybody may call (set --token-file) and all can be read on" in warning
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_the_port_may_come_from_a_variable(started: Serving) -> None:
    assert started.wait_until_ready().startswith("127.0.0.1:")
    assert not started.wait_until_ready().endswith(":8001")


def test_the_process_has_no_torch(models: Path) -> None:
    command = [sys.executable, "-m", "hangtag", "serve", "--models", str(models), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stderr
        try:
            assert any("event=ready " in line for line in process.stderr)
            mapped = Path(f"/proc/{process.pid}/maps").read_text()
        finally:
            process.kill()
    assert "onnxruntime" in mapped
    assert "torch" not in mapped


def test_health_returns_as_soon_as_a_later_server_is_ready(models: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serving("--models", str(models), "--port", str(port)) as server:
        # Its first attempts come while the server still imports.
        result = hangtag("health", "--server", f"127.0.0.1:{port}", "--wait", "30", "--model", "gather")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == f"gather at 127.0.0.1:{port} is ready\n"
        server.wait_until_ready()
