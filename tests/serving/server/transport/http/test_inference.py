"""Inference over HTTP: values in JSON, binary tensors after the JSON, bodies without JSON, and malformed requests."""

import gzip
import json
import math
import zlib
from typing import Any

import numpy as np
import pytest

from hangtag.protos import tensors
from tests.kit.datatypes import VALUES
from tests.kit.live import LiveServer, request
from tests.kit.rest import HEAD_LENGTH, Rest, as_http, tensor

IN_JSON = {
    datatype: [value for value in values if not (isinstance(value, float) and math.isinf(value))] * 2
    for datatype, values in VALUES.items()
    if datatype not in ("FP16", "BYTES")
}
X = tensor("x", "FP32", [1, 1], [1])
WRITTEN = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [%s]}]}'
BINARY_X = {"name": "x", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": 4}}


def images(count: int) -> Any:
    return np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def test_every_datatype_but_fp16_goes_and_comes_as_json_beside_binary_data(rest: Rest) -> None:
    contents = tensors.to_raw(np.array(VALUES["FP16"], np.float16))
    values = {datatype: values[:2] for datatype, values in IN_JSON.items()} | {"BYTES": ["", "å\0b"]}
    inputs = [tensor(f"in_{datatype}", datatype, [1, 2], data) for datatype, data in values.items()]
    inputs.append({"name": "in_FP16", "datatype": "FP16", "shape": [1, 2], "parameters": {"binary_data_size": 4}})
    outputs: list[dict[str, Any]] = [{"name": f"out_{datatype}"} for datatype in values]
    outputs.append({"name": "out_FP16", "parameters": {"binary_data": True}})
    head = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    answer = rest.post("/v2/models/every_type/infer", head + contents, **{HEAD_LENGTH: str(len(head))})
    received = {name.removeprefix("out_"): array.ravel().tolist() for name, array in answer.outputs.items()}
    assert received == values | {"FP16": VALUES["FP16"]}
    assert ["data" in output for output in answer.json["outputs"]] == [*[True] * len(values), False]


@pytest.mark.parametrize(
    ("shape", "data", "total"),
    [
        ([2, 3], [1, 2, 3, 4, 5, 6], [[6], [15]]),
        ([2, 3], [[1, 2, 3], [4, 5, 6]], [[6], [15]]),
        ([2, 0], [], [[0], [0]]),
    ],
)
def test_values_may_be_flat_or_nested_and_an_axis_empty(
    rest: Rest, shape: list[int], data: list[Any], total: list[list[int]]
) -> None:
    answer = rest.infer_json("free_axis", tensor("x", "FP32", shape, data))
    assert answer.headers["content-type"] == "application/json"
    assert answer.outputs["total"].tolist() == total


def test_who_answered_and_what_it_cost_is_in_the_headers(rest: Rest) -> None:
    answer = rest.infer(request("classifier", image=images(3)))
    assert answer.headers["content-type"] == "application/octet-stream"
    assert (answer.headers["hangtag-model"], answer.headers["hangtag-model-version"]) == ("classifier", "12")
    timing = dict(part.strip().split(";dur=") for part in answer.headers["server-timing"].split(","))
    assert set(timing) == {"queue", "compute"}
    assert float(timing["compute"]) == pytest.approx(int(answer.headers["hangtag-compute-ns"]) / 1e6, abs=1e-3)


def test_keys_that_the_protocol_does_not_know_are_ignored(rest: Rest) -> None:
    sent = tensor("x", "FP32", [1, 1], [7]) | {"parameters": {"colour": "red"}, "more": [1]}
    answer = rest.infer_json("free_axis", sent, model_name="another", parameters={"priority": 1}, more=None)
    assert answer.outputs["total"].tolist() == [[7]]


def test_a_body_without_json_is_the_one_tensor(rest: Rest) -> None:
    described = rest.infer(request("classifier", image=images(2))).outputs
    bare = rest.post("/v2/models/classifier/infer", images(2).tobytes(), **{HEAD_LENGTH: "0"}).outputs
    assert [array.tobytes() for array in bare.values()] == [array.tobytes() for array in described.values()]
    text = rest.post("/v2/models/text/infer", "grön", **{HEAD_LENGTH: "0"})
    assert text.outputs["shouted"].tolist() == ["grön!".encode()]
    free = rest.post("/v2/models/free_axis/infer", np.ones(9, np.float32).tobytes(), **{HEAD_LENGTH: "0"})
    assert free.outputs["total"].tolist() == [[9]]


LARGE = json.dumps({"inputs": [tensor("image", "UINT8", [16, 28, 28], images(16).ravel().tolist())]})


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_requests_and_answers_may_be_compressed(rest: Rest, encoding: str, compress: Any) -> None:
    path, body, headers = as_http(request("free_axis", x=np.ones((16, 2000), np.float32)))
    answer = rest.post(path, compress(body), **headers, content_encoding=encoding)
    assert answer.outputs["total"].tolist() == [[2000]] * 16
    plain = rest.post("/v2/models/classifier/infer", LARGE)
    for accepted in (encoding, f"br, {encoding};q=0.5"):
        packed = rest.post("/v2/models/classifier/infer", LARGE, accept_encoding=accepted)
        assert packed.headers["content-encoding"] == encoding
        unpacked = gzip.decompress(packed.body) if encoding == "gzip" else zlib.decompress(packed.body)
        assert json.loads(unpacked)["outputs"] == plain.json["outputs"]


@pytest.mark.parametrize(
    ("body", "accepted"),
    [(LARGE, "identity"), (LARGE, "br"), (LARGE, "gzip;q=0, deflate; q=0"), (json.dumps({"inputs": [X]}), "gzip")],
    ids=["not asked", "another", "refused", "too small to gain"],
)
def test_an_answer_that_is_better_not_compressed_is_not(rest: Rest, body: str, accepted: str) -> None:
    model = "classifier" if body is LARGE else "free_axis"
    answer = rest.post(f"/v2/models/{model}/infer", body, accept_encoding=accepted)
    assert "content-encoding" not in answer.headers
    assert len(answer.outputs)


MALFORMED: dict[str, tuple[Any, str]] = {
    "no json": (b"image", "the request is not JSON in UTF-8: Expecting value"),
    "no utf-8": (b'{"inputs": "\xff"}', "the request is not JSON in UTF-8"),
    "another encoding": (json.dumps({"inputs": [X]}).encode("utf-16"), "the request is not JSON in UTF-8"),
    "no object": ([1], "the request's JSON must be an object"),
    "no inputs": ({}, "'inputs' must be a list of at least one input"),
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
    "a flag of another kind": (
        {"inputs": [X], "parameters": {"binary_data_output": 1}},
        "the request: 'binary_data_output' must be true or false",
    ),
    "no data": ({"inputs": [{k: v for k, v in X.items() if k != "data"}]}, "input 'x' has neither 'data' nor the"),
    "data of another kind": ({"inputs": [X | {"data": 7}]}, "input 'x': data must be one flat list"),
    "data and size": ({"inputs": [X | BINARY_X]}, "input 'x' has both 'data' and the parameter 'binary_data_size'"),
    "too few values": ({"inputs": [X | {"data": []}]}, "FP32 [1, 1] needs 1 values in data, got 0"),
    "nested otherwise": ({"inputs": [X | {"data": [[1], [2]]}]}, "lists nested as the shape [1, 1] says"),
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
    "a key twice": (b'{"inputs": [], "inputs": []}', "the JSON has the key 'inputs' twice in one object"),
    "deep nesting": (b'{"inputs": ' + b"[" * 500_000, "the JSON is nested too deeply"),
    "FP16 in JSON": ({"inputs": [X | {"datatype": "FP16"}]}, "FP16 has no values in JSON; send it as binary data"),
    "a size without bytes": ({"inputs": [BINARY_X]}, "'binary_data_size' add up to 4"),
    "a negative size": ({"inputs": [BINARY_X | {"parameters": {"binary_data_size": -1}}]}, "must be a number of bytes"),
}


@pytest.mark.parametrize(("sent", "sentence"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_request_says_what_is_wrong(served: LiveServer, rest: Rest, sent: Any, sentence: str) -> None:
    before = served.statistics("free_axis").inference_stats.fail.count
    answer = rest.post("/v2/models/free_axis/infer", sent if isinstance(sent, bytes) else json.dumps(sent))
    assert answer.status == 400
    assert sentence in answer.error
    assert rest.infer_json("free_axis", X).status == 200  # the connection is still open
    assert served.statistics("free_axis").inference_stats.fail.count == before + 1


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


DESCRIBED = as_http(request("classifier", image=images(1)))[1]
OF_JSON = str(len(DESCRIBED) - 784)


@pytest.mark.parametrize(
    ("model", "body", "length", "sentence"),
    [
        *(
            ("classifier", DESCRIBED, length, "must be the length of the JSON, at most the body's")
            for length in ("-1", "1000000", "+5", "5 ", "0x10", "", "9" * 4000, "1.5")
        ),
        *(
            ("classifier", body, OF_JSON, "'binary_data_size' add up to 784")
            for body in (DESCRIBED[:-1], DESCRIBED[:-784], DESCRIBED + b"\0", DESCRIBED + bytes(10_000))
        ),
        ("two_inputs", bytes(12), "0", "a request without JSON has one tensor, but the model takes 2 inputs"),
        ("classifier", bytes(785), "0", "needs 784 bytes, got 785"),
        ("classifier", b"", "0", "the first axis is the batch"),
        ("unbatched", bytes(12), "0", "needs 16 bytes, got 12"),
        ("text", b"\xff", "0", "'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_lengths_that_do_not_fit(rest: Rest, model: str, body: bytes, length: str, sentence: str) -> None:
    answer = rest.post(f"/v2/models/{model}/infer", body, **{HEAD_LENGTH: length})
    assert (answer.status, sentence in answer.error) == (400, True), answer.error


def test_an_output_that_json_cannot_hold_says_how_to_get_it(rest: Rest) -> None:
    infinite = request("free_axis", x=np.array([[np.inf]], np.float32))
    path, body, headers = as_http(infinite)
    plain = body.replace(b'"binary_data_output": true', b'"binary_data_output": false')
    answer = rest.post(path, plain, **{HEAD_LENGTH: str(int(headers[HEAD_LENGTH]) + 1)})
    assert answer.status == 400
    assert "hold infinity or NaN, which JSON does not have. Ask for the output as binary data" in answer.error
    assert np.isinf(rest.infer(infinite).outputs["total"]).all()
