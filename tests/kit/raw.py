"""A connection to a server's HTTP port, and requests as their bytes."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.kit.live import TIMEOUT, LiveServer
from tests.kit.rest import tensor

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
