"""Keeps cancelled calls from ending the connection that they share with others.

gRPC ends a cancelled call by a reset of its stream. A server that finds many streams reset before it has accepted them
assumes a rapid reset attack (CVE-2023-44487), and ends the connection with every call on it. The HTTP/2 library of
hangtag's native transport does so at the 21st of such streams, and pygrpc-native 0.5 has no setting for that limit.
Calls that begin and are cancelled within a moment get there, because the server may find all of them in one read.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

import grpc.aio

PROBE = "/grpc.health.v1.Health/Check"
"""The method of the probes. Any server answers it quickly, be it by UNIMPLEMENTED, and hangtag's without a token."""
PROBE_SECONDS = 0.25
"""Deadline of a probe, which may have to wait behind calls that gRPC has not sent yet. What was sent before is accepted
by then, unless the server stands still."""
MOST_RESETS = 10
"""Streams to reset before the server is known to have accepted them: half of what the native transport takes."""


class Resets:
    """Cancels the calls of one channel, and makes further calls wait while the server has to accept earlier ones.

    A server accepts streams in the order in which they began. So the answer to a short call, the probe, shows that it
    has accepted every stream that began before. After ``MOST_RESETS`` resets a probe is sent. Until its answer, which
    takes about a millisecond, no further call is cancelled, and none begins. One that is cancelled before it has begun
    is never sent. Calls that are not cancelled neither wait nor cause a probe.
    """

    def __init__(self, channel: Callable[[], grpc.aio.Channel]) -> None:
        """Send nothing yet.

        Args:
            channel: Returns the channel of the calls. It is not called after ``close``.
        """
        self._channel = channel
        self._resets = 0  # since the last probe
        self._waiting: list[grpc.aio.Call] = []
        self._probing = self._closed = False
        self._may_begin = asyncio.Event()
        self._may_begin.set()

    async def wait_to_begin(self, timeout: float | None) -> float | None:
        """Wait while no call may begin, and return what is left of a deadline in seconds; None is no deadline.

        Raises:
            TimeoutError: The deadline has passed.
        """
        if self._may_begin.is_set():
            return timeout
        came = time.monotonic()
        async with asyncio.timeout(timeout):
            await self._may_begin.wait()
        return None if timeout is None else max(0.0, came + timeout - time.monotonic())

    def cancel(self, *calls: grpc.aio.Call) -> None:
        """Cancel the calls among these that have not ended: at once, or after a probe."""
        unfinished = [call for call in calls if not call.done()]
        room = len(unfinished) if self._closed else MOST_RESETS - self._resets
        for call in unfinished[:room]:
            call.cancel()
            self._resets += 1
        self._waiting += unfinished[room:]
        if self._resets == MOST_RESETS and not (self._probing or self._closed):
            self._probing = True
            self._may_begin.clear()
            accepted, self._waiting = self._waiting, []  # by the server, once it answers the probe
            probe: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel().unary_unary(PROBE)
            probe(b"", timeout=PROBE_SECONDS).add_done_callback(partial(self._on_answer, accepted))

    def close(self) -> None:
        """Make no call wait any more, because the channel is about to be closed, and its connection ends."""
        self._closed = True
        self._may_begin.set()

    def _on_answer(self, accepted: Sequence[grpc.aio.Call], _probe: object) -> None:
        # A probe that fails serves as well: the connection has ended, or it is so long ago that the streams began.
        for call in accepted:
            call.cancel()
        self._resets = 0
        self._probing = False
        waiting, self._waiting = self._waiting, []
        self.cancel(*waiting)
        if not self._probing:
            self._may_begin.set()
