"""Serves /metrics for Prometheus and the Open Inference Protocol's two health paths for probes, on its own port."""

import errno
import io
import selectors
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any, TextIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import choose_encoder

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.host.ports import bind_problem
from hangtag.serving.server.telemetry.prometheus import StateCollector

log = structlog.get_logger()

MAX_CONNECTIONS = 32
"""Most connections at the same time, each with a thread; any further one is closed."""

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE_SECONDS = 0.5
"""Before the next attempt to accept a connection for which the system has no file or no memory."""

StartResponse = Callable[..., Any]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = MAX_CONNECTIONS  # with the default of 5, a client of a burst waits a second for its next try
    timeout = 0  # handle_request never waits: its caller has waited for a connection

    def __init__(self, *arguments: Any) -> None:
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self.stopping = threading.Event()
        super().__init__(*arguments)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection. Where that fails, it stays in the kernel's queue: pause, or the thread would spin."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self.stopping.wait(_PAUSE_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # the system allows no further thread
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do not log clients that disconnect, either."""


class _IPv6Server(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 10  # seconds, after which a connection that sends nothing is closed

    def log_message(self, format: str, *args: Any) -> None:
        """Do not log requests: any client that reaches the port could fill the log."""

    def get_stderr(self) -> TextIO:
        """Discard the errors that wsgiref prints for each client that does not read its answer."""
        return io.StringIO()


class MetricsServer:
    """Serves in a thread of its own from its construction until ``close``."""

    def __init__(self, config: ServerConfig, collector: StateCollector, ready: Callable[[], bool]) -> None:
        """Listen.

        Args:
            config: States the host and the port (metrics_port, 0 for a free one).
            collector: Builds the metrics.
            ready: Whether the server takes calls, for /v2/health/ready.

        Raises:
            StartError: The address cannot be bound.
        """
        registry = CollectorRegistry()
        registry.register(collector)
        self._metrics = make_wsgi_app(registry)
        self._ready = ready
        server_class = _IPv6Server if ":" in config.host else _Server
        try:
            self._server = make_server(
                config.host, config.metrics_port, self._answer, server_class=server_class, handler_class=_Handler
            )
        except OSError as error:
            problem = bind_problem(error, config.metrics_port)
            raise StartError(
                f"cannot listen on {config.address(config.metrics_port)} for metrics: {problem}. Choose another port "
                "with --metrics-port (0 picks a free one, -1 turns metrics off), or another address with --host."
            ) from error
        self.port: int = self._server.server_port
        self._stop_sender, self._stop_receiver = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and end the thread."""
        self._server.stopping.set()
        self._stop_sender.close()
        self._thread.join()
        self._server.server_close()
        self._stop_receiver.close()

    def _serve(self) -> None:
        """Accept connections until `close`. serve_forever would notice that only after its next poll, half a second."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._server, selectors.EVENT_READ)
            selector.register(self._stop_receiver, selectors.EVENT_READ)  # it is readable once the sender is closed
            while self._stop_receiver not in [key.fileobj for key, _ in selector.select()]:
                self._server.handle_request()

    def _answer(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/metrics":
            status, text = self._health(environ["PATH_INFO"])
        elif not _can_be_read(environ.get("HTTP_ACCEPT", "")):
            status, text = "400 Bad Request", "the Accept header has a version that is not a number"
        else:
            try:
                return self._metrics(environ, start_response)  # type: ignore[no-any-return]
            except Exception as error:
                log.warning("metrics not sent", reason=repr(error)[:200])
                status, text = "500 Internal Server Error", "the metrics could not be sent; the log has the reason"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]

    def _health(self, path: str) -> tuple[str, str]:
        match path:
            case "/v2/health/live":
                return "200 OK", "live"
            case "/v2/health/ready":
                return ("200 OK", "ready") if self._ready() else ("503 Service Unavailable", "not ready")
            case _:
                return "404 Not Found", "this port serves /metrics, /v2/health/live and /v2/health/ready"


def _can_be_read(accept: str) -> bool:
    """Whether prometheus-client can read an Accept header: its error would quote the header, in the log."""
    try:
        choose_encoder(accept)
    except (TypeError, ValueError):  # it compares versions as numbers
        return False
    return True
