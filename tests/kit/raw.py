"""Sends and reads the bytes of connections, for tests of unusual HTTP requests and of slow clients."""

import json
import socket
import ssl
import time
from contextlib import suppress

from tests.kit.live import LiveServer
from tests.kit.rest import Rest, tensor
from tests.kit.waiting import TIMEOUT, pass_time

INFER = json.dumps({"inputs": [tensor("index", "INT64", [1], [1])]}).encode()
POST = b"POST /v2/models/gather/infer HTTP/1.1\r\nHost: here\r\n"


def connect(address: str, sent: bytes = b"") -> socket.socket:
    """Connect to HOST:PORT, and send these bytes."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), TIMEOUT)
    connection.sendall(sent)
    return connection


def connected(live: LiveServer) -> socket.socket:
    """Connect to a server's HTTP port."""
    return connect(live.server.http_address)


def read_to_the_end(connection: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    data = b""
    with suppress(ConnectionResetError):
        while more := connection.recv(65536):
            data += more
    return data


def status_line(connection: socket.socket) -> bytes:
    """Read the first line of an answer. The rest of the answer is lost."""
    with connection.makefile("rb") as answer:
        return answer.readline().strip()


def is_answered(live: LiveServer, tls: ssl.SSLContext | None = None) -> bool:
    """Whether the server answers on a new HTTP connection, which it refuses if it has too many connections."""
    with suppress(OSError), Rest(live.server.http_address, tls) as rest:
        return rest.get("/v2/health/live").status == 200
    return False


def send(connection: socket.socket, request_: bytes = INFER) -> None:
    """Send an HTTP request with this body, without waiting for the answer."""
    connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(request_) + request_)


def sip(connection: socket.socket, size: int, bytes_per_second: float) -> int:
    """Read this many bytes at a slow rate, or fewer if the connection ends, and return their number."""
    started, taken = time.monotonic(), 0
    with suppress(ConnectionResetError, ssl.SSLEOFError):
        while taken < size and (part := connection.recv(min(size - taken, 1 << 14))):
            taken += len(part)
            pass_time(max(0, started + taken / bytes_per_second - time.monotonic()))
    return taken
