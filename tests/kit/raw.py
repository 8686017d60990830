"""A connection to a server's HTTP port, requests as their bytes, and clients that send or read slowly."""

import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.kit.live import TIMEOUT, LiveServer
from tests.kit.rest import tensor
from tests.kit.waiting import until

INFER = json.dumps({"inputs": [tensor("index", "INT64", [1], [1])]}).encode()
POST = b"POST /v2/models/gather/infer HTTP/1.1\r\nHost: here\r\n"


@contextmanager
def connected(live: LiveServer) -> Iterator[socket.socket]:
    host, _, port = live.server.http_address.rpartition(":")
    with socket.create_connection((host, int(port)), TIMEOUT) as connection:
        yield connection


def status_line(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as answer:
        return answer.readline().strip()


def send(connection: socket.socket, request_: bytes = INFER) -> None:
    connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(request_) + request_)


def trickle(connection: socket.socket, data: bytes, bytes_per_second: float) -> None:
    """Send data byte by byte."""
    started = time.monotonic()
    for count in range(len(data)):
        until(lambda due=started + count / bytes_per_second: time.monotonic() >= due)  # type: ignore[misc]
        connection.sendall(data[count : count + 1])


def sip(connection: socket.socket, size: int, bytes_per_second: float) -> int:
    """Read so many bytes, or until the connection ends; return how many came."""
    started, taken = time.monotonic(), 0
    with suppress(ConnectionResetError, ssl.SSLEOFError):
        while taken < size and (part := connection.recv(min(size - taken, 1 << 14))):
            taken += len(part)
            until(lambda due=started + taken / bytes_per_second: time.monotonic() >= due)  # type: ignore[misc]
    return taken
