"""A server of HTTP that is not hangtag's: a test decides its answers."""

import http.server
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # of five, the default, many connections at once lose some, which are tried again later

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tests print nothing of a client that has gone; other exceptions are faults of a test's answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def web_server(answer: Callable[[str], Answer]) -> Iterator[str]:
    """A server of HTTP that answers each path with a status, headers and a body; yields its HOST:PORT."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # the head and the body are two writes

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status, headers, body = answer(self.path)
            self.send_response(status)
            known_length = {} if "transfer-encoding" in headers else {"content-length": str(len(body))}
            for name, value in {**known_length, **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the library names its methods

        def log_message(self, *_: object) -> None:
            """Tests print nothing."""

    web = _Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, args=(0.01,)).start()
    try:
        yield f"127.0.0.1:{web.server_port}"
    finally:
        web.shutdown()
        web.server_close()
