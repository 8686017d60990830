"""ModelInfer on a real server gives exact answers over every transport."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from tests.kit import onnx_models, shipped
from tests.kit.datatypes import FIELDS, VALUES
from tests.kit.live import LiveServer, failure, outputs, request
from tests.kit.over_http import HTTP, OVER_GRPC, live_server
from tests.kit.rest import Rest, tensor
from tests.kit.waiting import TIMEOUT


def test_inputs_go_by_name_and_only_the_requested_outputs_come_in_their_order(live: LiveServer) -> None:
    a, b = np.array([[1, 2, 3]], np.float32), np.array([[10, 20, 30]], np.int64)
    for sent in (request("two_inputs", a=a, b=b), request("two_inputs", b=b, a=a)):
        answer = live.infer(sent)
        assert answer["sum"].tolist() == [[11, 22, 33]]
        assert answer["double"].tolist() == [[20, 40, 60]]
        assert answer["double"].dtype == np.int64
    for names in (["double"], ["double", "sum"], ["sum", "double"]):
        del sent.outputs[:]
        sent.outputs.extend(pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in names)
        assert list(live.infer(sent)) == names


def identity(datatype: str, shape: list[int | str]) -> Any:
    """An identity model with the input ``in`` and the output ``out``."""
    type_ = onnx_models.TYPES[datatype]
    node = helper.make_node("Identity", ["in"], ["out"])
    return onnx_models.model([node], {"in": (type_, shape)}, {"out": (type_, shape)})


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory, transport: str) -> Iterator[LiveServer]:
    """A server with three models of each datatype: with a batch axis, without one, and with a second free axis."""
    models = tmp_path_factory.mktemp("typed")
    for datatype in onnx_models.TYPES:
        onnx_models.publish(models, datatype, identity(datatype, ["batch", 2]))
        onnx_models.publish(models, f"{datatype}_rows", identity(datatype, ["rows", 2]))
        onnx_models.publish(models, f"{datatype}_lengths", identity(datatype, ["batch", "length"]))
    with live_server(transport, models) as live:
        yield live


IN_JSON: dict[object, object] = {np.inf: 2.5, -np.inf: -2.5}
"""JSON has no infinities, so requests over HTTP have these values instead."""


def test_every_datatype_goes_alone_as_raw_and_as_typed_contents_and_may_be_empty(
    typed: LiveServer, transport: str
) -> None:
    """An axis of free size may have the size 0, unless it is the batch axis."""
    for datatype in onnx_models.TYPES:
        array = np.array([VALUES[datatype]] * 3, tensors.DTYPES[datatype])
        assert typed.infer(request(datatype, **{"in": array}))["out"].tolist() == [VALUES[datatype]] * 3
        if datatype in FIELDS:
            values = (
                [IN_JSON.get(value, value) for value in VALUES[datatype]] if transport == HTTP else VALUES[datatype]
            )
            given: Any = {FIELDS[datatype]: values}
            described = pb.ModelInferRequest.InferInputTensor(
                name="in", datatype=datatype, shape=[1, 2], contents=pb.InferTensorContents(**given)
            )
            response = typed.inference.ModelInfer(pb.ModelInferRequest(model_name=datatype, inputs=[described]))
            assert response.outputs[0].datatype == datatype
            assert outputs(response)["out"].ravel().tolist() == values
        for model, shape in ((f"{datatype}_rows", (0, 2)), (f"{datatype}_lengths", (3, 0))):
            sent = request(model, **{"in": np.zeros(shape, tensors.DTYPES[datatype])})
            assert typed.infer(sent)["out"].shape == shape
            if datatype in FIELDS and transport != HTTP:
                del sent.raw_input_contents[:]
                assert typed.infer(sent)["out"].shape == shape


def test_scalars_of_every_datatype_come_and_go(live: LiveServer) -> None:
    arrays = {name: np.array(values[1], tensors.DTYPES[name]) for name, values in VALUES.items()}
    response = live.inference.ModelInfer(request("every_scalar", **{f"in_{n}": a for n, a in arrays.items()}))
    assert all(list(output.shape) == [] for output in response.outputs)
    assert {name: array.item() for name, array in outputs(response).items()} == {
        f"out_{name}": values[1] for name, values in VALUES.items()
    }


def test_text_is_utf8_both_ways(live: LiveServer) -> None:
    words = ["", "grön", "日本\0", "x" * 100_000]
    answer = live.infer(request("text", text=np.array(words, np.object_)))
    assert [word.decode() for word in answer["shouted"]] == [word + "!" for word in words]
    contents = pb.InferTensorContents(bytes_contents=[b"b", b"a"])
    described = pb.ModelInferRequest.InferInputTensor(name="text", datatype="BYTES", shape=[2], contents=contents)
    answer = live.infer(pb.ModelInferRequest(model_name="text", inputs=[described]))
    assert answer["shouted"].tolist() == [b"b!", b"a!"]


def test_models_without_inputs_with_an_empty_answer_and_one_that_refuses_emptiness(
    tmp_path: Path, transport: str
) -> None:
    constant, five = helper.make_node("Identity", ["c"], ["out"]), {"c": np.array(5, np.int64)}
    places, largest = helper.make_node("NonZero", ["x"], ["places"]), helper.make_node("ArgMax", ["x"], ["y"], axis=0)
    models = {
        "five": onnx_models.model([constant], {}, {"out": (TensorProto.INT64, [])}, five),
        "places": onnx_models.model(
            [places], {"x": (TensorProto.FLOAT, ["batch"])}, {"places": (TensorProto.INT64, [1, "found"])}
        ),
        "largest": onnx_models.model(
            [largest], {"x": (TensorProto.FLOAT, ["rows", 2])}, {"y": (TensorProto.INT64, [1, 2])}
        ),
    }
    for name, model in models.items():
        onnx_models.publish(tmp_path, name, model)
    with live_server(transport, tmp_path) as live:
        if transport != HTTP:  # requests over HTTP always have inputs
            assert live.infer(request("five"))["out"].item() == 5
        for values, indices in (([0, 0], []), ([0, 3, 4], [1, 2])):
            assert live.infer(request("places", x=np.array(values, np.float32)))["places"].tolist() == [indices]
        code, message = failure(lambda: live.infer(request("largest", x=np.ones((0, 2), np.float32))))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert message.startswith("ONNX Runtime cannot compute the request's values")
        assert live.infer(request("largest", x=np.ones((3, 2), np.float32)))["y"].tolist() == [[0, 0]]


def test_every_answer_says_who_gave_it_and_what_it_cost(live: LiveServer) -> None:
    images = np.random.default_rng(3).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    sent = request("classifier", image=images)
    sent.id = "my own"
    response, call = live.inference.ModelInfer.with_call(sent, timeout=TIMEOUT)
    assert (response.model_name, response.model_version, response.id) == ("classifier", "12", "my own")
    answer = outputs(response)
    assert list(answer) == ["logits", "probabilities"]
    np.testing.assert_allclose(answer["logits"], onnx_models.logits_of(images), rtol=1e-4, atol=1e-4)
    cost = {key: value for key, value in call.trailing_metadata() if not key.startswith("hangtag-model")}
    assert set(cost) == {"hangtag-queue-ns", "hangtag-compute-ns", "hangtag-batch-size"}
    assert cost["hangtag-batch-size"] == "7"
    assert int(cost["hangtag-compute-ns"]) > 0
    assert int(cost["hangtag-queue-ns"]) >= 0


def test_the_transports_infer_the_same_bits(tmp_path: Path) -> None:
    for model in ("lstm", "cnn"):
        (tmp_path / model).symlink_to(shipped.MODELS / model)
    settings_: dict[str, Any] = {"http_port": 0, "instances": 1, "intra_op_threads": 1}
    answers: dict[tuple[str, int], set[tuple[bytes, ...]]] = {}
    for transport in ("native", "grpc"):
        with live_server(transport, tmp_path, **settings_) as live, Rest(live.server.http_address) as rest:
            for model, count in itertools.product(("lstm", "cnn"), (1, 5)):
                images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
                sent = request(model, image=images)
                given = answers.setdefault((model, count), set())
                given.add(tuple(live.inference.ModelInfer(sent, timeout=TIMEOUT).raw_output_contents))
                in_json = tensor("image", "UINT8", [count, 28, 28], images.tolist())
                for answer in (rest.infer(sent), rest.infer_json(model, in_json)):
                    given.add(tuple(array.tobytes() for array in answer.outputs.values()))
    assert [len(given) for given in answers.values()] == [1] * 4


def infer_bytes(live: LiveServer, message: bytes) -> pb.ModelInferResponse:
    call: Any = live.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    return pb.ModelInferResponse.FromString(call(message, timeout=TIMEOUT))


@OVER_GRPC
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.integers(0, 255), min_size=1, max_size=16),
    st.sampled_from([[], ["probabilities"], ["probabilities", "logits"]]),
    st.sampled_from(["", "12"]),
)
def test_a_request_that_begins_as_one_before_it_is_answered_as_a_new_one(
    live: LiveServer, pixels: list[int], names: list[str], version: str
) -> None:
    """The server need not parse a request whose first bytes it knows, but it always parses a request with an id."""
    images = np.repeat(np.array(pixels, np.uint8), 784).reshape(-1, 28, 28)
    sent = request("classifier", image=images)
    sent.model_version = version
    sent.outputs.extend(pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in names)
    new = pb.ModelInferRequest(id="new")
    new.MergeFrom(sent)
    expected = live.inference.ModelInfer(new, timeout=TIMEOUT)
    expected.id = ""
    for _ in range(2):
        assert infer_bytes(live, sent.SerializeToString()) == expected


@OVER_GRPC
def test_fields_in_another_order_or_unknown_and_contents_like_a_head_are_read_as_they_are(live: LiveServer) -> None:
    def rows(*values: float) -> pb.ModelInferRequest:
        return request("free_axis", x=np.array([[value, value] for value in values], np.float32))

    sent, longer = rows(1), rows(1, 2, 3)
    inner = b"\x3a\x08" + np.array([3, 4], np.float32).tobytes()
    longer.raw_input_contents[0] = bytes(24 - len(inner)) + inner  # ends like a request, with raw_input_contents
    bare = pb.ModelInferRequest()
    bare.CopyFrom(sent)
    bare.ClearField("raw_input_contents")
    contents = pb.ModelInferRequest(raw_input_contents=sent.raw_input_contents).SerializeToString()
    typed_ = pb.ModelInferRequest.FromString(bare.SerializeToString())
    typed_.inputs[0].contents.fp32_contents.extend([5, 6])
    messages = [
        (sent.SerializeToString(), [[2]]),
        (contents + bare.SerializeToString(), [[2]]),
        (sent.SerializeToString() + b"\xf8\x07\x01", [[2]]),
        (
            longer.SerializeToString(),
            np.frombuffer(longer.raw_input_contents[0], "<f4").reshape(3, 2).sum(1, keepdims=True),
        ),
        (typed_.SerializeToString(), [[11]]),
    ]
    for _ in range(3):
        for message, expected in messages:
            np.testing.assert_array_equal(outputs(infer_bytes(live, message))["total"], expected)


@OVER_GRPC
def test_a_head_that_promises_more_contents_than_follow_is_refused(live: LiveServer) -> None:
    """Complete messages with the same head or size come first. The server must not read bytes outside the message."""
    small, large = (
        request("classifier", image=np.zeros((count, 28, 28), np.uint8)).SerializeToString() for count in (2, 16)
    )
    head = large[: -16 * 784]
    assert len(small) == len(head) + 2 * 784
    for _ in range(2):
        for whole in (large, small):
            infer_bytes(live, whole)
        code, message = failure(lambda: infer_bytes(live, head + bytes(2 * 784)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert message.startswith("the bytes are not a message that ")
