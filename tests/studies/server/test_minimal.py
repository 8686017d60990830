"""The minimal server that the benchmark compares with: its answers are ONNX Runtime's, and a full queue refuses."""

import shutil

import grpc
import numpy as np
import onnxruntime
import pytest

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import inference_pb2_grpc
from hangtag.serving.model_repository import serving_versions
from studies.page import ROOT
from studies.server import h2load
from studies.server.h2load import Load
from studies.server.peers.minimal import minimal
from studies.server.process import served

pytestmark = pytest.mark.slow

MODELS = ROOT / "models"


def test_it_answers_as_onnx_runtime_counts_and_refuses_what_its_queue_cannot_hold() -> None:
    pytest.importorskip("pygrpc_native")
    request = pb.ModelInferRequest.FromString(h2load.message("lstm", 3)[5:])
    with served(minimal(MODELS)) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            answer = stub.ModelInfer(request, timeout=30)
            calls = [stub.ModelInfer.future(request, timeout=60) for _ in range(100)]
            assert {call.code() for call in calls} == {grpc.StatusCode.OK}
        assert server.answered("lstm").samples == 303
        if shutil.which("h2load"):
            full = Load(2000, clients=16, streams=100)
            h2load.run(server.url, "cnn", full)
            assert 0 < server.answered("cnn").calls < full.calls
    (path,) = [file.path for file in serving_versions(MODELS) if file.name == "lstm"]
    images = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(3, 28, 28)
    expected = onnxruntime.InferenceSession(path).run(None, {"image": images})
    for raw, array in zip(answer.raw_output_contents, expected, strict=True):
        np.testing.assert_allclose(np.frombuffer(raw, np.float32).reshape(3, 10), array, rtol=1e-4, atol=1e-4)
