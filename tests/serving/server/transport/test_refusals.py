"""A table of faulty requests, each with its status over gRPC and over HTTP and with its message.

Faults that only HTTP requests can have are tested in http/, and permissions in security/."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
import structlog.testing

from hangtag.protos import inference_pb2 as pb
from tests.kit.datatypes import FIELDS
from tests.kit.http_forms import HttpError
from tests.kit.live import LiveServer, failure, index, request
from tests.kit.over_http import HTTP, OVER_GRPC
from tests.kit.waiting import TIMEOUT

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
Request = pb.ModelInferRequest
Change = Callable[[Request], object]


def pictures(count: int = 1) -> Request:
    return request("classifier", image=np.zeros((count, 28, 28), np.uint8))


def texts(contents: bytes) -> Request:
    sent = request("text", text=np.array(["a"], np.object_))
    sent.raw_input_contents[0] = contents
    return sent


def refused(live: LiveServer, sent: Request) -> tuple[grpc.StatusCode, str]:
    return failure(lambda: live.inference.ModelInfer(sent, timeout=TIMEOUT))


def changed(change: Change, count: int = 1) -> Request:
    sent = pictures(count)
    change(sent)
    return sent


def field(name: str, value: str) -> Request:
    return changed(lambda sent: setattr(sent.inputs[0], name, value))


def add_input(sent: Request) -> None:
    sent.inputs.add(name="more", datatype="FP32", shape=[1])
    sent.raw_input_contents.append(bytes(4))


def twice(sent: Request) -> None:
    sent.inputs.append(sent.inputs[0])
    sent.raw_input_contents.append(sent.raw_input_contents[0])


def contents(value: bytes) -> Request:
    return changed(lambda sent: sent.raw_input_contents.__setitem__(0, value))


def typed(**values: list[int]) -> Request:
    sent = pictures()
    sent.ClearField("raw_input_contents")
    sent.inputs[0].contents.MergeFrom(pb.InferTensorContents(**values))  # type: ignore[arg-type]
    return sent


def of_every_type(datatype: str, field_name: str, count: int) -> Request:
    """A request with an input of two elements, but with typed contents of ``count`` elements."""
    given: Any = {field_name: [b"" if field_name == "bytes_contents" else 1] * count}
    tensor = Request.InferInputTensor(
        name=f"in_{datatype}", datatype=datatype, shape=[1, 2], contents=pb.InferTensorContents(**given)
    )
    return Request(model_name="every_type", inputs=[tensor])


def shaped(*shape: int, of: int | None = None) -> Request:
    """A request with a picture of this shape. If ``of`` is given, it sets the size of the contents in bytes."""

    def change(sent: Request) -> None:
        sent.inputs[0].shape[:] = shape
        if of is not None:
            sent.raw_input_contents[0] = bytes(of)

    return changed(change)


def outputs(*names: str) -> Request:
    return changed(lambda sent: sent.outputs.extend(Request.InferRequestedOutputTensor(name=name) for name in names))


def parameter(which: str, name: str) -> Request:
    def change(sent: Request) -> None:
        tensor: Any = sent.inputs[0] if which == "input" else sent.outputs.add(name="logits")
        tensor.parameters[name].string_param = "value"

    return changed(change)


@dataclass(frozen=True)
class Refusal:
    sent: Request
    says: str
    """The part of the message that states the fault or what the server expected."""
    code: grpc.StatusCode = INVALID
    status: int | None = 400
    """The status over HTTP, or None if an HTTP request cannot have this fault."""


REFUSALS = {
    "unknown model": Refusal(
        request("nobody", x=index(1)),
        "Request for unknown model: 'nobody' is not served here; served: c",
        NOT_FOUND,
        404,
    ),
    "empty request": Refusal(Request(), "Request for unknown model: '' is not served here", NOT_FOUND, None),
    **{
        f"version {version}": Refusal(
            changed(lambda sent, version=version: setattr(sent, "model_version", version)),  # type: ignore[misc]
            f"version '{version}' of 'classifier' is not served here; served: 12",
            NOT_FOUND,
            404,
        )
        for version in ("1", "012", "latest")
    },
    "no input": Refusal(changed(lambda sent: sent.inputs.pop()), "raw_input_contents for 0 inputs", status=None),
    "no inputs and contents": Refusal(Request(model_name="two_inputs"), "input 'a' is missing; the", status=None),
    "no contents": Refusal(typed(), "needs 784 elements in uint_contents, got 0", status=None),
    "too many contents": Refusal(
        changed(lambda sent: sent.raw_input_contents.append(b"")), "2 raw_input_contents for 1 inputs", status=None
    ),
    "short contents": Refusal(contents(bytes(783)), "needs 784 bytes, got 783"),
    "long contents": Refusal(contents(bytes(785)), "needs 784 bytes, got 785"),
    "unknown input": Refusal(field("name", "picture"), "unknown input 'picture'; the model"),
    "unknown input with a long name": Refusal(field("name", "\U0001f600" * 50_000), "unknown input '\U0001f600"),
    "another input": Refusal(changed(add_input), "unknown input 'more'; the model takes image: UINT8 [any, 28, 28]"),
    "missing input": Refusal(request("two_inputs", a=np.ones((1, 3), np.float32)), "input 'b' is missing; the"),
    "input twice": Refusal(changed(twice), "input 'image' is given twice"),
    "contents twice": Refusal(
        changed(lambda sent: sent.inputs[0].contents.uint_contents.extend([0] * 784)),
        "input 'image' has both contents and raw_input_contents; send one of them",
        status=None,
    ),
    "wrong datatype": Refusal(field("datatype", "INT8"), "is INT8 [1, 28, 28]; the model takes image: UINT8"),
    "no datatype": Refusal(field("datatype", ""), "unknown datatype ''; known: BOOL, UINT8"),
    "out of range": Refusal(typed(uint_contents=[256] * 784), "outside UINT8's range 0 to 255"),
    "typed in the wrong field": Refusal(typed(int_contents=[1] * 784), "got 0 (and some in int_contents)", status=None),
    **{
        f"{count} typed {datatype} in {name}": Refusal(of_every_type(datatype, name, count), says, status=None)
        for datatype, own in FIELDS.items()
        for name, count, says in (
            (own, 1, f"{datatype} [1, 2] needs 2 elements in {own}"),
            ("bool_contents" if own != "bool_contents" else "int_contents", 2, f"needs 2 elements in {own}"),
        )
    },
    "typed FP16": Refusal(of_every_type("FP16", "fp32_contents", 2), "FP16 has no typed contents in the", status=None),
    "negative size": Refusal(shaped(-1, 28, 28), "shape [-1, 28, 28] has a negative size"),
    "overflowing size": Refusal(shaped(2**32, 2**32, 1), "needs 18446744073709551616 bytes"),
    "too many axes": Refusal(shaped(*[1] * 50_000), "50000 axes; at most 32"),
    "wrong rank": Refusal(shaped(784), "is UINT8 [784]; the model takes image: UINT8 [any, 28, 28]"),
    "wrong size": Refusal(shaped(1, 56, 14), "is UINT8 [1, 56, 14]; the model takes"),
    "no samples": Refusal(shaped(0, 28, 28, of=0), "a request has at least 1 sample"),
    "too many samples": Refusal(pictures(17), "17 samples in one request; the model takes at"),
    "batch sizes that differ": Refusal(
        request("two_inputs", a=np.zeros((2, 3), np.float32), b=np.zeros((1, 3), np.int64)),
        "the inputs' batch sizes differ: a 2, b 1",
    ),
    "unknown output": Refusal(outputs("logits", "mood"), "unknown output 'mood'; the model gives logits: FP32 [any,"),
    "output twice": Refusal(outputs("logits", "logits"), "an output is requested twice"),
    "classes": Refusal(parameter("output", "classification"), "'logits': the parameter 'classification' is not supp"),
    "input in shared memory": Refusal(
        parameter("input", "shared_memory_region"), "'image': the parameter 'shared_memory_region' is not supported"
    ),
    "output in shared memory": Refusal(
        parameter("output", "shared_memory_region"), "'logits': the parameter 'shared_memory_region' is not supported"
    ),
    **{
        f"timeout of {timeout}": Refusal(
            changed(lambda sent, timeout=timeout: setattr(sent.parameters["timeout"], "int64_param", timeout)),  # type: ignore[misc]
            f"must be an int64 of microseconds above 0, not {timeout}",
        )
        for timeout in (0, -5)
    },
    "texts without a length": Refusal(texts(b"\3\0\0"), "input 'text': "),
    "a text without its end": Refusal(texts(b"\4\0\0\0abc"), "input 'text': "),
    "bytes after the texts": Refusal(texts(b"\1\0\0\0abc"), "input 'text': "),
    "no UTF-8": Refusal(texts(b"\2\0\0\0\xff\xfe"), "input 'text': 'utf-8' codec can't decode byte 0xff"),
    # The model's signature or network does not allow empty axes here. An LSTM with empty axes would crash the process.
    "empty batch": Refusal(request("free_axis", x=np.ones((0, 5), np.float32)), "the first axis is the batch, and a"),
    "empty fixed axis": Refusal(request("unbatched", x=np.ones(0, np.float32)), "the model takes x: FP32 [4]"),
    **{
        f"empty LSTM {shape}": Refusal(
            request("recurrent", x=np.zeros(shape, np.float32)), "every size must be at least 1: ONNX Runtime can end"
        )
        for shape in ((0, 1, 3), (4, 0, 3), (0, 0, 3))
    },
}


@pytest.mark.parametrize("name", [name for name, case in REFUSALS.items() if case.status is not None])
def test_a_request_that_does_not_fit_is_refused_with_what_was_expected(
    live: LiveServer, transport: str, name: str
) -> None:
    raised = require_refusal(live, REFUSALS[name])
    if transport == HTTP:
        assert isinstance(raised, HttpError)
        assert raised.status == REFUSALS[name].status
    else:
        assert raised.code() is REFUSALS[name].code


@OVER_GRPC
@pytest.mark.parametrize("name", [name for name, case in REFUSALS.items() if case.status is None])
def test_so_is_a_message_that_http_has_nothing_like(live: LiveServer, name: str) -> None:
    assert require_refusal(live, REFUSALS[name]).code() is REFUSALS[name].code


def require_refusal(live: LiveServer, case: Refusal) -> Any:
    """Require that a faulty request is refused as expected and neither queued nor computed. Return the error."""
    model = case.sent.model_name
    before = live.statistics(model) if model in ("classifier", "text") else None
    with pytest.raises(grpc.RpcError) as raised:
        live.inference.ModelInfer(case.sent, timeout=TIMEOUT)
    error: Any = raised.value
    assert case.says in str(error.details())
    if before is not None:
        after = live.statistics(model)
        assert after.inference_stats.fail.count == before.inference_stats.fail.count + (case.code is INVALID)
        after.inference_stats.fail.CopyFrom(before.inference_stats.fail)
        assert after == before
    return error


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig", "ModelStatistics"])
def test_a_model_or_version_that_is_not_served_has_no_description(live: LiveServer, method: str) -> None:
    call, message = getattr(live.inference, method), getattr(pb, f"{method}Request")
    code, text = failure(lambda: call(message(name="nobody"), timeout=TIMEOUT))
    assert code is NOT_FOUND
    assert text.startswith("Request for unknown model: 'nobody' is not served here; served: classifier, every_scalar")
    code, text = failure(lambda: call(message(name="classifier", version="1"), timeout=TIMEOUT))
    assert (code, text) == (NOT_FOUND, "version '1' of 'classifier' is not served here; served: 12")


@OVER_GRPC
@pytest.mark.parametrize(
    "method",
    [
        "/inference.GRPCInferenceService/ModelInfer",
        "/hangtag.v1.Classifier/Classify",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ],
)
def test_undecodable_bytes_are_the_callers_error(live: LiveServer, method: str) -> None:
    call: Callable[..., Iterator[bytes]] = live.channel.unary_stream(method)
    code, message = failure(lambda: list(call(b"\xff\xff\xff", timeout=TIMEOUT)))
    assert code is INVALID
    assert message.startswith(f"the bytes are not a message that {method} takes")


@OVER_GRPC
def test_an_unknown_method_is_unimplemented(live: LiveServer) -> None:
    call: Callable[..., object] = live.channel.unary_unary("/inference.GRPCInferenceService/Predict")
    assert failure(lambda: call(b"", timeout=TIMEOUT))[0] is grpc.StatusCode.UNIMPLEMENTED


def test_a_model_that_fails_is_the_servers_fault_and_serves_on_and_only_that_is_logged(own: LiveServer) -> None:
    sent = request("gather", index=index(3))
    sent.id = "r" * 1_000
    with structlog.testing.capture_logs() as log:
        with own.gates.failing("gather"):
            code, message = refused(own, sent)
        refused(own, request("gather", index=index(99)))
        refused(own, request("gather", wrong=index(1)))
        refused(own, request("nobody", index=index(1)))
    assert code is grpc.StatusCode.INTERNAL
    assert message.startswith("ONNX Runtime failed: ")
    assert own.infer(sent)["value"].tolist() == [30]
    failed = [line for line in log if line["event"] == "request failed"]
    assert [(line["model"], line["request_id"]) for line in failed] == [("gather", "r" * 128)]  # shortened
    assert {line["event"] for line in log} == {"request failed", "batch failed"}
