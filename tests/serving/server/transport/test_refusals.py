"""Every error of the status table, provoked on a real server, with its message."""

from collections.abc import Callable

import grpc
import numpy as np
import pytest
import structlog.testing

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving.server import errors
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.transport.status import STATUS
from tests.kit.live import TIMEOUT, LiveServer, failure, index, request
from tests.kit.over_http import EVERY_TRANSPORT

pytestmark = pytest.mark.slow

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
Request = pb.ModelInferRequest
Change = Callable[[Request], object]


def pictures(count: int = 1) -> Request:
    return request("classifier", image=np.zeros((count, 28, 28), np.uint8))


def refused(live: LiveServer, sent: Request) -> tuple[grpc.StatusCode, str]:
    return failure(lambda: live.inference.ModelInfer(sent, timeout=TIMEOUT))


@pytest.mark.parametrize("base", STATUS, ids=lambda error: error.__name__)
def test_a_subclass_of_an_error_has_its_parents_status(
    live: LiveServer, monkeypatch: pytest.MonkeyPatch, base: type[errors.ServerError]
) -> None:
    class Special(base):  # type: ignore[valid-type,misc]
        pass

    def model(_name: str, _version: str = "") -> ServedModel:
        raise Special("a special case")

    monkeypatch.setattr(live.server._engine, "model", model)
    sent = request("gather", index=index(1))
    assert refused(live, sent) == (STATUS[base], "a special case")
    (answer,) = live.inference.ModelStreamInfer(iter([sent]), timeout=TIMEOUT)
    status = answer.infer_response.parameters["status"].string_param
    assert (answer.error_message, status) == ("a special case", STATUS[base].name)


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig", "ModelStatistics", "ModelInfer"])
def test_an_unknown_model_or_version_is_not_found(live: LiveServer, method: str) -> None:
    call = getattr(live.inference, method)
    model, version = ("model_name", "model_version") if method == "ModelInfer" else ("name", "version")
    ask: Callable[..., object] = getattr(pb, f"{method}Request")
    code, message = failure(lambda: call(ask(**{model: "nobody"})))
    assert code is NOT_FOUND
    assert message.startswith("no model 'nobody' is served here; served: classifier, every_scalar")
    code, message = failure(lambda: call(ask(**{model: "classifier", version: "1"})))
    assert code is NOT_FOUND
    assert message == "version '1' of 'classifier' is not served here; served: 12"
    for version_ in ("012", "latest", "-1", "../12"):
        assert failure(lambda v=version_: call(ask(**{model: "classifier", version: v})))[0] is NOT_FOUND  # type: ignore[misc]


def add_input(sent: Request) -> None:
    sent.inputs.add(name="more", datatype="FP32", shape=[1])
    sent.raw_input_contents.append(bytes(4))


def twice(sent: Request) -> None:
    sent.inputs.append(sent.inputs[0])
    sent.raw_input_contents.append(sent.raw_input_contents[0])


def typed_as_well(sent: Request) -> None:
    sent.inputs[0].contents.uint_contents.extend([0] * 784)


def typed_only(**contents: list[int]) -> Change:
    def change(sent: Request) -> None:
        sent.ClearField("raw_input_contents")
        sent.inputs[0].contents.MergeFrom(pb.InferTensorContents(**contents))  # type: ignore[arg-type]

    return change


def shaped(*shape: int, contents: bytes | None = None) -> Change:
    def change(sent: Request) -> None:
        sent.inputs[0].shape[:] = shape
        if contents is not None:
            sent.raw_input_contents[0] = contents

    return change


def outputs(*names: str) -> Change:
    return lambda sent: sent.outputs.extend(Request.InferRequestedOutputTensor(name=name) for name in names)


def classes(sent: Request) -> None:
    sent.outputs.add(name="logits").parameters["classification"].int64_param = 3


def shared(which: str) -> Change:
    def change(sent: Request) -> None:
        tensor = sent.inputs[0] if which == "inputs" else sent.outputs.add(name="logits")
        tensor.parameters["shared_memory_region"].string_param = "region"
        if which == "inputs":
            sent.raw_input_contents.pop()

    return change


MALFORMED: dict[str, tuple[Change, str]] = {
    "no input": (lambda sent: sent.inputs.pop() and sent.raw_input_contents.pop(), "input 'image' is missing; the"),
    "no contents": (lambda sent: sent.raw_input_contents.pop(), "needs 784 elements in uint_contents, got 0"),
    "too many contents": (lambda sent: sent.raw_input_contents.append(b""), "2 raw_input_contents for 1 inputs"),
    "short contents": (lambda sent: sent.raw_input_contents.__setitem__(0, bytes(783)), "needs 784 bytes, got 783"),
    "long contents": (lambda sent: sent.raw_input_contents.__setitem__(0, bytes(785)), "needs 784 bytes, got 785"),
    "unknown input": (lambda sent: setattr(sent.inputs[0], "name", "picture"), "unknown input 'picture'; the model"),
    "another input": (add_input, "unknown input 'more'; the model takes image: UINT8 [any, 28, 28]"),
    "input twice": (twice, "input 'image' is given twice"),
    "contents twice": (typed_as_well, "input 'image' has both contents and raw_input_contents; send one of them"),
    "wrong datatype": (
        lambda sent: setattr(sent.inputs[0], "datatype", "INT8"),
        "is INT8; the model takes image: UINT8",
    ),
    "no datatype": (lambda sent: setattr(sent.inputs[0], "datatype", ""), "unknown datatype ''; known: BOOL, UINT8"),
    "typed out of range": (typed_only(uint_contents=[256] * 784), "outside UINT8's range 0 to 255"),
    "typed in the wrong field": (typed_only(int_contents=[1] * 784), "got 0 (and some in int_contents)"),
    "negative size": (shaped(-1, 28, 28), "shape [-1, 28, 28] has a negative size"),
    "overflowing size": (shaped(2**32, 2**32, 1), "needs 18446744073709551616 bytes"),
    "wrong rank": (shaped(784), "has shape [784]; the model takes image: UINT8 [any, 28, 28]"),
    "wrong size": (shaped(1, 56, 14), "has shape [1, 56, 14]; the model takes"),
    "no samples": (shaped(0, 28, 28, contents=b""), "a request has at least 1 sample"),
    "too many samples": (shaped(17, 28, 28, contents=bytes(17 * 784)), "17 samples in one request; the model takes at"),
    "unknown output": (outputs("logits", "mood"), "unknown output 'mood'; the model gives logits: FP32 [any, 10]"),
    "output twice": (outputs("logits", "logits"), "an output is requested twice"),
    "classes": (classes, "'logits': the parameter 'classification' is not supported; ask for the output itself"),
    "input in shared memory": (shared("inputs"), "'image': the parameter 'shared_memory_region' is not supported"),
    "output in shared memory": (shared("outputs"), "'logits': the parameter 'shared_memory_region' is not supported"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_refused_with_what_was_expected(live: LiveServer, name: str) -> None:
    change, expected = MALFORMED[name]
    sent = pictures()
    change(sent)
    before = live.statistics("classifier")
    code, message = refused(live, sent)
    assert code is INVALID
    assert expected in message
    after = live.statistics("classifier")
    after.inference_stats.fail.CopyFrom(before.inference_stats.fail)
    assert after == before  # nothing was queued, nothing computed


def test_an_empty_request_is_refused(live: LiveServer) -> None:
    assert refused(live, Request())[0] is NOT_FOUND
    assert refused(live, Request(model_name="classifier"))[0] is INVALID


@pytest.mark.parametrize("shape", [(0, 1, 3), (1, 0, 3), (0, 0, 3)])
def test_nothing_of_size_0_reaches_a_network_that_would_abort_the_process(
    live: LiveServer, shape: tuple[int, ...]
) -> None:
    code, message = refused(live, request("recurrent", x=np.zeros(shape, np.float32)))
    assert code is INVALID
    assert "every size must be at least 1" in message
    assert live.infer(request("recurrent", x=np.zeros((2, 1, 3), np.float32)))["y"].shape == (2, 1, 1, 2)


@EVERY_TRANSPORT
def test_a_batch_of_0_for_the_shipped_model_is_refused_and_the_process_lives(live: LiveServer) -> None:
    assert refused(live, request("lstm", image=np.zeros((0, 28, 28), np.uint8)))[0] is INVALID
    assert live.infer(request("lstm", image=np.zeros((1, 28, 28), np.uint8)))["logits"].shape == (1, 10)


def test_text_that_is_not_utf8_is_refused(live: LiveServer) -> None:
    code, message = refused(live, request("text", text=np.array([b"\xff\xfe"], np.object_)))
    assert code is INVALID
    assert message.startswith("input 'text': 'utf-8' codec can't decode byte 0xff")


def test_inputs_of_different_batch_sizes_are_refused(live: LiveServer) -> None:
    sent = request("two_inputs", a=np.zeros((2, 3), np.float32), b=np.zeros((1, 3), np.int64))
    assert refused(live, sent) == (INVALID, "the inputs' batch sizes differ: a 2, b 1")


@pytest.mark.parametrize(
    "method",
    ["/inference.GRPCInferenceService/ModelInfer", "/hangtag.v1.Classifier/Classify", "/grpc.health.v1.Health/Check"],
)
def test_undecodable_bytes_are_the_callers_error(live: LiveServer, method: str) -> None:
    call: Callable[..., object] = live.channel.unary_unary(method)
    code, message = failure(lambda: call(b"\xff\xff\xff", timeout=TIMEOUT))
    assert code is INVALID
    assert message.startswith(f"the bytes are not a message that {method} takes")


def test_a_head_that_promises_more_contents_than_follow_is_refused(live: LiveServer) -> None:
    """Also where the server knows this head, and messages of this size: it must read no memory before the message."""
    small, large = (pictures(count).SerializeToString() for count in (2, 16))
    head = large[: -16 * 784]
    assert len(small) == len(head) + 2 * 784
    call: Callable[..., object] = live.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    for _ in range(2):
        for whole in (large, small):
            call(whole, timeout=TIMEOUT)
        code, message = failure(lambda: call(head + bytes(2 * 784), timeout=TIMEOUT))
        assert code is INVALID
        assert message.startswith("the bytes are not a message that ")


def test_an_unknown_method_is_unimplemented(live: LiveServer) -> None:
    call: Callable[..., object] = live.channel.unary_unary("/inference.GRPCInferenceService/Predict")
    assert failure(lambda: call(b"", timeout=TIMEOUT))[0] is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("name", ["m" * 100_000, "é" * 100_000, "\U0001f600" * 50_000, "%\n" * 50_000])
def test_a_message_that_quotes_the_caller_stays_short_enough_to_travel(live: LiveServer, name: str) -> None:
    code, message = refused(live, Request(model_name=name))
    assert code is NOT_FOUND
    assert message.startswith("no model '")
    sent = pictures()
    sent.inputs[0].name = name
    assert refused(live, sent)[0] is INVALID
    sent = pictures()
    sent.inputs[0].shape[:] = [1] * 50_000
    assert refused(live, sent)[0] is INVALID


def test_a_message_that_is_too_large_is_refused(live: LiveServer) -> None:
    code, _ = refused(live, Request(model_name="classifier", raw_input_contents=[bytes(17 * 1024 * 1024)]))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


@EVERY_TRANSPORT
def test_a_model_that_fails_on_a_request_serves_on(live: LiveServer) -> None:
    code, message = refused(live, request("gather", index=index(99)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith("ONNX Runtime refuses the values in the request: ")
    with live.broken("gather"):
        code, message = refused(live, request("gather", index=index(3)))
    assert code is grpc.StatusCode.INTERNAL
    assert message.startswith("ONNX Runtime failed: ")
    assert live.infer(request("gather", index=index(3)))["value"].tolist() == [30]


@EVERY_TRANSPORT
def test_a_failed_request_is_logged_with_its_id_and_a_bad_one_is_not(own: LiveServer) -> None:
    sent = request("gather", index=index(1))
    with structlog.testing.capture_logs() as log:
        with own.broken("gather"):
            sent.id = "mine"
            refused(own, sent)
        refused(own, request("gather", index=index(99)))
        refused(own, request("gather", wrong=index(1)))
        refused(own, request("nobody", index=index(1)))
    failed = [line for line in log if line["event"] == "request failed"]
    assert [(line["model"], line["request_id"]) for line in failed] == [("gather", "mine")]
    assert {line["event"] for line in log} == {"request failed", "batch failed"}


@EVERY_TRANSPORT
def test_joined_requests_never_get_rows_that_are_not_theirs(own_whole: LiveServer) -> None:
    alone = own_whole.infer(request("not_a_batch_axis", x=np.array([1, 2], np.float32)))["y"]
    assert alone.tolist() == [1, 2, 1, 2]
    with own_whole.gate("not_a_batch_axis") as gate:
        calls = []
        for value in range(3):
            sent = request("not_a_batch_axis", x=np.array([value], np.float32))
            calls.append(own_whole.inference.ModelInfer.future(sent, timeout=TIMEOUT))
            gate.wait_until_queued()
            if value == 0:
                gate.wait_until_computing()
        gate.open()
        answers = [tensors.from_raw("FP32", (2,), call.result().raw_output_contents[0]).tolist() for call in calls]
        assert answers == [[value, value] for value in range(3)]  # the second and the third, once more, each alone
