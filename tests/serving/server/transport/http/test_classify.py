"""POST /v1/classify: an image in, labels out, by one model or by several."""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format

from hangtag.protos import classifier_pb2 as pb
from tests.kit.live import TIMEOUT, LiveServer, failure
from tests.kit.rest import Answer, Rest

pytestmark = pytest.mark.slow

IMAGE = next((Path(__file__).parents[5] / "examples/garments").glob("*.png")).read_bytes()


def form(rest: Rest, path: str, parts: dict[str, tuple[str, bytes]]) -> Answer:
    """Send a form as curl -F does. parts: by name, what its header says of it, and the content."""
    lines = [
        b'--edge\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (name.encode(), more.encode(), content)
        for name, (more, content) in parts.items()
    ]
    return rest.post(path, b"".join(lines) + b"--edge--\r\n", content_type="multipart/form-data; boundary=edge")


def without_times(answer: Any) -> Any:
    return {key: value for key, value in answer.items() if key != "timings"}


def test_the_answer_is_grpcs(served: LiveServer, rest: Rest) -> None:
    sent = pb.ClassifyRequest(model_name="lstm", encoded=IMAGE, top_k=4)
    by_grpc = served.classifier.Classify(sent, timeout=TIMEOUT)
    answer = rest.post("/v1/classify/lstm?top_k=4", IMAGE)
    received = json_format.ParseDict(without_times(answer.json), pb.ClassifyResponse())
    by_grpc.ClearField("timings")
    assert received == by_grpc
    assert answer.headers["hangtag-model"] == "lstm"
    assert answer.headers["server-timing"].startswith("preprocess;dur=")
    assert answer.json["timings"]["preprocess_ns"] > 0


def test_a_form_s_file_is_the_image_and_its_fields_are_parameters(rest: Rest) -> None:
    file = ('; filename="a.png"', IMAGE)
    answer = form(rest, "/v1/classify/lstm", {"image": file, "top_k": ("", b"2")})
    assert len(answer.json["labels"]) == 2
    assert without_times(answer.json) == without_times(rest.post("/v1/classify/lstm?top_k=2", IMAGE).json)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/classify/lstm,classifier@12",
        "/v1/classify/lstm?model=classifier@12",
        "/v1/classify?model=lstm&model=classifier@12",
        "/v1/classify?model=lstm,classifier@12",
    ],
)
def test_several_models_are_compared(rest: Rest, path: str) -> None:
    outcomes = rest.post(path, IMAGE).json["outcomes"]
    assert [outcome["model_name"] for outcome in outcomes] == ["lstm", "classifier"]
    assert [outcome["answer"]["model_version"] for outcome in outcomes][1] == "12"
    alone = rest.post("/v1/classify/lstm", IMAGE).json
    assert without_times(outcomes[0]["answer"]) == without_times(alone)


def test_without_a_model_every_classifier_is_compared(rest: Rest) -> None:
    outcomes = rest.post("/v1/classify", IMAGE).json["outcomes"]
    assert [outcome["model_name"] for outcome in outcomes] == ["classifier", "lstm"]


def test_one_model_s_failure_leaves_the_others_answers(rest: Rest) -> None:
    first, second, third = rest.post("/v1/classify/nobody,lstm,gather", IMAGE).json["outcomes"]
    assert (first["status"], first["error"][:10]) == (404, "no model '")
    assert second["answer"]["labels"]
    assert (third["status"], "is not a classifier of images" in third["error"]) == (400, True)


def test_raw_pixels_are_not_converted(served: LiveServer, rest: Rest) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (28, 28), dtype=np.uint8).tobytes()
    answer = rest.post("/v1/classify/classifier?height=28&width=28", pixels)
    raw = pb.RawImage(height=28, width=28, pixels=pixels)
    by_grpc = served.classifier.Classify(pb.ClassifyRequest(model_name="classifier", raw=raw), timeout=TIMEOUT)
    assert [label["index"] for label in answer.json["labels"]] == [label.index for label in by_grpc.labels]


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("lstm", b"", 400, "the image is empty"),
        ("lstm", b"GIF89a", 400, "the image is not a PNG, JPEG or WebP file"),
        ("lstm", IMAGE[:-40], 400, "the image cannot be decoded"),
        ("lstm@7", IMAGE, 404, "version '7' of 'lstm' is not served here"),
        ("nobody", IMAGE, 404, "no model 'nobody' is served here"),
        ("gather", IMAGE, 400, "'gather' is not a classifier of images"),
        ("lstm,lstm", IMAGE, 400, "model 'lstm' is given twice"),
        ("lstm?top_k=-1", IMAGE, 400, "the parameter 'top_k' must be a whole number from 0 to 4294967295"),
        ("lstm?top_k=4294967296", IMAGE, 400, "the parameter 'top_k' must be a whole number"),
        ("lstm?top_k=" + "9" * 5000, IMAGE, 400, "the parameter 'top_k' must be a whole number"),
        ("lstm?timeout=soon", IMAGE, 400, "the parameter 'timeout' must be a whole number"),
        ("lstm?timeout=1", IMAGE, 504, "Allow more time, or try again later"),
        ("lstm?timeout=0", IMAGE, 400, "the parameter 'timeout' must be an int64 of microseconds above 0"),
        ("lstm?height=28", IMAGE, 400, "raw pixels need both parameters, 'height' and 'width'"),
        ("lstm?height=28&width=28", IMAGE, 400, "raw pixels must be 28 x 28"),
    ],
)
def test_what_cannot_be_classified(rest: Rest, path: str, body: bytes, status: int, sentence: str) -> None:
    answer = rest.post(f"/v1/classify/{path}", body)
    assert (answer.status, sentence in answer.error) == (status, True), answer.error


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("lstm", pb.ClassifyRequest(encoded=b"GIF89a")),
        ("nobody", pb.ClassifyRequest(encoded=IMAGE)),
        ("gather", pb.ClassifyRequest(encoded=IMAGE)),
        ("lstm?height=2&width=2", pb.ClassifyRequest(raw=pb.RawImage(height=2, width=2, pixels=b"1234"))),
    ],
)
def test_the_sentence_is_grpcs(served: LiveServer, rest: Rest, path: str, sent: pb.ClassifyRequest) -> None:
    sent.model_name = path.partition("?")[0]
    _, sentence = failure(lambda: served.classifier.Classify(sent, timeout=TIMEOUT))
    assert rest.post(f"/v1/classify/{path}", sent.encoded or sent.raw.pixels).error == sentence
    assert "ModelInfer" not in sentence
    assert "`encoded`" not in sentence


@pytest.mark.parametrize(
    ("content_type", "body", "sentence"),
    [
        ("multipart/form-data", b"--edge--", "the form cannot be read"),
        ("multipart/form-data; boundary=edge", b"no form", "the form"),
        ("multipart/form-data; boundary=edge", b"--other\r\n\r\n", "the form"),
        ("multipart/form-data; boundary=edge", b"--edge\r\nContent-Disposition: form-data\r\n\r\n\r\n--edge--", "name"),
        ("multipart/form-data; boundary=edge", b"--edge--\r\n", "the form has no file"),
    ],
)
def test_a_form_that_cannot_be_read(
    rest: Rest, content_type: str, body: bytes, sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = rest.post("/v1/classify/lstm", body, content_type=content_type)
    assert (answer.status, sentence in answer.error) == (400, True), answer.error
    assert capfd.readouterr().err == ""  # a caller cannot fill the log


def test_a_form_with_several_files_is_refused(rest: Rest) -> None:
    file = ('; filename="a.png"', IMAGE)
    assert form(rest, "/v1/classify/lstm", {"a": file, "b": file}).status == 400


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_an_image_or_a_form_may_be_compressed(rest: Rest, encoding: str, compress: Callable[[bytes], bytes]) -> None:
    plain = rest.post("/v1/classify/lstm", IMAGE).json["labels"]
    answer = rest.post("/v1/classify/lstm", compress(IMAGE), content_encoding=encoding)
    assert (answer.status, answer.json["labels"]) == (200, plain)
    part = b'--edge\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n%b\r\n--edge--\r\n' % IMAGE
    kind = "multipart/form-data; boundary=edge"
    answer = rest.post("/v1/classify/lstm", compress(part), content_encoding=encoding, content_type=kind)
    assert (answer.status, answer.json["labels"]) == (200, plain)


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [("br", IMAGE, 415), ("gzip", IMAGE, 400), ("gzip", gzip.compress(bytes(64 << 20)), 413)],
    ids=["not read", "damaged", "too large"],
)
def test_an_image_that_cannot_be_decompressed(rest: Rest, encoding: str, body: bytes, status: int) -> None:
    assert rest.post("/v1/classify/lstm", body, content_encoding=encoding).status == status


def test_a_parameter_that_does_not_exist_is_named(rest: Rest) -> None:
    answer = rest.post("/v1/classify/lstm?topk=1", IMAGE)
    assert answer.status == 400
    assert answer.error == "unknown parameter 'topk'; there are model, top_k, height, width, timeout"
