"""Requests as the text that goes over an HTTP/1.1 connection, made before the run."""

from urllib.parse import urlsplit

from google.protobuf.message import Message

from hangtag.protos import classifier_pb2, inference_pb2
from hangtag.serving.connection.http.codec.routes import CLASSIFY, INFER, ROUTES
from hangtag.serving.connection.http.codec.wire import HttpRequest

LIVE = HttpRequest("GET", "v2/health/live")
MESSAGES: dict[str, type[Message]] = {INFER: inference_pb2.ModelInferRequest, CLASSIFY: classifier_pb2.ClassifyRequest}
"""The class of the requests of each method that a load can send."""


def as_text(address: str, request: HttpRequest) -> bytes:
    """Return a request for the server at a URL as text, without what credentials add."""
    url = urlsplit(address)
    headers = {"host": url.netloc, **request.headers}
    if request.verb == "POST":
        headers["content-length"] = str(len(request.body))
    lines = [f"{request.verb} {url.path.rstrip('/')}/{request.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + request.body


def message_as_text(address: str, method: str, message: bytes, deadline: float) -> bytes:
    """Return a serialised gRPC request as the text of the same request over HTTP.

    Args:
        address: the server's URL.
        method: the full gRPC method name, of ModelInfer or Classify.
        message: the serialised request.
        deadline: the call's deadline in seconds, which travels to the server.
    """
    request = MESSAGES[method].FromString(message)
    return as_text(address, ROUTES[method].encode(request, round(deadline * 1e6)))
