"""The header grpc-timeout where no gRPC client wrote it: what is no deadline is refused, and not taken for none."""

import re
import shutil
import struct
import subprocess
from pathlib import Path
from urllib.parse import unquote

import grpc
import pytest

from hangtag.protos import classifier_pb2
from hangtag.protos import inference_pb2 as pb
from tests.kit.live import LiveServer, index, request
from tests.kit.waiting import TIMEOUT

pytestmark = pytest.mark.skipif(shutil.which("nghttp") is None, reason="needs nghttp (Debian: nghttp2-client)")

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
SERVER_LIVE = "/inference.GRPCInferenceService/ServerLive"
CLASSIFY = "/hangtag.v1.Classifier/Classify"
INFER = request("gather", index=index(1)).SerializeToString()
RAW = classifier_pb2.RawImage(height=28, width=28, pixels=bytes(784))
MESSAGES = {
    MODEL_INFER: INFER,
    CLASSIFY: classifier_pb2.ClassifyRequest(model_name="classifier", raw=RAW).SerializeToString(),
    SERVER_LIVE: pb.ServerLiveRequest().SerializeToString(),
}
BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


@pytest.fixture(scope="session")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file with each method's request, as it goes over the wire."""
    folder = tmp_path_factory.mktemp("bodies")
    bodies = {}
    for method, message in MESSAGES.items():
        bodies[method] = folder / method.rpartition("/")[2]
        bodies[method].write_bytes(b"\x00" + struct.pack(">I", len(message)) + message)
    return bodies


def ask(live: LiveServer, bodies: dict[str, Path], method: str, timeout: str) -> tuple[grpc.StatusCode, str]:
    """The status and the message of a call with this header."""
    headers = {":method": "POST", "content-type": "application/grpc", "te": "trailers", "grpc-timeout": timeout}
    named = [f"--header={name}: {value}" for name, value in headers.items()]
    url = f"http://{live.server.address}{method}"
    command = ["nghttp", "-v", "--no-dep", *named, f"--data={bodies[method]}", url]
    output = subprocess.run(command, capture_output=True, encoding="latin-1", check=True, timeout=TIMEOUT).stdout
    received = dict(re.findall(r"recv \(stream_id=\d+\) (grpc-\S+): (.*)", output))
    return BY_NUMBER[int(received["grpc-status"])], unquote(received.get("grpc-message", ""))


@pytest.mark.parametrize("method", MESSAGES)
def test_a_deadline_is_taken_and_what_is_none_is_refused(
    live: LiveServer, bodies: dict[str, Path], method: str
) -> None:
    by_native = live.server.config.transport == "native" and method != SERVER_LIVE  # else gRPC's core answers
    for timeout in ("10S", "00000001M", "99999999H"):
        assert ask(live, bodies, method, timeout)[0] is grpc.StatusCode.OK
    before = live.statistics("gather").inference_count
    too_long = ["000000010S"] * by_native  # gRPC's core takes more digits than the specification allows
    for timeout in ("soon", "1", "S", "-1S", "1.5S", "1s", "1Sm", "1 000m x", "1S.", *too_long):
        code, message = ask(live, bodies, method, timeout)
        assert code is (grpc.StatusCode.INVALID_ARGUMENT if by_native else grpc.StatusCode.INTERNAL)
        assert "grpc-timeout" in message
        if by_native:
            assert (
                f"must be 1 to 8 digits and a unit, which is one of H, M, S, m, u and n, not '{timeout[0]}" in message
            )
    assert live.statistics("gather").inference_count == before
