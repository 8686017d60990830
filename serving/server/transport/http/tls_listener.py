"""Accepts the connections of HTTPS, and counts them from then on, before their TLS handshake.

An event loop's own server tells a protocol of a connection once its handshake is over. A client that never begins one
would until then hold a descriptor and the buffers of the handshake, and nothing would limit how many clients do so.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sized
from contextlib import suppress

_RETRY_SECONDS = 0.1
"""How long nothing is accepted after a connection could not be: there may be no file left to open."""


class TlsListener:
    """Accepts connections from its construction until ``close``. To be used on the event loop alone."""

    def __init__(
        self,
        listener: socket.socket,
        tls: Callable[[], ssl.SSLContext],
        protocol: Callable[[], asyncio.Protocol],
        connections: Sized,
        most: int,
        handshake_seconds: float,
    ) -> None:
        """Begin to accept.

        Args:
            listener: A socket that listens; the caller closes it.
            tls: Returns what the next connection is encrypted with.
            protocol: Makes the protocol of a connection. The handshake is over when its ``connection_made`` is called.
            connections: Those that are open after their handshake.
            most: How many connections may be open, in their handshake and after it. Further ones are closed at once.
            handshake_seconds: How long a handshake may take.
        """
        listener.setblocking(False)
        self._listener = listener
        self._tls = tls
        self._protocol = protocol
        self._connections = connections
        self._most = most
        self._handshake_seconds = handshake_seconds
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepting = self._loop.create_task(self._accept())

    async def close(self) -> None:
        """Accept nothing more, and close the connections whose handshake is not over."""
        tasks = [self._accepting, *self._handshakes]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _accept(self) -> None:
        while True:
            try:
                client, _ = await self._loop.sock_accept(self._listener)
            except OSError:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if len(self._handshakes) + len(self._connections) < self._most:
                handshake = self._loop.create_task(self._shake_hands(client))
                self._handshakes.add(handshake)
                handshake.add_done_callback(self._handshakes.discard)
            else:
                client.close()
            await asyncio.sleep(0)  # else a flood of connections would hold up everything on the loop

    async def _shake_hands(self, client: socket.socket) -> None:
        with suppress(OSError):  # the handshake has failed or took too long, and the loop has closed the connection
            await self._loop.connect_accepted_socket(
                self._protocol, client, ssl=self._tls(), ssl_handshake_timeout=self._handshake_seconds
            )
