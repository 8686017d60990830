"""One worker, which is a whole server in its own process. A client's call that loads or unloads a model reaches all
workers: the worker forwards it to the supervisor over a pipe. A worker's process begins with this module, and imports
gRPC and ONNX Runtime only after ``environment.prepare``."""

import itertools
import os
import queue
import select
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from types import FrameType, SimpleNamespace
from typing import Any

import structlog

from hangtag.errors import UserError
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.host import machine
from hangtag.serving.server.process import environment
from hangtag.serving.server.telemetry.log import configure_log
from hangtag.serving.server.telemetry.server_state import ServerState

log = structlog.get_logger()
_CHECK_SECONDS = 0.5
_MAX_PENDING = 60
"""How many calls of "state" may be unanswered. The pipe still has room for the other calls, which are rare."""
_SEND_SECONDS = 5.0
"""How long a call waits for room in the pipe. A process that hangs reads nothing, and a full pipe blocks its sender."""


def main(number: int, config: ServerConfig, versions: Mapping[str, tuple[int, ...]], connection: Connection) -> None:
    """Load the models, listen, serve until there is a reason to stop, and drain. The exit code is 1 if the start fails.
    See `WorkerProcess` for the arguments. ``connection`` is this worker's end of the pipe to the supervisor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the supervisor stops workers
    configure_log(worker=number)
    environment.prepare()
    reasons = StopReasons()
    # the supervisor calls the other functions only after this worker has called "listening"
    may_call: dict[str, Callable[..., Any]] = {
        "stop": lambda: reasons.put("the supervisor stops its workers"),
        "state": ServerState,
    }
    supervisor = Peer(connection)

    def answer_supervisor() -> None:
        supervisor.answer_calls(may_call)
        reasons.put("the supervisor ended")

    threading.Thread(target=answer_supervisor, name="peer", daemon=True).start()
    from hangtag.serving.server.process.server import Server  # imports gRPC, so ``prepare`` must come first

    def control_of_all(own: Any) -> Any:
        """Let this worker's clients load and unload models in all workers, through the supervisor."""
        of_all = {name: partial(supervisor.call, name) for name in ("load", "unload", "state")}
        return SimpleNamespace(published=own.published, **of_all)

    reasons.add_signals(signal.SIGTERM)
    try:
        server = Server(config, versions=versions, wrap_control=control_of_all)
        control = server.control
        may_call |= {"load": control.load, "unload": control.unload, "poll": control.poll, "state": server.state}
        control.start()
        server.listen()
        machine.release_loading_memory()
        supervisor.call("listening")
    except UserError as error:
        supervisor.call("start_failed", str(error))
        sys.exit(1)
    except PeerError:
        reasons.put("the supervisor ended")
    log.info("stopping", reason=reasons.wait())
    end_after(config.drain_seconds + config.limits.end_seconds)
    server.stop()


class StopReasons(queue.SimpleQueue[str]):
    """The reasons why this process should stop. Any thread may ``put`` a reason. A signal's handler may interrupt the
    main thread while it holds the lock of the log or of an Event, but SimpleQueue.put is reentrant."""

    def add_signals(self, *numbers: signal.Signals) -> None:
        """Treat these signals as reasons to stop. A second signal ends the process at once, with code 1."""

        def on_signal(number: int, _frame: FrameType | None) -> None:
            for each in numbers:
                signal.signal(each, lambda *_: os._exit(1))  # workers end when their supervisor has ended
            self.put(signal.Signals(number).name)

        for number in numbers:
            signal.signal(number, on_signal)

    def wait(self, failure: Callable[[], str] = lambda: "") -> str:
        """Wait for a reason to stop, and return it. Meanwhile, log when no more files can be opened. ``failure``
        returns why the server has failed, or "" while the server works. A failure is raised as a StartError."""
        exhausted = False
        # Python runs signal handlers in the main thread only. If the kernel delivers the signal to another thread, a
        # wait without a timeout would never return, so the main thread wakes up now and then.
        while True:
            try:
                return self.get(timeout=_CHECK_SECONDS)
            except queue.Empty:
                exhausted = machine.check_open_files(exhausted=exhausted)
                if problem := failure():
                    raise StartError(problem) from None


def end_after(seconds: float) -> None:
    """Let SIGALRM end this process after this time, even if a computation never ends. The signal's default action
    ends the process, regardless of what the threads do. 0 seconds: never."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


class PeerError(Exception):
    """The other process has ended, or did not answer in time."""


class Peer:
    """The process at the other end of a pipe. Each of the two processes can call functions of the other. A message
    consists of the call's number, the function's name and the arguments. A reply consists of the call's number, None
    in place of a name, and the function's result or the exception that it raised."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._pending: dict[int, Future[Any]] = {}
        self._numbers = itertools.count()

    def call(self, name: str, *arguments: Any, timeout: float | None = None) -> Any:
        """Call a function of the peer and return its answer.

        Raises:
            PeerError: The peer has ended, or did not answer within ``timeout`` seconds.
            Exception: Any exception that the function raised.
        """
        try:
            return self.begin(name, *arguments).result(timeout)
        except TimeoutError as error:
            raise PeerError(f"no answer within {timeout:g} s") from error

    def begin(self, name: str, *arguments: Any) -> "Future[Any]":
        """Call a function of the peer. The future gets the answer, or an exception that `call` would raise."""
        number, answer = next(self._numbers), Future[Any]()
        self._pending[number] = answer
        try:
            if name == "state" and len(self._pending) > _MAX_PENDING:
                raise PeerError("the other process does not answer")  # noqa: TRY301 - the future gets the error
            self._send(number, name, arguments, _SEND_SECONDS)
        except PeerError as error:
            self._end(number, error)
        return answer

    def answer_calls(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        """Read the pipe until the peer closes its end. The peer may call ``functions`` by their names. Each call runs
        in its own thread, so that a function may call the peer in turn."""
        try:
            while True:
                number, name, content = self._connection.recv()
                if name is None:
                    self._end(number, content)
                    continue
                thread = threading.Thread(target=self._reply, args=(functions, number, name, content), daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # this thread must read messages, not call the function
                    self._answer(number, PeerError(f"the other process cannot answer: {error}"))
        except (EOFError, OSError):
            # otherwise another thread might send a message to another file that gets the same descriptor
            with self._sending:
                self._connection.close()
            for number in list(self._pending):
                self._end(number, PeerError("the other process ended"))

    def _reply(
        self, functions: Mapping[str, Callable[..., Any]], number: int, name: str, arguments: tuple[Any, ...]
    ) -> None:
        try:
            answer = functions[name](*arguments)
        except Exception as error:
            answer = error
        self._answer(number, answer)

    def _answer(self, number: int, answer: Any) -> None:
        with suppress(PeerError):  # the peer has ended, and waits for no answer
            self._send(number, None, answer)

    def _end(self, number: int, outcome: Any) -> None:
        if (answer := self._pending.pop(number, None)) is not None:
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

    def _send(self, number: int, name: str | None, content: Any, seconds: float | None = None) -> None:
        """Send a message. Raises PeerError if the peer has ended, or does not read for this many seconds."""
        if not self._sending.acquire(timeout=-1 if seconds is None else seconds):
            raise PeerError("the other process does not read")
        try:
            if seconds is not None:
                pipe = select.poll()
                pipe.register(self._connection, select.POLLOUT)
                if not pipe.poll(seconds * 1000):
                    raise PeerError("the other process does not read")
            self._connection.send((number, name, content))
        except (OSError, ValueError) as error:
            raise PeerError(f"the other process ended: {error}") from error
        finally:
            self._sending.release()
