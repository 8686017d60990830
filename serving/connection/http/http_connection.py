"""Connections over HTTP/1.1 for threads."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import httpx2
from grpc_health.v1 import health_pb2

from hangtag.serving.connection import errors
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.connection.http import failures
from hangtag.serving.connection.http.codec import routes
from hangtag.serving.connection.http.codec.wire import HttpAnswer, HttpRequest
from hangtag.serving.connection.http.deadline_transport import DeadlineTransport, until
from hangtag.serving.connection.http.ordered_calls import ordered_calls
from hangtag.serving.connection.http.session import LIMITS, HttpSession
from hangtag.serving.connection.http.streams import IN_FLIGHT, STREAMS
from hangtag.serving.connection.method import Message, Method, Response
from hangtag.serving.connection.options import ConnectionOptions
from hangtag.serving.credentials import Credentials


class HttpConnection:
    """Connections to one server, one for each call in flight. Thread-safe. See ``GrpcConnection`` for the methods.

    Raises:
        AddressError: the address is no URL of a server, or the variable that names its proxy is no URL of one.
        CredentialsError: a TLS file cannot be read, or one is given for http://.
    """

    def __init__(self, address: str, timeout: float, credentials: Credentials, options: ConnectionOptions) -> None:
        self.address = address
        self._timeout = timeout
        self._options = options
        self._session = HttpSession(address, credentials, options)
        transport = DeadlineTransport(self._session.verify, LIMITS, self._session.proxy)
        self._client = httpx2.Client(**self._session.client_settings(), transport=transport)
        self._closed = threading.Event()
        self._in_flight = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        """Take no more calls. Calls in flight end with their answers or deadlines, and the last closes the connections:
        another thread's socket cannot be closed safely while it is read."""
        with self._lock:
            self._closed.set()
            idle = self._in_flight == 0
        if idle:
            self._client.close()

    def call(self, method: Method[Response], request: Message, timeout: float | None = None) -> Response:
        """Make one call and return its response; ``timeout`` in seconds instead of the connection's own.

        Raises ClientError and CredentialsError.
        """
        return self._call(method, request, self._timeout if timeout is None else timeout)

    def stream(
        self,
        method: Method[Response],
        requests: Iterable[Message],
        timeout: float | None,
        *,
        wait_for_ready: bool = False,
    ) -> Iterator[Response]:
        """Yield the response to each request, in their order; several calls are in flight at once.

        Watch of the health service yields the status again and again, and outlasts a server that is not up yet.
        """
        if self._closed.is_set():
            raise errors.closed()
        deadline = None if timeout is None else time.monotonic() + timeout
        if method.path == routes.WATCH:
            yield from self._watch(next(iter(requests)), deadline)
            return
        stream = STREAMS[method.path]

        def call(request: Message) -> Any:
            try:
                return stream.of_answer(self._call(stream.method, request, _remaining(deadline)))
            except ClientError as error:
                return stream.failure(error)

        try:
            yield from ordered_calls(call, requests, IN_FLIGHT, lambda: _remaining(deadline))
        except (TimeoutError, ClientError) as error:
            if isinstance(error, ClientError) and error.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            raise errors.stream_too_late(self.address, timeout) from error

    def _watch(self, request: Message, deadline: float | None) -> Iterator[Any]:
        check = Method(routes.CHECK, health_pb2.HealthCheckResponse)
        for pause in self._options.polling_pauses():
            remaining = _remaining(deadline)
            if remaining == 0:
                raise errors.stream_too_late(self.address, None)
            try:
                yield self._call(check, request, remaining)
            except ClientError as error:
                if error.code is not grpc.StatusCode.UNAVAILABLE:
                    raise
            if self._closed.wait(pause if remaining is None else min(pause, remaining)):
                raise errors.closed()

    def _call(self, method: Method[Response], message: Message, seconds: float | None) -> Response:
        deadline = None if seconds is None else time.monotonic() + seconds
        request = self._session.encode(method, message, seconds)
        pauses = self._options.retry_pauses(method)
        for pause in (*pauses, None):
            try:
                answer = self._answer(request, deadline, seconds)
                return self._session.decode(method, message, request, answer)
            except ClientError as error:
                if error.code is not grpc.StatusCode.UNAVAILABLE or not _in_time(pause, deadline):
                    raise
            except failures.BROKEN as error:
                if not _in_time(pause, deadline):
                    raise self._session.broken(error, method) from error
            self._closed.wait(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _answer(self, request: HttpRequest, deadline: float | None, seconds: float | None) -> HttpAnswer:
        """Make one attempt, within what remains of the time. Raises ClientError; BROKEN where no answer comes."""
        chunks, size = [], 0
        headers = self._session.headers(request)
        try:
            with (
                self._attempt(),
                self._client.stream(
                    request.verb, request.path, content=request.body, headers=headers, extensions=until(deadline)
                ) as response,
            ):
                self._session.require_size(int(response.headers.get("content-length", 0)))
                for chunk in response.iter_raw():
                    chunks.append(chunk)
                    size += len(chunk)
                    self._session.require_size(size)
                return HttpAnswer(response.status_code, response.headers, b"".join(chunks))
        except httpx2.TimeoutException as error:
            raise errors.too_late(self.address, seconds or 0) from error

    @contextmanager
    def _attempt(self) -> Iterator[None]:
        with self._lock:
            if self._closed.is_set():
                raise errors.closed()
            self._in_flight += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= 1
                last = self._closed.is_set() and self._in_flight == 0
            if last:
                self._client.close()


def _remaining(deadline: float | None) -> float | None:
    """Seconds until a deadline, 0 once it has passed; None without one."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _in_time(pause: float | None, deadline: float | None) -> bool:
    """Whether there is another attempt, after this pause in seconds, before the deadline."""
    remaining = _remaining(deadline)
    return pause is not None and (remaining is None or pause <= remaining)
