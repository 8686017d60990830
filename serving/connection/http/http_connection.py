"""Connections over HTTP/1.1 for threads."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpcore2

from hangtag.serving.connection import errors
from hangtag.serving.connection.http.calls import IN_FLIGHT, OF_STREAM, Deadline, HttpCalls, Result, finished
from hangtag.serving.connection.http.deadline_network import DeadlineNetwork
from hangtag.serving.connection.http.wire import HttpAnswer
from hangtag.serving.connection.method import Message, Method, Response
from hangtag.serving.connection.options import ConnectionOptions
from hangtag.serving.credentials import Credentials

Begun = queue.SimpleQueue[Future[Any] | Exception | None]
"""The calls of a stream in order. The last item is None, or the exception that ended the requests."""


class HttpConnection:
    """Connections to one server, a connection for each call in flight. Thread-safe. Methods as in ``GrpcConnection``.

    Raises:
        AddressError: the address is not a server's URL, or the variable that names its proxy is not a proxy's URL.
        CredentialsError: a TLS file cannot be read, or is given for an http:// address.
    """

    def __init__(self, address: str, timeout: float, credentials: Credentials, options: ConnectionOptions) -> None:
        self._timeout = timeout
        self._calls = HttpCalls(address, credentials, options)
        self._carrier = _ThreadCarrier(self._calls)

    def close(self) -> None:
        """Close the connections; calls in flight are cancelled."""
        self._carrier.close()

    def call(self, method: Method[Response], request: Message, timeout: float | None = None) -> Response:
        """Make one call and return its response. ``timeout`` in seconds replaces the connection's timeout.

        Raises ClientError and CredentialsError.
        """
        deadline = Deadline.after(self._timeout if timeout is None else timeout)
        return finished(self._calls.call(self._carrier, method, request, deadline))

    def stream(
        self,
        method: Method[Response],
        requests: Iterable[Message],
        timeout: float | None,
        *,
        wait_for_ready: bool = False,
    ) -> Iterator[Any]:
        """Make a separate call for each request, and yield each call's response or ClientError, in order.

        Several calls are in flight at once. For Watch of the health service, yields one status.
        """
        deadline = Deadline.after(timeout)
        of_stream = OF_STREAM[method.path]

        def call(request: Message) -> Any:
            return finished(self._calls.call_of_stream(self._carrier, of_stream, request, deadline))

        with self._carrier.open_stream() as begun:
            try:
                yield from _in_order(call, requests, begun, deadline)
            except TimeoutError as error:
                raise errors.stream_too_late(self._calls.address, timeout) from error


class _ThreadCarrier:
    """A carrier that blocks its thread, which ``finished`` requires."""

    def __init__(self, calls: HttpCalls) -> None:
        self._calls = calls
        self._network = DeadlineNetwork()
        self._pool = httpcore2.ConnectionPool(**calls.pool_settings, network_backend=self._network)
        self._closed = threading.Event()
        self._in_flight = 0
        self._streams: set[Begun] = set()
        self._lock = threading.Lock()

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    async def exchange(self, request: httpcore2.Request, deadline: Deadline) -> HttpAnswer:
        request.extensions = {"timeout": dict.fromkeys(("connect", "read", "write"), deadline.at)}
        try:
            with self._call_in_flight():
                response = self._pool.handle_request(request)
                try:
                    answer = self._calls.answer(response)
                    for piece in response.iter_stream():
                        answer.add(piece)
                    return answer.complete()
                finally:
                    response.close()
        except httpcore2.TimeoutException as error:
            if deadline.remaining() == 0:
                raise TimeoutError from error
            raise

    async def pause(self, seconds: float, deadline: Deadline) -> None:
        if seconds:
            self._closed.wait(seconds)

    async def find_out(self, question: Callable[[], Result]) -> Result:
        return question()

    def close(self) -> None:
        """Cancel the calls in flight. The call that ends last closes the pool, so no socket is freed during a read."""
        with self._lock:
            self._closed.set()
            idle = self._in_flight == 0
            streams = tuple(self._streams)
        self._network.shut_down()
        for begun in streams:
            begun.put(errors.closed())
        if idle:
            self._pool.close()

    @contextmanager
    def open_stream(self) -> Iterator[Begun]:
        """Yield the queue of a new stream, which ends when the connection closes. Raises ClientError if closed."""
        begun: Begun = queue.SimpleQueue()
        with self._lock:
            self._require_open()
            self._streams.add(begun)
        try:
            yield begun
        finally:
            with self._lock:
                self._streams.discard(begun)

    @contextmanager
    def _call_in_flight(self) -> Iterator[None]:
        with self._lock:
            self._require_open()
            self._in_flight += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= 1
                last = self.closed and self._in_flight == 0
            if last:
                self._pool.close()

    def _require_open(self) -> None:
        if self.closed:
            raise errors.closed()


def _in_order(
    call: Callable[[Message], Any], requests: Iterable[Message], begun: Begun, deadline: Deadline
) -> Iterator[Any]:
    """Yield the results of the calls in the order of their requests.

    A thread takes the next request when another call may begin. If iterating over the requests raises an exception, it
    is re-raised after the results of all earlier requests. Raises TimeoutError if a result does not arrive in time.
    """
    free, stopped = threading.Semaphore(IN_FLIGHT), threading.Event()
    pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="stream")

    def begin_all() -> None:
        try:
            for request in requests:
                free.acquire()
                if stopped.is_set():
                    return
                begun.put(pool.submit(call, request))
        except Exception as error:
            begun.put(error)
        else:
            begun.put(None)

    threading.Thread(target=begin_all, name="requests", daemon=True).start()
    try:
        while True:
            try:
                future = begun.get(timeout=deadline.remaining())
            except queue.Empty:
                raise TimeoutError from None
            if future is None:
                return
            if isinstance(future, Exception):
                raise future
            yield future.result(deadline.remaining())
            free.release()
    finally:
        stopped.set()
        free.release()  # the thread that takes requests may be waiting for it
        pool.shutdown(wait=False, cancel_futures=True)
