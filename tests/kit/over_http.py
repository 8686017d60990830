"""gRPC's ModelInfer made over HTTP, so that one test states a promise of the service for every transport."""

import http.client
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.connection.http.codec.status import status_code
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.runtime.session import Runtime, RuntimeFactory
from tests.kit.live import TIMEOUT, LiveServer
from tests.kit.rest import HEAD_LENGTH, Answer, Rest, as_http

HTTP = "http"
EVERY_TRANSPORT = pytest.mark.parametrize("transport", ["native", "grpc", HTTP], indirect=True, scope="session")
"""For a test whose fixtures, or itself, make their servers with `live_server`."""


class HttpError(grpc.RpcError):
    """A refusal, with the code that gRPC has for it."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


class HttpCall:
    """A request that was sent on a connection of its own. As gRPC's client, it gives up at its deadline."""

    def __init__(
        self, address: str, request: pb.ModelInferRequest, timeout: float | None, metadata: Sequence[tuple[str, str]]
    ) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=timeout or TIMEOUT)
        path, body, headers = as_http(_with_timeout(request, timeout))
        self._connection.request("POST", path, body, headers | dict(metadata))
        self._outcome: pb.ModelInferResponse | HttpError | None = None

    def result(self) -> pb.ModelInferResponse:
        error = self.exception()
        if error is not None:
            raise error
        assert isinstance(self._outcome, pb.ModelInferResponse)
        return self._outcome

    def exception(self) -> HttpError | None:
        if self._outcome is None:
            try:
                received = self._connection.getresponse()
                headers = {name.lower(): value for name, value in received.getheaders()}
                self._outcome = outcome(Answer(received.status, headers, received.read()))
            except TimeoutError:
                self._outcome = HttpError(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer came in time")
            finally:
                self._connection.close()
        return self._outcome if isinstance(self._outcome, HttpError) else None

    def cancel(self) -> None:
        self._connection.close()

    def __del__(self) -> None:
        self.cancel()  # as gRPC's client cancels a call that nothing refers to

    def done(self) -> bool:
        return bool(select.select([self._connection.sock], [], [], 0)[0])


class HttpMethod:
    """ModelInfer, called as gRPC's stub calls it."""

    def __init__(self, address: str) -> None:
        self._address = address

    def future(
        self,
        request: pb.ModelInferRequest,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> HttpCall:
        return HttpCall(self._address, request, timeout, metadata)

    def __call__(
        self,
        request: pb.ModelInferRequest,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> pb.ModelInferResponse:
        return self.future(request, timeout, metadata).result()


class _Stub:
    """ModelInfer over HTTP, and all other methods over gRPC, of one server."""

    def __init__(self, over_grpc: Any, address: str) -> None:
        self._over_grpc = over_grpc
        self.ModelInfer = HttpMethod(address)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._over_grpc, name)


class LiveHttpServer(LiveServer):
    """A server whose ModelInfer is called over HTTP."""

    def __enter__(self) -> "LiveHttpServer":
        super().__enter__()
        self.inference: Any = _Stub(self.inference, self.server.http_address)
        return self

    @contextmanager
    def caller(self) -> Iterator[Callable[[pb.ModelInferRequest], pb.ModelInferResponse]]:
        with Rest(self.server.http_address) as rest:

            def infer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
                found = outcome(rest.infer(request))
                if isinstance(found, HttpError):
                    raise found
                return found

            yield infer


def live_server(transport: str, models: Path, runtimes: RuntimeFactory = Runtime, **settings: Any) -> LiveServer:
    """Return a server, not started yet, whose `inference.ModelInfer` is called over this transport."""
    if transport == HTTP:
        return LiveHttpServer(ServerConfig(models=models, port=0, http_port=0, transport="grpc", **settings), runtimes)
    return LiveServer(ServerConfig(models=models, port=0, http_port=-1, transport=transport, **settings), runtimes)


def outcome(answer: Answer) -> pb.ModelInferResponse | HttpError:
    """Return what gRPC would have brought."""
    if answer.status != 200:
        return HttpError(status_code(answer.status), answer.error)
    head = answer.json
    response = pb.ModelInferResponse(
        model_name=head["model_name"], model_version=head["model_version"], id=head.get("id", "")
    )
    offset = int(answer.headers[HEAD_LENGTH])
    for output in head["outputs"]:
        size = output.pop("parameters")["binary_data_size"]
        response.outputs.append(pb.ModelInferResponse.InferOutputTensor(**output))
        response.raw_output_contents.append(answer.body[offset : offset + size])
        offset += size
    assert offset == len(answer.body)
    return response


def _with_timeout(request: pb.ModelInferRequest, timeout: float | None) -> pb.ModelInferRequest:
    """Return the request with its deadline as the parameter that carries it over HTTP, unless it has one."""
    if timeout is None or "timeout" in request.parameters:
        return request
    sent = pb.ModelInferRequest()
    sent.CopyFrom(request)
    sent.parameters["timeout"].int64_param = round(timeout * 1e6)
    return sent
