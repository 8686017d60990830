"""Serves /metrics for Prometheus, and the Open Inference Protocol's two health paths for probes, on a separate port."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import structlog

from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.server.telemetry.prometheus import exposition
from hangtag.serving.server.telemetry.server_state import ServerState

log = structlog.get_logger()

_PLAIN = "text/plain; charset=utf-8"
_PAUSE_SECONDS = 0.05


class _Handler(BaseHTTPRequestHandler):
    server: "MetricsServer"
    timeout = 10  # seconds, after which a connection that sends nothing is closed

    def do_GET(self) -> None:
        status, content, content_type = self._answer()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def log_message(self, format: str, *args: Any) -> None:
        """Do not log requests, because any client that reaches the port could fill the log."""

    def _answer(self) -> tuple[int, bytes, str]:
        match urlsplit(self.path).path:
            case "/metrics":
                try:
                    return 200, *exposition(self.server.state, self.headers.get("Accept", ""))
                except InvalidRequestError as error:
                    return 400, f"{error}\n".encode(), _PLAIN
                except Exception as error:
                    log.warning("metrics not sent", reason=repr(error)[:200])
                    return 500, b"the metrics could not be sent; the log has the reason\n", _PLAIN
            case "/v2/health/live":
                return 200, b"live\n", _PLAIN
            case "/v2/health/ready":
                return (200, b"ready\n", _PLAIN) if self.server.ready() else (503, b"not ready\n", _PLAIN)
        return 404, b"this port serves /metrics, /v2/health/live and /v2/health/ready\n", _PLAIN


class MetricsServer(ThreadingHTTPServer):
    """An HTTP server with a thread for each connection. The server runs from construction until ``close``. Envoy limits
    how many connections a client may open."""

    request_queue_size = 32  # with a backlog of 5, the default, some clients of a burst would wait a second to retry

    def __init__(self, listener: socket.socket, state: Callable[[], ServerState], ready: Callable[[], bool]) -> None:
        """Listen on a bound socket, which this server owns from now on. ``ready`` answers /v2/health/ready."""
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.state = state
        self.ready = ready
        self.socket.close()
        self.socket = listener
        self.server_activate()
        self._thread = threading.Thread(target=self.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection. Pause if the system has no file descriptor or memory for the connection, which stays in
        the kernel's queue: without a pause, the thread would spin."""
        try:
            return self.socket.accept()[0], ("", 0)  # a peer on a Unix socket has no address
        except OSError:
            time.sleep(_PAUSE_SECONDS)
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do not log clients that disconnect."""

    def close(self) -> None:
        with contextlib.suppress(OSError):  # wakes serve_forever at once, except on macOS
            self.socket.shutdown(socket.SHUT_RDWR)
        self.shutdown()
        self.server_close()
        self._thread.join()
