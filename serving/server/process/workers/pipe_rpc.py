"""Calls between two processes, both ways, over one pipe."""

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from multiprocessing.connection import Connection
from typing import Any

import structlog

log = structlog.get_logger()


class PeerError(Exception):
    """The other process is gone, or does not answer in time."""


class Peer:
    """The other end. ``call`` asks it; what it asks is answered by ``handle``, each call in a thread of its own."""

    def __init__(
        self, connection: Connection, handle: Callable[[Any], Any], on_end: Callable[[], None] = lambda: None
    ) -> None:
        """handle: the caller gets its result, or what it raises. on_end: called once, when the other end is gone."""
        self._connection = connection
        self._handle = handle
        self._on_end = on_end
        self._sending = threading.Lock()
        self._pending: dict[int, Future[Any]] = {}
        self._numbers = itertools.count()
        self._ended = False
        self._reader = threading.Thread(target=self._read, name="peer", daemon=True)

    def start(self) -> None:
        self._reader.start()

    def call(self, message: Any, timeout: float | None = None) -> Any:
        """What the other end answers. Raises PeerError, or what it raised."""
        number = next(self._numbers)
        answer: Future[Any] = Future()
        self._pending[number] = answer
        try:
            self._send(("call", number, message))
            if self._ended and not answer.done():
                raise PeerError("the other process ended")
            return answer.result(timeout)
        except FutureTimeoutError as error:
            raise PeerError(f"no answer within {timeout:g} s") from error
        finally:
            self._pending.pop(number, None)

    def _read(self) -> None:
        try:
            while True:
                kind, number, content = self._connection.recv()
                if kind == "call":
                    threading.Thread(target=self._answer, args=(number, content), name="peer-call", daemon=True).start()
                elif (answer := self._pending.pop(number, None)) is not None:
                    if kind == "raised":
                        answer.set_exception(content)
                    else:
                        answer.set_result(content)
        except (EOFError, OSError):
            self._ended = True
            for answer in list(self._pending.values()):
                answer.set_exception(PeerError("the other process ended"))
            self._on_end()

    def _answer(self, number: int, message: Any) -> None:
        try:
            reply = ("answer", number, self._handle(message))
        except Exception as error:
            reply = ("raised", number, error)
        try:
            self._send(reply)
        except PeerError:
            log.info("nobody waits for an answer any more", message=type(message).__name__)

    def _send(self, message: tuple[str, int, Any]) -> None:
        try:
            with self._sending:
                self._connection.send(message)
        except (OSError, ValueError) as error:
            raise PeerError(f"the other process ended: {error}") from error
