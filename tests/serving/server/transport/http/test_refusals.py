"""Bad requests over HTTP: each has its status and a sentence that says what to do: gRPC's, where it has one."""

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server import errors
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.transport.http.status import STATUS
from tests.kit.live import LiveServer, failure, index, request
from tests.kit.rest import HEAD_LENGTH, Rest, as_http, tensor

pytestmark = pytest.mark.slow

MIB = 1 << 20
X = tensor("x", "FP32", [1, 1], [1])
WRITTEN = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [%s]}]}'
GRPC_WORDS = re.compile(r"(?i:grpc|metadata|contents)|ModelInfer|Classify\b|RESOURCE_EXHAUSTED|`")
"""What only callers over gRPC know."""
BINARY_X = {"name": "x", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": 4}}


@pytest.mark.parametrize("base", STATUS, ids=lambda error: error.__name__)
def test_a_subclass_of_an_error_has_its_parents_status(
    served: LiveServer, rest: Rest, monkeypatch: pytest.MonkeyPatch, base: type[errors.ServerError]
) -> None:
    class Special(base):  # type: ignore[valid-type,misc]
        pass

    def model(_name: str, _version: str = "") -> ServedModel:
        raise Special("a special case")

    monkeypatch.setattr(served.server._engine, "model", model)
    for answer in (rest.infer(request("gather", index=index(1))), rest.get("/v2/models/gather")):
        assert (answer.status, answer.error) == (STATUS[base], "a special case")
        assert answer.headers.get("retry-after") == ("1" if answer.status in (429, 503) else None)
        assert ("www-authenticate" in answer.headers) == (answer.status == 401)


def test_a_bug_is_status_500_with_a_reference_to_the_log(
    served: LiveServer, rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def model(_name: str, _version: str = "") -> ServedModel:
        raise LookupError("a secret")

    monkeypatch.setattr(served.server._engine, "model", model)
    answer = rest.get("/v2/models/gather")
    assert (answer.status, answer.error[:26]) == (500, "an error inside the server")
    assert "secret" not in answer.error


def picture(count: int = 1) -> pb.ModelInferRequest:
    return request("classifier", image=np.zeros((count, 28, 28), np.uint8))


def changed(change: Callable[[pb.ModelInferRequest], object]) -> pb.ModelInferRequest:
    sent = picture()
    change(sent)
    return sent


def text(contents: bytes) -> pb.ModelInferRequest:
    sent = request("text", text=np.array(["a"], np.object_))
    sent.raw_input_contents[0] = contents
    return sent


SAME_AS_GRPC = {
    "unknown model": changed(lambda sent: setattr(sent, "model_name", "nobody")),
    "unknown version": changed(lambda sent: setattr(sent, "model_version", "3")),
    "unknown input": changed(lambda sent: setattr(sent.inputs[0], "name", "picture")),
    "wrong datatype": changed(lambda sent: setattr(sent.inputs[0], "datatype", "INT8")),
    "no datatype": changed(lambda sent: setattr(sent.inputs[0], "datatype", "")),
    "wrong shape": changed(lambda sent: sent.inputs[0].shape.__setitem__(slice(None), [1, 784])),
    "negative size": changed(lambda sent: sent.inputs[0].shape.__setitem__(0, -1)),
    "huge size": changed(lambda sent: sent.inputs[0].shape.__setitem__(0, 2**62)),
    "too many axes": changed(lambda sent: sent.inputs[0].shape.extend([1] * 40)),
    "too many samples": picture(17),
    "empty batch": picture(0),
    "unknown output": changed(lambda sent: sent.outputs.add(name="colour")),
    "output twice": changed(lambda sent: [sent.outputs.add(name="logits") for _ in range(2)]),
    "no timeout": changed(lambda sent: sent.parameters["timeout"].__setattr__("int64_param", -5)),
    "values out of range": request("gather", index=index(99)),
    "too few bytes": changed(lambda sent: sent.raw_input_contents.__setitem__(0, bytes(783))),
    "too few bytes of texts": text(b"\3\0\0"),
    "a text without its end": text(b"\4\0\0\0abc"),
    "bytes after the texts": text(b"\1\0\0\0abc"),
}


@pytest.mark.parametrize("sent", SAME_AS_GRPC.values(), ids=SAME_AS_GRPC.keys())
def test_the_sentence_is_grpcs(served: LiveServer, rest: Rest, sent: pb.ModelInferRequest) -> None:
    answer = rest.infer(sent)
    _, sentence = failure(lambda: served.inference.ModelInfer(sent))
    assert answer.status == (404 if sent.model_name == "nobody" or sent.model_version else 400)
    assert answer.error == sentence
    assert not GRPC_WORDS.search(sentence)


MALFORMED: dict[str, tuple[Any, str]] = {
    "no json": (b"image", "the request is not JSON in UTF-8: Expecting value"),
    "nothing": (b"", "the request is not JSON in UTF-8"),
    "no utf-8": (b'{"inputs": "\xff"}', "the request is not JSON in UTF-8"),
    "another encoding": (json.dumps({"inputs": [X]}).encode("utf-16"), "the request is not JSON in UTF-8"),
    "no object": ([1], "the request's JSON must be an object"),
    "no inputs": ({}, "'inputs' must be a list of at least one input"),
    "inputs of another kind": ({"inputs": "x"}, "'inputs' must be a list of objects"),
    "an input of another kind": ({"inputs": [X, 7]}, "'inputs' must be a list of objects"),
    "outputs of another kind": ({"inputs": [X], "outputs": {"a": 1}}, "'outputs' must be a list of objects"),
    "an output without a name": ({"inputs": [X], "outputs": [{}]}, "an output: 'name' must be a text"),
    "no name": ({"inputs": [X | {"name": 7}]}, "an input: 'name' must be a text"),
    "no shape": ({"inputs": [X | {"shape": "1"}]}, "input 'x': 'shape' must be a list of whole numbers"),
    "a size of another kind": ({"inputs": [X | {"shape": [1.0, True]}]}, "'shape' must be a list of whole numbers"),
    "parameters of another kind": ({"inputs": [X], "parameters": [1]}, "the request: 'parameters' must be an object"),
    "an id of another kind": ({"inputs": [X], "id": 7}, "the request: 'id' must be a text"),
    "a timeout of another kind": (
        {"inputs": [X], "parameters": {"timeout": "1"}},
        "'timeout' must be an int64 of micro",
    ),
    "a huge timeout": ({"inputs": [X], "parameters": {"timeout": 2**63}}, "'timeout' must be an int64 of"),
    "a flag of another kind": (
        {"inputs": [X], "parameters": {"binary_data_output": 1}},
        "the parameter 'binary_data_output' must be true or false",
    ),
    "no data": ({"inputs": [{k: v for k, v in X.items() if k != "data"}]}, "input 'x' has neither 'data' nor the"),
    "data of another kind": ({"inputs": [X | {"data": 7}]}, "input 'x': data must be one flat list"),
    "data and size": ({"inputs": [X | BINARY_X]}, "input 'x' has both 'data' and the parameter 'binary_data_size'"),
    "too few values": ({"inputs": [X | {"data": []}]}, "FP32 [1, 1] needs 1 values in data, got 0"),
    "nested otherwise": ({"inputs": [X | {"data": [[1], [2]]}]}, "lists nested as the shape [1, 1] says"),
    "nested too deeply": ({"inputs": [X | {"data": [[[1]]]}]}, "lists nested as the shape [1, 1] says"),
    "a ragged list": (
        {"inputs": [tensor("x", "FP32", [2, 2], [[1, 2], [3]])]},
        "data must be one flat list, or lists nested as the shape [2, 2] says",
    ),
    "texts for numbers": ({"inputs": [X | {"data": ["1"]}]}, "data of FP32 must be numbers"),
    "truth for numbers": ({"inputs": [X | {"data": [True]}]}, "data of FP32 must be numbers"),
    "a huge number": ({"inputs": [X | {"data": [1e39]}]}, "data holds numbers outside FP32's range"),
    "a number beyond every range": (
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1e999]}]}',
        "range",
    ),
    "a huge whole number": ({"inputs": [X | {"data": [10**400]}]}, "data holds values outside FP32's range"),
    "endless digits": (b'{"inputs": [' + b"9" * 10_000 + b"]}", "the request is not JSON in UTF-8"),
    "NaN": (WRITTEN % b"NaN", "JSON has no NaN"),
    "infinity": (
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[-Infinity]}]}',
        "JSON has no -Infinity",
    ),
    "a key twice": (b'{"inputs": [], "inputs": []}', "the JSON has the key 'inputs' twice in one object"),
    "deep nesting": (b'{"inputs": ' + b"[" * 500_000, "the JSON is nested too deeply"),
    "FP16 in JSON": ({"inputs": [X | {"datatype": "FP16"}]}, "FP16 has no values in JSON; send it as binary data"),
    "a size without bytes": ({"inputs": [BINARY_X]}, "'binary_data_size' add up to 4"),
    "a negative size": ({"inputs": [BINARY_X | {"parameters": {"binary_data_size": -1}}]}, "must be a number of bytes"),
    "classification": (
        {"inputs": [X], "outputs": [{"name": "total", "parameters": {"classification": 3}}]},
        "'total': the parameter 'classification' is not supported; ask for the output itself",
    ),
    "shared memory": (
        {"inputs": [X | {"parameters": {"shared_memory_region": "r"}}]},
        "'x': the parameter 'shared_memory_region' is not supported",
    ),
}


@pytest.mark.parametrize(("sent", "sentence"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_request_says_what_is_wrong(rest: Rest, sent: Any, sentence: str) -> None:
    answer = rest.post("/v2/models/free_axis/infer", sent if isinstance(sent, bytes) else json.dumps(sent))
    assert answer.status == 400
    assert sentence in answer.error
    assert rest.infer_json("free_axis", X).status == 200  # on the same connection


@pytest.mark.parametrize(
    ("datatype", "data", "sentence"),
    [
        ("UINT8", [256], "data holds values outside UINT8's range 0 to 255"),
        ("INT64", [2**63], "data holds values outside INT64's range"),
        ("UINT64", [-1], "data holds values outside UINT64's range"),
        ("INT32", [1.5], "data of INT32 must be whole numbers"),
        ("BOOL", [1], "data of BOOL must be true or false"),
        ("BYTES", [1], "data of BYTES must be texts"),
        ("BYTES", ["\ud800"], "surrogates not allowed"),
    ],
)
def test_a_value_outside_its_datatype(rest: Rest, datatype: str, data: list[Any], sentence: str) -> None:
    answer = rest.infer_json("every_type", tensor(f"in_{datatype}", datatype, [1, 1], data))
    assert (answer.status, sentence in answer.error) == (400, True), answer.error


@pytest.mark.parametrize("length", ["-1", "1000000", "+5", "5 ", "0x10", "", "9" * 4000, "1.5"])
def test_a_length_of_the_json_that_cannot_be(rest: Rest, length: str) -> None:
    _, body, _ = as_http(picture())
    answer = rest.post("/v2/models/classifier/infer", body, **{HEAD_LENGTH: length})
    assert answer.status == 400


@pytest.mark.parametrize("change", [-1, 1, -784, 10_000])
def test_lengths_that_do_not_add_up(rest: Rest, change: int) -> None:
    path, body, headers = as_http(picture())
    answer = rest.post(path, body[:change] if change < 0 else body + bytes(change), **headers)
    assert answer.status == 400
    assert "'binary_data_size' add up to 784" in answer.error


@pytest.mark.parametrize(
    ("model", "body", "sentence"),
    [
        ("two_inputs", bytes(12), "a request without JSON has one tensor, and the model takes 2 inputs"),
        ("classifier", bytes(785), "needs 784 bytes, got 785"),
        ("classifier", b"", "the first axis is the batch"),
        ("unbatched", bytes(12), "needs 16 bytes, got 12"),
        ("text", b"\xff", "'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_a_body_without_json_that_does_not_fit(rest: Rest, model: str, body: bytes, sentence: str) -> None:
    answer = rest.post(f"/v2/models/{model}/infer", body, **{HEAD_LENGTH: "0"})
    assert (answer.status, sentence in answer.error) == (400, True), answer.error


def test_an_output_that_json_cannot_hold_says_how_to_get_it(rest: Rest) -> None:
    infinite = request("free_axis", x=np.array([[np.inf]], np.float32))
    path, body, headers = as_http(infinite)
    plain = body.replace(b'"binary_data_output": true', b'"binary_data_output": false')
    headers[HEAD_LENGTH] = str(int(headers[HEAD_LENGTH]) + 1)
    answer = rest.post(path, plain, **headers)
    assert answer.status == 400
    assert "hold infinity or NaN, which JSON does not have. Ask for it as binary data" in answer.error
    assert np.isinf(rest.infer(infinite).outputs["total"]).all()


def test_failures_are_counted_by_their_model(served: LiveServer, rest: Rest) -> None:
    before = served.statistics("classifier").inference_stats.fail.count
    rest.infer(picture(17))
    rest.post("/v2/models/classifier/infer", b"no json")
    assert served.statistics("classifier").inference_stats.fail.count == before + 2
