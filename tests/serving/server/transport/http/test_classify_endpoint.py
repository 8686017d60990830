"""POST /v1/classify answers an image with labels of one or several models, and refuses requests that cost too much."""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hangtag.protos import classifier_pb2, inference_pb2
from tests.kit import shipped
from tests.kit.command import serving
from tests.kit.live import TIMEOUT, LiveServer, failure, index, request
from tests.kit.memory import most_held
from tests.kit.rest import Answer, Rest

IMAGE = next((shipped.MODELS.parent / "examples/garments").glob("*.png")).read_bytes()
FILE = ('; filename="a.png"', IMAGE)


FORM = "multipart/form-data; boundary=edge"


def written(**parts: tuple[str, bytes]) -> bytes:
    """A form as ``curl -F`` sends it. Each part has a name, parameters of its header, and contents."""
    lines = [
        b'--edge\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (name.encode(), more.encode(), content)
        for name, (more, content) in parts.items()
    ]
    return b"".join(lines) + b"--edge--\r\n"


def form(rest: Rest, path: str, **parts: tuple[str, bytes]) -> Answer:
    return rest.post(path, written(**parts), content_type=FORM)


def without_times(answer: Any) -> Any:
    return {key: value for key, value in answer.items() if key != "timings"}


def test_who_classified_and_what_it_cost_is_in_the_headers(rest: Rest) -> None:
    answer = rest.post("/v1/classify/lstm?top_k=4", IMAGE)
    assert len(answer.json["labels"]) == 4
    assert answer.headers["hangtag-model"] == "lstm"
    assert answer.headers["server-timing"].startswith("preprocess;dur=")
    assert answer.json["timings"]["preprocess_ns"] > 0


def test_a_form_s_file_is_the_image_and_its_fields_are_parameters(rest: Rest) -> None:
    answer = form(rest, "/v1/classify/lstm", image=FILE, top_k=("", b"2"))
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


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("lstm?top_k=-1", 400, "the parameter 'top_k' must be a whole number from 0 to 4294967295"),
        ("lstm?top_k=4294967296", 400, "the parameter 'top_k' must be a whole number"),
        ("lstm?top_k=" + "9" * 5000, 400, "the parameter 'top_k' must be a whole number"),
        ("lstm?timeout=soon", 400, "the parameter 'timeout' must be a whole number"),
        ("lstm?timeout=1", 504, "Allow more time, or try again later"),
        ("lstm?timeout=0", 400, "the parameter 'timeout' must be an int64 of microseconds above 0"),
        ("lstm?height=28", 400, "raw pixels need both parameters, 'height' and 'width'"),
        ("lstm?height=28&width=28", 400, "raw pixels must be 28 x 28"),
        ("lstm?topk=1", 400, "unknown parameter 'topk'; known parameters: model, top_k, height, width, timeout"),
    ],
)
def test_a_parameter_that_is_wrong_is_named(rest: Rest, path: str, status: int, sentence: str) -> None:
    answer = rest.post(f"/v1/classify/{path}", IMAGE)
    assert (answer.status, sentence in answer.error) == (status, True), answer.error


@pytest.mark.parametrize(
    ("content_type", "body", "sentence"),
    [
        ("multipart/form-data", b"--edge--", "the form cannot be read"),
        (FORM, b"no form", "the form"),
        (FORM, b"--edge\r\nContent-Disposition: form-data\r\n\r\n\r\n--edge--", "name"),
        (FORM, b"--edge--\r\n", "the form has no file"),
        (FORM, written(a=FILE, b=FILE), "the form"),
    ],
)
def test_a_form_that_cannot_be_read(
    rest: Rest, content_type: str, body: bytes, sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = rest.post("/v1/classify/lstm", body, content_type=content_type)
    assert (answer.status, sentence in answer.error) == (400, True), answer.error
    assert capfd.readouterr().err == ""  # callers cannot fill the log


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_an_image_or_a_form_may_be_compressed(rest: Rest, encoding: str, compress: Callable[[bytes], bytes]) -> None:
    plain = rest.post("/v1/classify/lstm", IMAGE).json["labels"]
    answer = rest.post("/v1/classify/lstm", compress(IMAGE), content_encoding=encoding)
    assert (answer.status, answer.json["labels"]) == (200, plain)
    packed = compress(written(image=FILE))
    answer = rest.post("/v1/classify/lstm", packed, content_encoding=encoding, content_type=FORM)
    assert (answer.status, answer.json["labels"]) == (200, plain)


MANY = 250_000
MOST_MEMORY = 8 << 20
"""The bytes of memory that a request of up to a megabyte may take in this process, which also runs the client."""


@contextmanager
def little_memory_taken() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


def test_the_time_to_find_a_key_that_stands_twice_grows_with_the_bytes_alone(rest: Rest) -> None:
    """Comparing each of these keys with all others would take minutes, on a thread that cannot be interrupted."""
    keys = ",".join(f'"{number}":0' for number in range(100_000))
    answer = rest.post("/v2/models/gather/infer", f'{{{keys},"99999":0}}')
    assert (answer.status, "the key '99999' twice in one object" in answer.error) == (400, True)


@pytest.mark.parametrize("separator", [b"a,", b","], ids=["names", "commas"])
def test_a_list_of_models_that_no_form_needs_is_not_taken_apart(rest: Rest, separator: bytes) -> None:
    with little_memory_taken():
        answer = form(rest, "/v1/classify", image=FILE, model=("", separator * MANY))
    assert (answer.status, answer.error[-6:]) == (400, "16 KiB")


def test_a_form_has_room_for_the_longest_names_of_all_models_that_can_be_compared(rest: Rest) -> None:
    names = ",".join(f"{number:0255}@{number:020}" for number in range(32))
    outcomes = form(rest, "/v1/classify", image=FILE, model=("", names.encode())).json["outcomes"]
    assert [outcome["status"] for outcome in outcomes] == [404] * 32


@pytest.mark.parametrize("path", ["/v1/classify/%s", "/v1/classify?model=%s", "/v1/classify/lstm?model=classifier,%s"])
def test_more_models_than_can_be_compared_are_refused(rest: Rest, path: str) -> None:
    answer = rest.post(path % ",".join(f"m{number}" for number in range(33)), IMAGE)
    assert (answer.status, answer.error[2:]) == (400, " models; at most 32 can be compared on one image")


def test_more_models_than_can_be_compared_are_not_listed(served: LiveServer) -> None:
    sent = classifier_pb2.CompareRequest.FromString(b"\n\0" * MANY)
    with little_memory_taken():
        _, details = failure(lambda: served.classifier.Compare(sent, timeout=TIMEOUT))
    assert details == f"{MANY} models; at most 32 can be compared on one image"


def with_many_outputs() -> inference_pb2.ModelInferRequest:
    return inference_pb2.ModelInferRequest.FromString(
        request("gather", index=index(1)).SerializeToString() + b"2\0" * MANY
    )


def with_many_inputs() -> inference_pb2.ModelInferRequest:
    sent = inference_pb2.ModelInferRequest(model_name="gather", raw_input_contents=[b""] * 45_000)
    for number in range(45_000):
        sent.inputs.add(name=f"{number:05}", datatype="INT8", shape=[0])
    return sent


@pytest.mark.parametrize(
    ("make", "sentence"),
    [(with_many_outputs, "an output is requested twice"), (with_many_inputs, "unknown input '00000'; the model takes")],
)
def test_more_tensors_than_the_model_has_are_not_listed(
    served: LiveServer, make: Callable[[], inference_pb2.ModelInferRequest], sentence: str
) -> None:
    call: Any = served.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    message = make().SerializeToString()
    with little_memory_taken():
        _, details = failure(lambda: call(message, timeout=TIMEOUT))
    assert details.startswith(sentence)


def test_a_form_is_read_as_utf_8_whatever_charset_it_names(rest: Rest) -> None:
    """Decoding punycode would take time that grows with the square of the text's length."""
    content_type = 'multipart/form-data; charset=punycode; boundary="edge"'
    answer = rest.post("/v1/classify/lstm", written(image=FILE, top_k=("", b"2")), content_type=content_type)
    assert (answer.status, len(answer.json["labels"])) == (200, 2)


@pytest.mark.parametrize("boundary", ['x\\"; charset=\\"punycode', "", "x" * 71, "\xe9"])
def test_a_boundary_that_could_name_a_charset_is_refused(rest: Rest, boundary: str) -> None:
    body = f'--{boundary}\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--{boundary}--\r\n'.encode("latin-1")
    answer = rest.post("/v1/classify/lstm", body, content_type=f'multipart/form-data; boundary="{boundary}"')
    assert answer.status == 400
    assert "no boundary as RFC 2046 describes it" in answer.json["error"]


def test_raw_pixels_are_not_kept_twice() -> None:
    size = 64 << 20
    arguments = ("--models", shipped.MODELS, "--max-message-mib", "65", "--port", "0", "--metrics-port", "-1")
    with serving(*map(str, arguments)) as server:
        server.wait_for("ready")
        before = most_held(server.process.pid)
        with Rest(server.http_address) as rest:
            answer = rest.post("/v1/classify/cnn?height=8192&width=8192", bytes(size))
        assert answer.status == 400
        assert most_held(server.process.pid) - before < 3.5 * size
