"""httptools' parser, for a server that ignores every Upgrade header, as RFC 9110 (7.8) allows."""

from collections.abc import Callable

import httptools


class RequestParser(httptools.HttpRequestParser):
    """Parses a body after each head.

    httptools ends a request with ``Upgrade`` after its head, because it takes what follows for another protocol. This
    parser then parses that head a second time without the header, and goes on with what followed. It works with what
    httptools itself has read, so it makes no difference in which segments the bytes come.
    """

    def __init__(self, requests: object, head_without_upgrade: Callable[[], bytes]) -> None:
        """Parse for an object.

        Args:
            requests: Gets httptools' callbacks. It must serve nothing of a head for which `should_upgrade` is true and
                which is not a CONNECT; for a CONNECT it must raise, since no parser can read what follows.
            head_without_upgrade: Returns the head that was parsed last, without its header Upgrade.
        """
        self._requests = requests
        self._head_without_upgrade = head_without_upgrade
        self._start()

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]
        """Parse a segment.

        Raises:
            httptools.HttpParserError: The bytes are not a request, or a callback has raised.
        """
        while data:
            try:
                super().feed_data(data)
                data = b""
            except httptools.HttpParserUpgrade as end:
                data = self._head_without_upgrade() + data[end.args[0] :]
                self._start()

    def _start(self) -> None:
        super().__init__(self._requests)
