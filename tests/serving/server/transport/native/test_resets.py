"""How many streams may be reset before the server has accepted them: pygrpc-native's limit, on which clients rely."""

import socket
import struct
from collections.abc import Iterable
from typing import BinaryIO

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.connection.resets import MOST_RESETS
from tests.kit.http2 import GOAWAY, OPEN, PING, RST_STREAM, call, frame
from tests.kit.live import TIMEOUT, LiveServer

ACK = 0x1
CANCEL, ENHANCE_YOUR_CALM = struct.pack(">I", 8), struct.pack(">I", 11)
ANY_PING = b"hangtag!"


def reset_at_once(live: LiveServer, streams: Iterable[int]) -> bytes:
    """Begin and reset streams in one write, and return the server's first PING or GOAWAY frame after that."""
    host, _, port = live.server.address.rpartition(":")
    with socket.create_connection((host, int(port)), TIMEOUT) as connection, connection.makefile("rb") as received:
        connection.sendall(OPEN + frame(PING, ANY_PING))
        assert answer(received).endswith(ANY_PING)  # so that the streams come in a read of their own
        pairs = b"".join(call(stream) + frame(RST_STREAM, CANCEL, stream=stream) for stream in streams)
        connection.sendall(pairs + frame(PING, ANY_PING))
        return answer(received)


def answer(received: BinaryIO) -> bytes:
    while True:
        head = received.read(9)
        assert len(head) == 9, "the connection ended without a GOAWAY"
        payload = received.read(int.from_bytes(head[:3], "big"))
        if head[3] == GOAWAY or (head[3] == PING and head[4] & ACK):
            return bytes(head[3:4] + payload)


def test_twice_as_many_resets_as_a_client_makes_at_once_do_not_end_a_connection(native: LiveServer) -> None:
    for _ in range(3):
        assert reset_at_once(native, range(1, 4 * MOST_RESETS, 2)) == bytes([PING]) + ANY_PING


def test_a_rapid_reset_ends_its_connection_and_no_other(native: LiveServer) -> None:
    """CVE-2023-44487."""
    end = reset_at_once(native, range(1, 2001, 2))
    assert end[0] == GOAWAY
    assert end[5:9] == ENHANCE_YOUR_CALM
    assert native.inference.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT).live
