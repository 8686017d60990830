"""Calls a server over HTTP with Python's standard library, and converts ModelInfer's messages to HTTP requests."""

import http.client
import json
import ssl
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from tests.kit.waiting import TIMEOUT

Array = npt.NDArray[Any]
HEAD_LENGTH = "inference-header-content-length"
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""The gRPC status code for each HTTP status with which the server refuses a call."""


@dataclass(frozen=True)
class Answer:
    """A response that was read completely."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body's JSON, without the binary tensors that may follow."""
        return json.loads(self.body[: int(self.headers.get(HEAD_LENGTH, len(self.body)))])

    @property
    def error(self) -> str:
        return str(self.json["error"])

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC status code of a refusal."""
        return CODES[self.status]

    @property
    def outputs(self) -> dict[str, Array]:
        assert self.status == 200, self.body
        offset = int(self.headers.get(HEAD_LENGTH, 0))
        arrays: dict[str, Array] = {}
        for output in self.json["outputs"]:
            datatype, shape = output["datatype"], output["shape"]
            if "data" in output:
                arrays[output["name"]] = np.array(output["data"], tensors.DTYPES[datatype]).reshape(shape)
            else:
                size = output["parameters"]["binary_data_size"]
                arrays[output["name"]] = tensors.from_raw(datatype, shape, self.body[offset : offset + size])
                offset += size
        assert offset in (0, len(self.body))
        return arrays


class Rest:
    """One connection to a server."""

    def __init__(self, address: str, tls: ssl.SSLContext | None = None) -> None:
        host, _, port = address.rpartition(":")
        self.connection = (
            http.client.HTTPConnection(host, int(port), timeout=TIMEOUT)
            if tls is None
            else http.client.HTTPSConnection(host, int(port), timeout=TIMEOUT, context=tls)
        )

    def __enter__(self) -> "Rest":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """Send GET with these headers. In the name of a header, write an underscore instead of a hyphen."""
        return self.ask("GET", path, b"", headers)

    def post(self, path: str, body: bytes | str = b"", **headers: str) -> Answer:
        """Send POST with these headers, whose names are written as for ``get``."""
        return self.ask("POST", path, body.encode() if isinstance(body, str) else body, headers)

    def ask(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Answer:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body, names)
        response = self.connection.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        content = response.read()
        assert int(received["content-length"]) == len(content) or method == "HEAD"
        return Answer(response.status, received, content)

    def infer(self, request: pb.ModelInferRequest, **headers: str) -> Answer:
        """Send a ModelInfer request with binary tensors, and ask for binary outputs."""
        path, body, own = as_http(request)
        return self.post(path, body, **own, **headers)

    def infer_json(self, model: str, *inputs: dict[str, Any], **more: Any) -> Answer:
        """Send the inputs unchanged, as JSON."""
        return self.post(f"/v2/models/{model}/infer", json.dumps({"inputs": inputs, **more}))


def metrics(address: str) -> str:
    """Scrape the metrics of the server at HOST:PORT, which is its port for metrics or for HTTP."""
    with Rest(address) as rest:
        answer = rest.get("/metrics")
    assert answer.status == 200, answer.body
    return answer.body.decode()


def as_http(request: pb.ModelInferRequest) -> tuple[str, bytes, dict[str, str]]:
    """A request's HTTP path, body and headers. Raw contents become binary data, and typed contents become JSON."""
    inputs = []
    for place, tensor in enumerate(request.inputs):
        described = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        parameters = _parameters(tensor)
        if place < len(request.raw_input_contents):
            parameters["binary_data_size"] = len(request.raw_input_contents[place])
        for _, values in tensor.contents.ListFields():
            described["data"] = [each.decode() if isinstance(each, bytes) else each for each in values]
        inputs.append(described | {"parameters": parameters})
    head: dict[str, Any] = {"inputs": inputs, "parameters": {"binary_data_output": True, **_parameters(request)}}
    if request.outputs:
        head["outputs"] = [{"name": output.name, "parameters": _parameters(output)} for output in request.outputs]
    if request.id:
        head["id"] = request.id
    text = json.dumps(head).encode()
    body = b"".join((text, *request.raw_input_contents))
    path = model_path(request.model_name, request.model_version)
    return f"{path}/infer", body, {HEAD_LENGTH: str(len(text))}


def model_path(name: str, version: str = "") -> str:
    """The HTTP path of a model or of a model's version."""
    model = f"/v2/models/{urllib.parse.quote(name, safe='')}"
    return f"{model}/versions/{urllib.parse.quote(version, safe='')}" if version else model


def _parameters(owner: Any) -> dict[str, Any]:
    """The parameters of a message, as JSON values."""
    return {name: getattr(each, each.WhichOneof("parameter_choice")) for name, each in owner.parameters.items()}


def tensor(name: str, datatype: str, shape: list[int], data: Any) -> dict[str, Any]:
    """An input tensor with its values in JSON."""
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}
