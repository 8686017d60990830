"""Requests that are made to cost the server far more time or memory than their bytes are worth."""

import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hangtag.protos import classifier_pb2 as pb
from hangtag.protos import inference_pb2
from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.server.transport.http.inference.request_head import parse_json
from tests.kit.live import TIMEOUT, LiveServer, failure, index, request
from tests.kit.rest import Rest
from tests.serving.server.transport.http.test_classify import IMAGE, form

pytestmark = pytest.mark.slow

MANY = 250_000
MOST_MEMORY = 8 << 20
"""Bytes that a request of up to a megabyte may take, with what the client takes: it is in the same process."""
FILE = ('; filename="a.png"', IMAGE)


@contextmanager
def little_memory_taken() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


def test_the_time_to_find_a_key_that_stands_twice_grows_with_the_bytes_alone() -> None:
    """Comparing each of these keys with all others took ten seconds, and of 4 MiB of them an hour, on a thread that
    nothing can end."""
    keys = ",".join(f'"{number}":0' for number in range(25_000))
    started = time.thread_time()
    with pytest.raises(InvalidRequestError, match="the JSON has the key '24999' twice in one object"):
        parse_json(b'{%b,"24999":0}' % keys.encode())
    assert time.thread_time() - started < 2


@pytest.mark.parametrize("separator", [b"a,", b","], ids=["names", "commas"])
def test_a_list_of_models_that_no_form_needs_is_not_taken_apart(rest: Rest, separator: bytes) -> None:
    with little_memory_taken():
        answer = form(rest, "/v1/classify", {"image": FILE, "model": ("", separator * MANY)})
    assert (answer.status, answer.error) == (400, "the form cannot be read: Part exceeded maximum size of 16KB.")


def test_a_form_has_room_for_the_longest_names_of_all_models_that_can_be_compared(rest: Rest) -> None:
    names = ",".join(f"{number:0255}@{number:020}" for number in range(32))
    outcomes = form(rest, "/v1/classify", {"image": FILE, "model": ("", names.encode())}).json["outcomes"]
    assert [outcome["status"] for outcome in outcomes] == [404] * 32


@pytest.mark.parametrize("path", ["/v1/classify/%s", "/v1/classify?model=%s", "/v1/classify/lstm?model=classifier,%s"])
def test_more_models_than_can_be_compared_are_refused(rest: Rest, path: str) -> None:
    answer = rest.post(path % ",".join(f"m{number}" for number in range(33)), IMAGE)
    assert (answer.status, answer.error) == (400, "more than 32 models, the most that can be compared on one image")


def test_more_models_than_can_be_compared_are_not_listed(served: LiveServer) -> None:
    sent = pb.CompareRequest.FromString(b"\n\0" * MANY)
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
    """Decoding punycode takes time that grows with the square of the text."""
    part = b'--edge\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
    body = part % (b"image", FILE[0].encode(), IMAGE) + part % (b"top_k", b"", b"2") + b"--edge--\r\n"
    content_type = 'multipart/form-data; charset=punycode; boundary="edge"'
    answer = rest.post("/v1/classify/lstm", body, content_type=content_type)
    assert (answer.status, len(answer.json["labels"])) == (200, 2)


@pytest.mark.parametrize("boundary", ['x\\"; charset=\\"punycode', "", "x" * 71, "\xe9"])
def test_a_boundary_that_could_name_a_charset_is_refused(rest: Rest, boundary: str) -> None:
    """It becomes part of a header that is read again."""
    body = f'--{boundary}\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--{boundary}--\r\n'.encode("latin-1")
    answer = rest.post("/v1/classify/lstm", body, content_type=f'multipart/form-data; boundary="{boundary}"')
    assert answer.status == 400
    assert "no boundary as RFC 2046 describes it" in answer.json["error"]
