"""Runs Triton's own example clients, unchanged but for two expected words, against models of their names and shapes.

They are in the folder TRITON_EXAMPLES, src/python/examples of https://github.com/triton-inference-server/client, which
``make triton-examples`` downloads; without it these tests are skipped.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from onnx import helper

from tests.e2e.processes import ROOT, ServerProcess, serving
from tests.kit import onnx_models

EXAMPLES = Path(os.environ.get("TRITON_EXAMPLES", ROOT / ".triton-examples/src/python/examples"))
PYTHON = ROOT / ".venv-peers/bin/python"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not EXAMPLES.is_dir(), reason="needs Triton's examples: run 'make triton-examples'"),
]

# Only Triton's own server has this name, and says this of a model that it does not have.
OUR_WORDS = {'"triton"': '"hangtag"', "Request for unknown model": "no model"}
GRPC = [
    "simple_grpc_infer_client", "simple_grpc_async_infer_client", "simple_grpc_aio_infer_client",
    "simple_grpc_string_infer_client", "simple_grpc_health_metadata", "simple_grpc_custom_args_client",
    "simple_grpc_keepalive_client", "grpc_explicit_int_content_client", "grpc_explicit_int8_content_client",
    "grpc_explicit_byte_content_client",
]  # fmt: skip
HTTP = [
    "simple_http_infer_client", "simple_http_async_infer_client", "simple_http_aio_infer_client",
    "simple_http_string_infer_client", "simple_http_health_metadata",
]  # fmt: skip


def identity() -> onnx.ModelProto:
    """INPUT0 BYTES [batch, n] -> OUTPUT0, the same."""
    inout = (onnx.TensorProto.STRING, ["batch", "n"])
    return onnx_models.model(
        [helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])], {"INPUT0": inout}, {"OUTPUT0": inout}
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models = tmp_path_factory.mktemp("models")
    for name, datatype in (("simple", "INT32"), ("simple_int8", "INT8"), ("simple_string", "BYTES")):
        onnx_models.publish(models, name, onnx_models.sum_and_difference(datatype))
    onnx_models.publish(models, "simple_identity", identity())
    with serving(models, "--http-port", "0") as process:
        yield process


@pytest.mark.parametrize("example", GRPC + HTTP)
def test_an_example_ends_well(example: str, server: ServerProcess, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    source = (EXAMPLES / f"{example}.py").read_text()
    for theirs, ours in OUR_WORDS.items():
        source = source.replace(theirs, ours)
    script.write_text("import sys\n" + source)  # some of them call sys.exit without importing it
    address = server.http_address if example in HTTP else server.address
    done = subprocess.run([PYTHON, script, "-u", address], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error" not in done.stdout + done.stderr
