"""Clients for asyncio belong to one event loop: the one of their first call."""

import asyncio


class OneLoop:
    """Remembers the event loop of the first call, which need not be running when a client is made."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def require(self) -> None:
        """Check that the running loop is that of the first call. Raises RuntimeError where it is another."""
        running = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = running
        elif running is not self._loop:
            raise RuntimeError("this AsyncClient belongs to another event loop; make one for each loop")
