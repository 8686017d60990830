"""`hangtag loadtest` and a server that answers nonsense: one line says so, and nothing is measured."""

import json

import pytest
from click.testing import CliRunner

from hangtag.cli import main
from tests.kit.web_server import Answer, web_server

DEEP = b"[" * 100_000
METADATA = {
    "name": "cnn",
    "versions": ["1"],
    "inputs": [{"name": "image", "datatype": "UINT8", "shape": ["-1", "28", "28"]}],
    "outputs": [{"name": "logits", "datatype": "FP32", "shape": ["-1", "10"]}],
}


def refused(address: str) -> str:
    quick = ["--min-duration", "100ms", "--min-query-count", "1", "--blocks", "1", "--warm-up", "0"]
    result = CliRunner().invoke(main, ["loadtest", "cnn", "--server", f"http://{address}", *quick])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
    return result.stderr


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("body", [DEEP, b'{"error": ' + DEEP, b"9" * 100_000, b"\xff", b""], ids=lambda b: repr(b[:20]))
def test_a_server_that_describes_itself_in_nonsense(status: int, body: bytes) -> None:
    with web_server(lambda _: (status, {}, body)) as address:
        assert f"http://{address}" in refused(address)


@pytest.mark.parametrize("file_bytes", ["²", "9" * 5000, "-", "1e3"])
@pytest.mark.parametrize(
    "answer",
    [
        (200, {}, DEEP),
        (200, {}, json.dumps({"model_name": "cnn", "outputs": [{"datatype": "UINT8", "data": [-1]}]}).encode()),
        (500, {}, b'{"error": ' + DEEP),
    ],
    ids=["deep", "-1", "deep error"],
)
def test_a_server_that_answers_the_first_call_in_nonsense(answer: Answer, file_bytes: str) -> None:
    config = {"name": "cnn", "parameters": {"file_bytes": {"string_value": file_bytes}}}

    def respond(path: str) -> Answer:
        if path.endswith("/infer"):
            return answer
        if path.endswith("/config"):
            return 200, {}, json.dumps(config).encode()
        if path.endswith("/ready"):
            return 200, {}, b'{"ready": true}'
        return 200, {}, json.dumps(METADATA if path.endswith("cnn") else {"name": "x", "version": "1"}).encode()

    with web_server(respond) as address:
        assert "cnn does not answer what would be sent (INTERNAL" in refused(address)
