"""--max-connections on native, which closes those beyond it within a second."""

from dataclasses import replace

import pytest

from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit.live import LiveServer, index, request
from tests.kit.raw import connected, status_line
from tests.serving.server.transport.grpc.test_limits import PING, connect, read_to_the_end, require_room

pytestmark = pytest.mark.slow
GET = b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n"


def test_the_newest_connections_beyond_the_limit_are_closed_and_one_that_ends_makes_room(config: ServerConfig) -> None:
    with LiveServer(replace(config, max_connections=3, http_port=0)) as live, connected(live) as over_http:
        assert live.infer(request("gather", index=index(1)))["value"].tolist() == [10]  # the first connection
        taken = [connect(live) for _ in range(2)]
        assert all(connection.recv(9) for connection in taken)  # each got the server's settings: it is accepted
        with connect(live) as one, connect(live) as another:
            read_to_the_end(one)
            read_to_the_end(another)
        for connection in taken:
            connection.sendall(PING)
            while b"\x06\x01" not in (received := connection.recv(4096)):  # the type and the flag of a PING's answer
                assert received
        over_http.sendall(GET)
        assert status_line(over_http) == b"HTTP/1.1 200 OK"  # a connection to another port does not count
        assert live.infer(request("gather", index=index(2)))["value"].tolist() == [20]
        for connection in taken:
            connection.close()
        require_room(live)
