"""Services that the audit cannot use."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from deploy.advisories import Advisories, served


@pytest.fixture
def closed() -> str:
    """The URL of a service that no connection is possible to."""
    with served(Advisories.of([])) as url:
        return url


@pytest.fixture
def broken() -> Iterator[str]:
    """A service that answers every query with an error."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(503)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()
