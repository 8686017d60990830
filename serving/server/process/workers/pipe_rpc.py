"""Remote procedure calls between two processes, in both directions, over one pipe."""

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
    """The other process has ended, or does not answer, or not in time."""


class Peer:
    """The process at the other end of a pipe: ``call`` sends it a message and waits for the answer."""

    def __init__(
        self, connection: Connection, answer: Callable[[Any], Any], on_end: Callable[[], None] = lambda: None
    ) -> None:
        """
        Args:
            connection: This process's end of the pipe.
            answer: Returns the answer to a message of the peer, or raises what the peer's call is to raise. Runs in a
                thread of its own for each message, so that it may call the peer in turn.
            on_end: Called once, when the peer has closed its end.
        """
        self._connection = connection
        self._answer = answer
        self._on_end = on_end
        self._sending = threading.Lock()
        self._pending: dict[int, Future[Any]] = {}
        self._numbers = itertools.count()
        self._ended = False
        self._reader = threading.Thread(target=self._read, name="peer", daemon=True)

    def start(self) -> None:
        """Start to read the pipe."""
        self._reader.start()

    def call(self, message: Any, timeout: float | None = None) -> Any:
        """Send a message and return the peer's answer.

        Raises:
            PeerError: The peer has ended, or did not answer within ``timeout`` seconds.
            Exception: Whatever the peer's ``answer`` raised.
        """
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
                    self._start_reply(number, content)
                elif (answer := self._pending.pop(number, None)) is not None:
                    if kind == "raised":
                        answer.set_exception(content)
                    else:
                        answer.set_result(content)
        except (EOFError, OSError):
            self._ended = True
            for answer in list(self._pending.values()):
                answer.set_exception(PeerError("the other process ended"))
            with self._sending:  # else a message might go to a file that gets the same descriptor
                self._connection.close()
            on_end, self._on_end = self._on_end, _nothing
            # These may refer to what refers to this peer: without the circle, its owner is freed, and with a process
            # its file descriptors, as soon as nobody needs it.
            self._answer = _no_answer
            on_end()

    def _start_reply(self, number: int, message: Any) -> None:
        thread = threading.Thread(target=self._reply, args=(number, message), name="peer-call", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system allows no further thread; this one must go on reading
            failure = PeerError(f"the other process cannot answer: {error}")
            self._send_reply(message, ("raised", number, failure))

    def _reply(self, number: int, message: Any) -> None:
        try:
            reply = ("answer", number, self._answer(message))
        except Exception as error:
            reply = ("raised", number, error)
        self._send_reply(message, reply)

    def _send_reply(self, message: Any, reply: tuple[str, int, Any]) -> None:
        try:
            self._send(reply)
        except PeerError:
            log.info("the other process ended before its call was answered", message=type(message).__name__)

    def _send(self, message: tuple[str, int, Any]) -> None:
        try:
            with self._sending:
                self._connection.send(message)
        except (OSError, ValueError) as error:
            raise PeerError(f"the other process ended: {error}") from error


def _nothing() -> None:
    """What happens when a peer ends that has ended already."""


def _no_answer(message: Any) -> Any:
    """The answer to a message that is read while the peer ends."""
    raise PeerError(f"no answer to {type(message).__name__}: the other process ended")
