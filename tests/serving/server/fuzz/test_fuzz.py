"""For any bytes of a request, the server answers or returns an error that explains the fault.

The server must not crash, and refusals must not increase its memory or its log.

These tests send a few cases. ``make fuzz`` sends each transport 24,000 gRPC requests, and 8,000 other byte strings."""

import os

import pytest
from grpc_health.v1 import health_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hangtag.protos import classifier_pb2
from hangtag.protos import inference_pb2 as pb
from tests.kit import requests
from tests.kit.target import INFER, Target

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("FUZZ_CASES", "60"))
"""The number of examples in each test of this file."""
CLASSIFY = "/hangtag.v1.Classifier/Classify"
METHODS = [
    *(
        f"/inference.GRPCInferenceService/{method.name}"
        for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    ),
    CLASSIFY,
    "/grpc.health.v1.Health/Check",
]

fuzzed = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))


@fuzzed
@given(sent=requests.anything)
def test_any_request(target: Target, sent: pb.ModelInferRequest) -> None:
    target.send(INFER, sent.SerializeToString())


@fuzzed
@given(sent=requests.nearly_good())
def test_a_good_request_with_something_changed(target: Target, sent: pb.ModelInferRequest) -> None:
    answer = target.send(INFER, sent.SerializeToString())
    if answer is not None:
        for output in pb.ModelInferResponse.FromString(answer).outputs:
            assert 0 not in output.shape or any(0 in tensor.shape for tensor in sent.inputs)


@fuzzed
@given(sent=requests.classify_requests)
def test_any_picture(target: Target, sent: classifier_pb2.ClassifyRequest) -> None:
    answer = target.send(CLASSIFY, sent.SerializeToString())
    if answer is not None:
        labels = classifier_pb2.ClassifyResponse.FromString(answer).labels
        assert 1 <= len(labels) <= 10


@fuzzed
@given(data=requests.mangled(), method=st.sampled_from([INFER, CLASSIFY]))
def test_messages_with_bytes_changed(target: Target, data: bytes, method: str) -> None:
    target.send(method, data)


@fuzzed
@given(data=st.binary(max_size=200) | requests.mangled(), method=st.sampled_from(METHODS))
def test_any_bytes_to_any_method(target: Target, data: bytes, method: str) -> None:
    target.send(method, data)


@fuzzed
@given(name=st.text(max_size=50), method=st.sampled_from(METHODS))
def test_any_name(target: Target, name: str, method: str) -> None:
    """In every request that has a name, the name is the string in field 1."""
    target.send(method, health_pb2.HealthCheckRequest(service=name).SerializeToString())
