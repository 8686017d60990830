"""Inference over HTTP: JSON and binary tensors, with the answers that gRPC gives."""

import gzip
import json
import math
import zlib
from typing import Any

import numpy as np
import pytest

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from tests.kit.datatypes import VALUES, raw
from tests.kit.live import LiveServer, request
from tests.kit.rest import HEAD_LENGTH, Rest, as_http, tensor

pytestmark = pytest.mark.slow

IN_JSON = {
    datatype: [value for value in values if not (isinstance(value, float) and math.isinf(value))] * 2
    for datatype, values in VALUES.items()
    if datatype not in ("FP16", "BYTES")
}


def images(count: int) -> Any:
    return np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)


@pytest.mark.parametrize("model", ["classifier", "lstm"])
def test_http_gives_the_bits_that_grpc_gives(served: LiveServer, rest: Rest, model: str) -> None:
    sent = request(model, image=images(5))
    by_grpc = served.inference.ModelInfer(sent)
    answer = rest.infer(sent)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert [array.tobytes() for array in answer.outputs.values()] == list(by_grpc.raw_output_contents)
    assert list(answer.outputs) == [output.name for output in by_grpc.outputs]
    in_json = rest.infer_json(model, tensor("image", "UINT8", [5, 28, 28], images(5).tolist()))
    assert in_json.headers["content-type"] == "application/json"
    assert [array.tobytes() for array in in_json.outputs.values()] == list(by_grpc.raw_output_contents)


def test_every_datatype_goes_and_comes_as_binary_data(rest: Rest) -> None:
    pairs = [raw(datatype, values) for datatype, values in VALUES.items()]
    sent = pb.ModelInferRequest(
        model_name="every_type",
        inputs=[tensor for tensor, _ in pairs],
        raw_input_contents=[contents for _, contents in pairs],
    )
    answer = rest.infer(sent).outputs
    assert {name.removeprefix("out_"): array.ravel().tolist() for name, array in answer.items()} == VALUES


def test_every_datatype_but_fp16_goes_and_comes_as_json(rest: Rest) -> None:
    fp16, contents = raw("FP16", VALUES["FP16"])
    texts = ["", "å\0b"]
    inputs: list[dict[str, Any]] = [
        tensor(f"in_{datatype}", datatype, [1, 2], values[:2]) for datatype, values in IN_JSON.items()
    ]
    inputs.append(tensor("in_BYTES", "BYTES", [1, 2], texts))
    inputs.append({"name": fp16.name, "datatype": "FP16", "shape": [1, 2], "parameters": {"binary_data_size": 4}})
    head = json.dumps(
        {
            "inputs": inputs,
            "outputs": [
                *({"name": f"out_{datatype}"} for datatype in (*IN_JSON, "BYTES")),
                {"name": "out_FP16", "parameters": {"binary_data": True}},
            ],
        }
    ).encode()
    answer = rest.post("/v2/models/every_type/infer", head + contents, **{HEAD_LENGTH: str(len(head))})
    received = {name.removeprefix("out_"): array.ravel().tolist() for name, array in answer.outputs.items()}
    assert received == {**{datatype: values[:2] for datatype, values in IN_JSON.items()}, "BYTES": texts} | {
        "FP16": VALUES["FP16"]
    }
    assert [("data" in output) for output in answer.json["outputs"]] == [*[True] * (len(IN_JSON) + 1), False]


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]])
def test_values_may_be_flat_or_nested(rest: Rest, data: list[Any]) -> None:
    answer = rest.infer_json("free_axis", tensor("x", "FP32", [2, 3], data))
    assert answer.outputs["total"].tolist() == [[6], [15]]


def test_who_answered_is_in_the_answer_and_in_its_headers(rest: Rest) -> None:
    sent = request("classifier", image=images(3))
    sent.id, sent.model_version = "my own", "12"
    answer = rest.infer(sent)
    assert [answer.json[key] for key in ("model_name", "model_version", "id")] == ["classifier", "12", "my own"]
    assert (answer.headers["hangtag-model"], answer.headers["hangtag-model-version"]) == ("classifier", "12")
    assert answer.headers["hangtag-batch-size"] == "3"
    assert int(answer.headers["hangtag-compute-ns"]) > 0
    timing = dict(part.strip().split(";dur=") for part in answer.headers["server-timing"].split(","))
    assert set(timing) == {"queue", "compute"}
    assert float(timing["compute"]) == pytest.approx(int(answer.headers["hangtag-compute-ns"]) / 1e6, abs=1e-3)


def test_only_the_requested_outputs_are_returned_in_their_order(rest: Rest) -> None:
    sent = request("two_inputs", a=np.ones((1, 3), np.float32), b=np.ones((1, 3), np.int64))
    for names in (["double"], ["double", "sum"], ["sum", "double"]):
        del sent.outputs[:]
        sent.outputs.extend(pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in names)
        assert list(rest.infer(sent).outputs) == names


def test_keys_that_the_protocol_does_not_know_are_ignored(rest: Rest) -> None:
    sent = tensor("x", "FP32", [1, 1], [7]) | {"parameters": {"colour": "red"}, "more": [1]}
    answer = rest.infer_json("free_axis", sent, model_name="another", parameters={"priority": 1}, more=None)
    assert answer.outputs["total"].tolist() == [[7]]


def test_a_body_without_json_is_the_one_tensor(served: LiveServer, rest: Rest) -> None:
    sent = request("classifier", image=images(2))
    by_grpc = served.inference.ModelInfer(sent)
    answer = rest.post("/v2/models/classifier/infer", images(2).tobytes(), **{HEAD_LENGTH: "0"})
    assert [array.tobytes() for array in answer.outputs.values()] == list(by_grpc.raw_output_contents)
    text = rest.post("/v2/models/text/infer", "grön", **{HEAD_LENGTH: "0"})
    assert text.outputs["shouted"].tolist() == ["grön!".encode()]
    free = rest.post("/v2/models/free_axis/infer", np.ones(9, np.float32).tobytes(), **{HEAD_LENGTH: "0"})
    assert free.outputs["total"].tolist() == [[9]]


def test_an_empty_axis_is_a_legal_size(rest: Rest) -> None:
    assert rest.infer_json("free_axis", tensor("x", "FP32", [2, 0], [])).outputs["total"].tolist() == [[0], [0]]


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_requests_and_answers_may_be_compressed(rest: Rest, encoding: str, compress: Any) -> None:
    path, body, headers = as_http(request("free_axis", x=np.ones((16, 2000), np.float32)))
    answer = rest.post(path, compress(body), **headers, content_encoding=encoding)
    assert answer.outputs["total"].tolist() == [[2000]] * 16
    assert "content-encoding" not in answer.headers  # nobody asked
    doubled = request("two_inputs", a=np.ones((16, 3), np.float32), b=np.ones((16, 3), np.int64))
    answer = rest.infer(doubled, accept_encoding=f"br, {encoding};q=0.5")
    assert "content-encoding" not in answer.headers or answer.headers["content-encoding"] == encoding
    image = rest.infer_json("classifier", tensor("image", "UINT8", [16, 28, 28], images(16).ravel().tolist()))
    compressed = rest.ask(
        "POST",
        "/v2/models/classifier/infer",
        json.dumps({"inputs": [tensor("image", "UINT8", [16, 28, 28], images(16).ravel().tolist())]}),
        {"accept-encoding": encoding},
    )
    assert compressed.headers["content-encoding"] == encoding
    unpacked = gzip.decompress(compressed.body) if encoding == "gzip" else zlib.decompress(compressed.body)
    assert json.loads(unpacked)["outputs"] == image.json["outputs"]


def test_an_answer_is_not_compressed_for_a_client_that_refuses_it(rest: Rest) -> None:
    body = {"inputs": [tensor("image", "UINT8", [16, 28, 28], images(16).ravel().tolist())]}
    answer = rest.post("/v2/models/classifier/infer", json.dumps(body), accept_encoding="gzip;q=0, deflate; q=0")
    assert "content-encoding" not in answer.headers
    assert answer.outputs["logits"].shape == (16, 10)


def test_a_body_may_come_in_chunks(rest: Rest) -> None:
    body = json.dumps({"inputs": [tensor("x", "FP32", [1, 2], [3, 4])]}).encode()
    answer = rest.ask("POST", "/v2/models/free_axis/infer", iter([body[:9], body[9:]]), {})
    assert answer.outputs["total"].tolist() == [[7]]


def test_numbers_keep_their_precision_in_json(rest: Rest) -> None:
    value = np.float32(0.1)
    answer = rest.infer_json("free_axis", tensor("x", "FP32", [1, 1], [float(value)]))
    assert answer.json["outputs"][0]["data"] == [float(value)]
    assert tensors.DTYPES["FP32"].type(answer.json["outputs"][0]["data"][0]) == value
