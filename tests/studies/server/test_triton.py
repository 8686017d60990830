"""Triton as the benchmark starts it: its answers are hangtag's, and it leaves nothing behind."""

import shutil
from pathlib import Path

import click
import grpc
import numpy as np
import pytest

from hangtag import Client
from hangtag.protos import inference_pb2 as pb
from hangtag.protos import inference_pb2_grpc
from studies.page import ROOT
from studies.server import h2load
from studies.server.h2load import Load
from studies.server.peers.triton import ENVIRONMENT, triton
from studies.server.process import hangtag_serve, served

pytestmark = pytest.mark.slow

MODELS = ROOT / "models"
NEEDS_TRITON = pytest.mark.skipif(
    not (ENVIRONMENT / ".triton").exists(), reason="needs Triton, 450 MB: run 'make triton', which installs it"
)


@NEEDS_TRITON
def test_triton_answers_as_hangtag_does_and_ends_cleanly() -> None:
    shared = set(Path("/dev/shm").glob("triton*"))
    request = pb.ModelInferRequest.FromString(h2load.message("cnn", 3)[5:])
    with triton(MODELS) as launch:
        folder = Path(str(launch.command[1]).partition("=")[2])
        with served(launch) as server:
            with grpc.insecure_channel(server.address) as channel:
                answer = inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
            assert server.answered("cnn").samples == 3
            assert server.pss_mb() > 100  # Its models are in processes of their own.
            if shutil.which("h2load"):
                assert h2load.run(server.url, "lstm", Load(20, clients=2)).per_second > 1
    with served(hangtag_serve(MODELS)) as server, Client(server.address) as client:
        images = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(3, 28, 28)
        expected = client.infer("cnn", {"image": images})["logits"]
    logits = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(3, 10)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert not folder.exists()
    assert set(Path("/dev/shm").glob("triton*")) == shared


def test_an_environment_without_triton_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match=r"Triton is missing(.|\n)*'make triton'"):
        triton(MODELS, tmp_path).__enter__()
