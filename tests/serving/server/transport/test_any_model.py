"""Models of any kind on the wire: every datatype, scalars, carried state, and which requests share a batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.live import TIMEOUT, LiveServer, failure, outputs, request
from tests.kit.over_http import EVERY_TRANSPORT
from tests.protos.test_tensors import FIELDS
from tests.serving.server.transport.test_wire import VALUES

pytestmark = pytest.mark.slow


def identity(datatype: str, shape: list[int | str], metadata: dict[str, str] | None = None) -> Any:
    """in <datatype> -> out, the same."""
    type_ = onnx_models.TYPES[datatype]
    node = helper.make_node("Identity", ["in"], ["out"])
    return onnx_models.model([node], {"in": (type_, shape)}, {"out": (type_, shape)}, metadata=metadata)


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Models of each datatype, by its name: with a batch axis alone, with none, and with another free axis."""
    models = tmp_path_factory.mktemp("typed")
    for datatype in onnx_models.TYPES:
        onnx_models.publish(models, datatype, identity(datatype, ["batch", 2]))
        onnx_models.publish(models, f"{datatype}_rows", identity(datatype, ["rows", 2]))
        onnx_models.publish(models, f"{datatype}_lengths", identity(datatype, ["batch", "length"]))
    with LiveServer(ServerConfig(models=models, port=0, http_port=-1)) as server:
        yield server


def typed_request(datatype: str, **contents: Any) -> pb.ModelInferRequest:
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="in", datatype=datatype, shape=[1, 2], contents=pb.InferTensorContents(**contents)
    )
    return pb.ModelInferRequest(model_name=datatype, inputs=[tensor])


@pytest.mark.parametrize("datatype", FIELDS)
def test_every_datatype_goes_as_typed_contents(typed: LiveServer, datatype: str) -> None:
    response = typed.inference.ModelInfer(typed_request(datatype, **{FIELDS[datatype]: VALUES[datatype]}))
    assert response.outputs[0].datatype == datatype
    assert outputs(response)["out"].ravel().tolist() == VALUES[datatype]


@pytest.mark.parametrize("datatype", onnx_models.TYPES)
def test_every_datatype_goes_alone_as_raw_contents(typed: LiveServer, datatype: str) -> None:
    array = np.array([VALUES[datatype]] * 3, tensors.DTYPES[datatype])
    sent = request(datatype, **{"in": array})
    assert typed.infer(sent)["out"].tolist() == [VALUES[datatype]] * 3


def test_fp16_has_no_typed_contents(typed: LiveServer) -> None:
    code, message = failure(lambda: typed.inference.ModelInfer(typed_request("FP16", fp32_contents=[1, 2])))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message.endswith("FP16 has no typed contents in the protocol; send it as raw_input_contents")


@pytest.mark.parametrize("datatype", FIELDS)
def test_typed_contents_that_do_not_fit_are_refused(typed: LiveServer, datatype: str) -> None:
    other = "bool_contents" if datatype != "BOOL" else "int_contents"
    for contents in ({FIELDS[datatype]: VALUES[datatype][:1]}, {other: [1, 0]}):
        code, message = failure(lambda sent=contents: typed.inference.ModelInfer(typed_request(datatype, **sent)))  # type: ignore[misc]
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert f"{datatype} [1, 2] needs 2 elements in {FIELDS[datatype]}" in message


@EVERY_TRANSPORT
def test_scalars_of_every_datatype_come_and_go(live: LiveServer) -> None:
    arrays = {name: np.array(values[1], tensors.DTYPES[name]) for name, values in VALUES.items()}
    response = live.inference.ModelInfer(request("every_scalar", **{f"in_{n}": a for n, a in arrays.items()}))
    assert all(list(output.shape) == [] for output in response.outputs)
    assert {name: array.item() for name, array in outputs(response).items()} == {
        f"out_{name}": values[1] for name, values in VALUES.items()
    }


@EVERY_TRANSPORT
def test_carried_state_goes_round(live: LiveServer) -> None:
    """Calls of one and of two streams; each call gets back its own state."""
    for streams in (1, 2):
        state = np.zeros((2, streams, 3), np.float32)
        for step in range(1, 4):
            x = np.full((streams, 3), step, np.float32) * np.arange(1, streams + 1, dtype=np.float32)[:, np.newaxis]
            answer = live.infer(request("state", x=x, state=state, scale=np.array(10, np.int64)))
            np.testing.assert_array_equal(answer["y"], x * 10 + state[0])
            state = answer["next_state"]
        np.testing.assert_array_equal(state[0, 0], [6, 6, 6])


def together(own: LiveServer, name: str, sent: list[pb.ModelInferRequest]) -> tuple[list[Any], list[int]]:
    """Answers to requests that all wait while a first one is computed, and the first axis of each executed batch."""
    with own.gate(name) as gate:
        first = own.inference.ModelInfer.future(sent[0], timeout=TIMEOUT)
        gate.wait_until_queued()
        gate.wait_until_computing()
        waiting = []
        for one in sent[1:]:
            waiting.append(own.inference.ModelInfer.future(one, timeout=TIMEOUT))
            gate.wait_until_queued()
        gate.open()
        return [outputs(call.result()) for call in (first, *waiting)], gate.batch_sizes


@EVERY_TRANSPORT
def test_a_model_with_carried_state_is_never_batched(own_whole: LiveServer) -> None:
    sent = [
        request("state", x=np.full((1, 3), n, np.float32), state=np.zeros((2, 1, 3), np.float32), scale=np.array(n))
        for n in range(4)
    ]
    answers, batches = together(own_whole, "state", sent)
    assert [answer["y"].tolist() for answer in answers] == [[[n * n] * 3] for n in range(4)]
    assert batches == [1, 1, 1, 1]


@EVERY_TRANSPORT
def test_an_lstm_of_length_first_is_never_batched(own_whole: LiveServer) -> None:
    sent = [request("recurrent", x=np.ones((length, 1, 3), np.float32)) for length in (1, 2, 2)]
    answers, batches = together(own_whole, "recurrent", sent)
    assert [answer["y"].shape for answer in answers] == [(1, 1, 1, 2), (2, 1, 1, 2), (2, 1, 1, 2)]
    np.testing.assert_array_equal(answers[1]["y"], answers[2]["y"])
    assert batches == [1, 2, 2]


@EVERY_TRANSPORT
def test_the_operator_can_forbid_batching(own_whole: LiveServer) -> None:
    assert own_whole.inference.ModelConfig(pb.ModelConfigRequest(name="two_inputs")).config.max_batch_size == 0
    sent = [
        request("two_inputs", a=np.full((rows, 3), rows, np.float32), b=np.zeros((rows, 3), np.int64))
        for rows in (1, 1, 2, 99)
    ]
    answers, batches = together(own_whole, "two_inputs", sent)
    assert [len(answer["sum"]) for answer in answers] == batches == [1, 1, 2, 99]


def test_a_model_without_inputs_and_one_whose_answer_may_be_empty(tmp_path: Path) -> None:
    constant = helper.make_node("Identity", ["c"], ["out"])
    five = {"c": np.array(5, np.int64)}
    onnx_models.publish(tmp_path, "five", onnx_models.model([constant], {}, {"out": (TensorProto.INT64, [])}, five))
    places = onnx_models.model(
        [helper.make_node("NonZero", ["x"], ["places"])],
        {"x": (TensorProto.FLOAT, ["batch"])},
        {"places": (TensorProto.INT64, [1, "found"])},
    )
    onnx_models.publish(tmp_path, "places", places)
    with LiveServer(ServerConfig(models=tmp_path, port=0, http_port=-1)) as server:
        assert server.infer(request("five"))["out"].item() == 5
        for values, indices in (([0, 0], []), ([0, 3, 4], [1, 2])):
            assert server.infer(request("places", x=np.array(values, np.float32)))["places"].tolist() == [indices]


@pytest.mark.parametrize("datatype", onnx_models.TYPES)
def test_a_free_axis_may_be_empty(typed: LiveServer, datatype: str) -> None:
    """Where the first axis is not the batch, where another axis is free, as raw and as typed contents."""
    for model, shape in ((f"{datatype}_rows", (0, 2)), (f"{datatype}_lengths", (3, 0))):
        sent = request(model, **{"in": np.zeros(shape, tensors.DTYPES[datatype])})
        assert typed.infer(sent)["out"].shape == shape
        if datatype in FIELDS:
            del sent.raw_input_contents[:]
            assert typed.infer(sent)["out"].shape == shape


@EVERY_TRANSPORT
def test_empty_requests_share_a_batch_with_their_like_alone(own: LiveServer) -> None:
    sent = [request("free_axis", x=np.ones((1, length), np.float32)) for length in (2, 0, 2, 0, 2)]
    answers, batches = together(own, "free_axis", sent)
    assert [answer["total"].tolist() for answer in answers] == [[[2]], [[0]], [[2]], [[0]], [[2]]]
    assert sorted(batches) == [1, 2, 2]


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (
            request("free_axis", x=np.ones((0, 5), np.float32)),
            "the first axis is the batch, and a request has at least 1",
        ),
        (request("unbatched", x=np.ones(0, np.float32)), "the model takes x: FP32 [4]"),
        (request("recurrent", x=np.ones((4, 0, 3), np.float32)), "every size must be at least 1: ONNX Runtime can end"),
        (request("recurrent", x=np.ones((0, 1, 3), np.float32)), "in a model with LSTM"),
        (request("not_a_batch_axis", x=np.ones(0, np.float32)), "the first axis is the batch"),
    ],
    ids=["a batch", "a fixed axis", "an LSTM's batch", "an LSTM's length", "by the operator"],
)
@EVERY_TRANSPORT
def test_other_empty_axes_are_refused_with_what_is_allowed(
    own_whole: LiveServer, sent: pb.ModelInferRequest, message: str
) -> None:
    code, details = failure(lambda: own_whole.inference.ModelInfer(sent))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message in details


def test_an_empty_tensor_that_onnx_runtime_refuses_is_the_callers_fault(tmp_path: Path) -> None:
    largest = helper.make_node("ArgMax", ["x"], ["y"], axis=0)
    model = onnx_models.model([largest], {"x": (TensorProto.FLOAT, ["rows", 2])}, {"y": (TensorProto.INT64, [1, 2])})
    onnx_models.publish(tmp_path, "m", model)
    with LiveServer(ServerConfig(models=tmp_path, port=0, http_port=-1)) as server:
        code, message = failure(lambda: server.infer(request("m", x=np.ones((0, 2), np.float32))))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert message.startswith("ONNX Runtime cannot compute what is in the request")
        assert server.infer(request("m", x=np.ones((3, 2), np.float32)))["y"].tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("make", "limit"),
    [
        (lambda: onnx_models.doubled("unk__1", "unk__2"), 4),
        (lambda: onnx_models.doubled("batch", "Addy_dim_0"), 4),
        (lambda: onnx_models.doubled("rows", "rows"), 0),
        (lambda: onnx_models.doubled("rows", "rows", {"hangtag.batched": "true"}), 4),
        (lambda: onnx_models.doubled("batch", "batch", {"hangtag.batched": "false"}), 0),
    ],
    ids=["symbols of an exporter", "a lost symbol", "a doubt", "proven", "disproved"],
)
def test_the_models_file_decides_about_batching(tmp_path: Path, make: Callable[[], Any], limit: int) -> None:
    onnx_models.publish(tmp_path, "m", make())
    with LiveServer(ServerConfig(models=tmp_path, port=0, http_port=-1, max_batch_size=4, instances=1)) as server:
        config = server.inference.ModelConfig(pb.ModelConfigRequest(name="m")).config
        assert config.max_batch_size == limit
        assert list(config.input[0].dims) == ([2] if limit else [-1, 2])
        sent = [request("m", x=np.full((1, 2), n, np.float32)) for n in range(3)]
        answers, batches = together(server, "m", sent)
        assert [answer["y"].tolist() for answer in answers] == [[[2 * n] * 2] for n in range(3)]
        assert batches == ([1, 2] if limit else [1, 1, 1])


def test_the_server_does_not_start_with_impossible_batching(tmp_path: Path) -> None:
    onnx_models.publish(tmp_path, "m", onnx_models.unbatched())
    with pytest.raises(StartError, match="the operator says that requests may be joined, but they cannot be"):
        Server(ServerConfig(models=tmp_path, port=0, http_port=-1, model_max_batch_size=(("m", 8),))).start()
