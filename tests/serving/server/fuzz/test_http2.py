"""HTTP/2 frames that no gRPC client sends: out of order, misplaced, too long, too many, or missing.

The cases come from h2spec (RFC 9113) and from two attacks: streams that are opened and reset immediately
(CVE-2023-44487), and headers that never end (CVE-2024-27316)."""

import os
import socket
import struct
import threading
from collections.abc import Iterable
from contextlib import ExitStack, suppress

import grpc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.kit.http2 import (
    CALL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADER_VALUES,
    HEADERS,
    OPEN,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    call,
    frame,
    header,
)
from tests.kit.raw import connect
from tests.kit.target import Target
from tests.kit.waiting import TIMEOUT

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("FUZZ_CASES", "60"))
IDLE_CONNECTIONS = 1200
FLAT = 48 << 20
"""The number of bytes by which the process may grow during an attack."""
frames = st.builds(
    frame,
    st.integers(0, 12),
    st.binary(max_size=40) | st.just(CALL),
    flags=st.sampled_from([0, END_STREAM, END_HEADERS, END_STREAM | END_HEADERS, 0x8, 0x20, 0xFF]),
    stream=st.sampled_from([0, 1, 2, 3, 5, 2**31 - 1, 2**31]),
    length=st.none() | st.sampled_from([0, 1, 9, 2**14 + 1, 2**24 - 1]),
)


def send(target: Target, data: Iterable[bytes]) -> None:
    """Send the data, close the sending side, and wait until the server has closed the connection."""
    with connect(target.address, b"") as connection:
        try:
            for part in data:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except TimeoutError:
            raise  # the server did not close the connection
        except OSError:
            return  # the server closed the connection early


@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(sent=st.lists(frames, max_size=8), opening=st.sampled_from([OPEN, OPEN, OPEN, PREFACE, PREFACE[:9], b""]))
def test_any_frames(target: Target, sent: list[bytes], opening: bytes) -> None:
    send(target, [opening, *sent])


@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=300))
def test_any_bytes(target: Target, data: bytes) -> None:
    send(target, [data])


@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
@example(name=":path", value=b"/inference.GRPCInferenceService/\xff\xfe")
@given(
    name=st.sampled_from([*HEADER_VALUES, "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "user-agent", "x"]),
    value=st.binary(max_size=100) | st.text(max_size=25).map(str.encode),
)
def test_any_value_of_a_header(target: Target, name: str, value: bytes) -> None:
    """In grpcio 1.84 and 1.85, a path that is not UTF-8 ends the whole server."""
    block = b"".join(header(*each) for each in (HEADER_VALUES | {name: value}).items())
    send(target, [OPEN, frame(HEADERS, block, flags=END_HEADERS | END_STREAM, stream=1)])


STREAMS = range(1, 20_001, 2)
ATTACKS = {
    "rapid reset": [OPEN, *(call(stream) + frame(RST_STREAM, bytes(4), stream=stream) for stream in STREAMS)],
    "endless headers": [OPEN, call(1, flags=0), *[frame(CONTINUATION, header("x", "y" * 100) * 100, stream=1)] * 2000],
    "streams without end": [OPEN, *(call(stream) for stream in STREAMS)],
    "pings": [OPEN, *[frame(PING, bytes(8))] * 20_000],
    "settings": [OPEN, *[frame(SETTINGS, struct.pack(">HI", 4, 1))] * 20_000],
    "window overflow": [OPEN, *[frame(WINDOW_UPDATE, struct.pack(">I", 2**31 - 1))] * 10],
    "priorities": [OPEN, *[frame(PRIORITY, bytes(5), stream=3)] * 20_000],
    "empty data": [OPEN, call(1), *[frame(DATA, b"", stream=1)] * 20_000],
    "a message of 4 GiB, announced": [
        *(OPEN, call(1), frame(DATA, b"\x00" + struct.pack(">I", 2**32 - 1) + b"x", stream=1))
    ],
    "a huge HPACK table": [OPEN, frame(HEADERS, b"\x3f\xe1\xff\xff\xff\x7f" + CALL, flags=END_HEADERS, stream=1)],
    "HTTP/1.1": [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"],
    "TLS": [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)],
    "garbage": [bytes(range(256)) * 400],
}


@pytest.mark.parametrize("data", ATTACKS.values(), ids=ATTACKS)
def test_others_are_answered_during_an_attack_and_memory_is_flat_after_it(target: Target, data: list[bytes]) -> None:
    send(target, data)  # allocates the memory for this kind of connection
    target.require_answer()
    if target.transport == "grpc" and data is ATTACKS["endless headers"]:
        return  # gRPC's core keeps most of the memory of such a flood (docs/reference/limits.md)
    before = target.memory()

    def attack() -> None:
        for _ in range(2):
            send(target, data)

    attackers = [threading.Thread(target=attack) for _ in range(3)]
    for attacker in attackers:
        attacker.start()
    while any(attacker.is_alive() for attacker in attackers):
        target.require_answer()
    target.require_answer()
    target.wait_for_memory(before + FLAT)


def test_others_are_answered_beside_many_idle_connections(target: Target) -> None:
    """native has no limit on connections, because only this host can reach it. grpc and Envoy close the connections
    beyond --max-connections (1024)."""
    target.require_answer()
    before = target.memory()
    with ExitStack() as idle:
        for number in range(IDLE_CONNECTIONS):
            connection = idle.enter_context(connect(target.address, b""))
            if number % 2:  # Half of the connections send nothing.
                with suppress(OSError):  # The server may have closed the connection.
                    connection.sendall(OPEN)
        for _ in range(20):
            target.require_answer()
    with grpc.insecure_channel(target.address, [("grpc.use_local_subchannel_pool", 1)]) as another:
        grpc.channel_ready_future(another).result(TIMEOUT)
    target.wait_for_memory(before + FLAT)
