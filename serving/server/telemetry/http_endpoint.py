"""The HTTP port: /metrics for Prometheus, and the Open Inference Protocol's two health paths for probes."""

import io
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any, TextIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.telemetry.prometheus import StateCollector

log = structlog.get_logger()

OFF = -1

StartResponse = Callable[..., Any]


MAX_CONNECTIONS = 32
"""At once; each has a thread. One more is closed."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Callers who hang up are not logged either."""


class _Version6Server(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 10  # whoever connects and says nothing is let go

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: whoever reaches the port could fill the log."""

    def get_stderr(self) -> TextIO:
        """Nor what wsgiref has to say of each caller who does not read his answer."""
        return io.StringIO()


class MetricsServer:
    """Serves in a thread of its own, until it is closed."""

    def __init__(self, config: ServerConfig, collector: StateCollector, ready: Callable[[], bool]) -> None:
        """Listens at once. Raises StartError when the port cannot be had."""
        registry = CollectorRegistry()
        registry.register(collector)
        self._metrics = make_wsgi_app(registry)
        self._ready = ready
        kind = _Version6Server if ":" in config.host else _Server
        try:
            self._server = make_server(
                config.host, config.metrics_port, self._answer, server_class=kind, handler_class=_Handler
            )
        except (OSError, OverflowError) as error:
            raise StartError(
                f"cannot listen on {config.address(config.metrics_port)} for metrics: {error}. Choose another port "
                "with --metrics-port (0 picks a free one, -1 turns metrics off)."
            ) from error
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/metrics":
            try:
                return self._metrics(environ, start_response)  # type: ignore[no-any-return]
            except Exception as error:  # an Accept header that prometheus-client cannot read, for one
                log.warning("metrics not told", reason=repr(error)[:200])
                status, text = "500 Internal Server Error", "the metrics could not be told; the log says why"
        else:
            status, text = self._told(environ["PATH_INFO"])
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]

    def _told(self, path: str) -> tuple[str, str]:
        match path:
            case "/v2/health/live":
                return "200 OK", "live"
            case "/v2/health/ready":
                return ("200 OK", "ready") if self._ready() else ("503 Service Unavailable", "not ready")
            case _:
                return "404 Not Found", "here are /metrics, /v2/health/live and /v2/health/ready"
