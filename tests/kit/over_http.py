"""Calls the service over HTTP with the interface of gRPC's stubs, so that one test covers every transport."""

import http.client
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.runtime.session import RuntimeFactory
from tests.kit.http_forms import CLASSIFIER, INFERENCE, Form, HttpError
from tests.kit.live import LiveServer
from tests.kit.rest import Answer, Rest
from tests.kit.waiting import TIMEOUT

HTTP = "http"
ENVOY = "envoy"
"""The native transport behind Envoy. The server starts Envoy if its published host is not a loopback address."""
ELSEWHERE = {"published_host": "192.0.2.1"}
OVER_GRPC = pytest.mark.parametrize("transport", ["native", "grpc", ENVOY], indirect=True, scope="session")
"""Runs a test over every transport of gRPC. The test must create its server with `live_server`."""


def options_of(transport: str) -> tuple[str, str]:
    """The options of ``hangtag serve`` for the transport native, grpc, HTTP or ENVOY."""
    if transport == ENVOY:
        return "--published-host", ELSEWHERE["published_host"]
    return "--transport", "auto" if transport == HTTP else transport


Metadata = Sequence[tuple[str, str]]


class HttpCall:
    """A call over a separate HTTP connection. Like a gRPC call, the call ends at its deadline."""

    def __init__(self, address: str, form: Form, message: Message, timeout: float | None, metadata: Metadata):
        self._form = form
        self._outcome: Any = None
        self._headers: dict[str, str] = {}
        self._connection = http.client.HTTPConnection(address, timeout=timeout or TIMEOUT)
        sent = form.sent(message, timeout)
        try:
            self._connection.request(sent.verb, sent.path, sent.body, sent.headers | dict(metadata))
        except ConnectionError as error:
            self._outcome = HttpError(grpc.StatusCode.UNAVAILABLE, str(error))

    def result(self, timeout: float | None = None) -> Any:
        error = self.exception(timeout)
        if error is not None:
            raise error
        return self._outcome

    def exception(self, timeout: float | None = None) -> HttpError | None:
        """Wait for the answer, for this many seconds or until the deadline. Return the error if the call is refused."""
        if self._outcome is None:
            if timeout is not None:
                self._connection.sock.settimeout(timeout)
            try:
                received = self._connection.getresponse()
                self._headers = {name.lower(): value for name, value in received.getheaders()}
                self._outcome = self._form.read(Answer(received.status, self._headers, received.read()))
            except HttpError as error:
                self._outcome = error
            except TimeoutError:
                self._outcome = HttpError(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer came in time")
            except (ConnectionError, http.client.HTTPException) as error:
                self._outcome = HttpError(grpc.StatusCode.UNAVAILABLE, str(error))
            finally:
                self._connection.close()
        return self._outcome if isinstance(self._outcome, HttpError) else None

    def trailing_metadata(self) -> list[tuple[str, str]]:
        """The response headers that correspond to gRPC's trailing metadata."""
        self.exception()
        return [(name, value) for name, value in self._headers.items() if name.startswith("hangtag-")]

    def cancel(self) -> None:
        self._connection.close()

    def __del__(self) -> None:
        self.cancel()  # like gRPC's client, which cancels a call when nothing refers to it

    def done(self) -> bool:
        return self._outcome is not None or bool(select.select([self._connection.sock], [], [], 0)[0])


class HttpMethod:
    """A method of the service with the interface of gRPC's stub."""

    def __init__(self, address: str, form: Form) -> None:
        self._address, self._form = address, form

    def future(self, request: Message, timeout: float | None = None, metadata: Metadata = ()) -> HttpCall:
        return HttpCall(self._address, self._form, request, timeout, metadata)

    def with_call(self, *arguments: Any, **options: Any) -> tuple[Any, HttpCall]:
        call = self.future(*arguments, **options)
        return call.result(), call

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.future(*arguments, **options).result()


def stub(address: str, forms: dict[str, Form]) -> Any:
    """Has the methods of a service except its streams, which do not exist over HTTP."""
    return SimpleNamespace(**{name: HttpMethod(address, form) for name, form in forms.items()})


def inference_over_http(address: str) -> Any:
    """GRPCInferenceService's methods over HTTP, at HOST:PORT."""
    return stub(address, INFERENCE)


class LiveHttpServer(LiveServer):
    """A server that is called only over HTTP, which has no health service."""

    def open_stubs(self) -> None:
        super().open_stubs()
        self.inference = inference_over_http(self.server.http_address)
        self.classifier = stub(self.server.http_address, CLASSIFIER)
        self.health = stub(self.server.http_address, {})

    @contextmanager
    def caller(self) -> Iterator[Callable[[pb.ModelInferRequest], pb.ModelInferResponse]]:
        with Rest(self.server.http_address) as rest:
            yield lambda request: INFERENCE["ModelInfer"].read(rest.infer(request))


def live_server(
    transport: str,
    models: Path,
    *,
    runtimes: RuntimeFactory | None = None,
    wrap_control: Callable[[Any], Any] | None = None,
    **settings: Any,
) -> LiveServer:
    """Return a server that is called over this transport and is not started yet.

    Args:
        transport: native, grpc, HTTP or ENVOY.
        models: The model repository.
        runtimes: The factory with which the server loads the models; by default, the LiveServer's ``gates``.
        wrap_control: Passed to Server. It wraps the object that loads and unloads models for clients.
        settings: Settings of ServerConfig.
    """
    http = transport == HTTP
    ports = {"port": 0, "http_port": 0 if http else -1}
    speaks: dict[str, Any] = {"transport": "grpc" if http else transport}
    if transport == ENVOY:
        speaks = ELSEWHERE
    config = ServerConfig(models=models, **{**speaks, **ports, **settings})
    return (LiveHttpServer if http else LiveServer)(config, runtimes, wrap_control=wrap_control)
