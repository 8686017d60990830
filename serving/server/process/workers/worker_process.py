"""A worker from its supervisor's side: the process, the pipe to it, and its last known state."""

import multiprocessing
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError, UnavailableError
from hangtag.serving.server.process.workers import entry
from hangtag.serving.server.process.workers.messages import GetState, Stop
from hangtag.serving.server.process.workers.pipe_rpc import Peer, PeerError
from hangtag.serving.server.telemetry.server_state import ServerState

_CONTEXT = multiprocessing.get_context("spawn")  # the threads of gRPC and ONNX Runtime do not survive a fork
_PAUSE_SECONDS = 0.001


class WorkerProcess:
    """Starts a worker process on construction."""

    def __init__(
        self,
        number: int,
        config: ServerConfig,
        versions: Mapping[str, tuple[int, ...]],
        changes_before: int,
        answer: Callable[["WorkerProcess", Any], Any],
        on_end: Callable[["WorkerProcess"], None],
    ) -> None:
        """Start the process.

        Args:
            number: The worker's place among the workers, for the log; its replacement gets the same.
            config: The server's settings, with the port that all workers share.
            versions: The versions that the other workers serve, by model.
            changes_before: How many load and unload calls led to what the other workers serve.
            answer: Answers a message of this worker, or raises what the worker's call is to raise.
            on_end: Called once, when the process has ended.

        Raises:
            StartError: The system allows no further process, file or thread.
        """
        self.number = number
        self._answer_seconds = config.limits.worker_answer_seconds
        self.changes_before = changes_before
        self.started = time.monotonic()
        self.gets_changes = False
        """Whether load and unload calls are sent to it; false until it has caught up."""
        self.listening = False
        self.ended = False
        """Whether the supervisor knows that the process has ended."""
        self.failure = ""
        """Why it could not start."""
        self.state = ServerState()
        """Its last known state."""
        self.last_answer = self.started
        """When it last answered, on the monotonic clock."""
        try:
            ours, theirs = _CONTEXT.Pipe()
            self._process = _CONTEXT.Process(
                target=entry.main, args=(number, config, versions, theirs), name=f"worker-{number}", daemon=True
            )
            self._process.start()
        except OSError as error:
            raise StartError(f"no process can be started for worker {number}: {error}") from error
        theirs.close()  # only the worker holds its end now, so reading from our end fails when the worker ends
        self.pid = self._process.pid
        self.exit_code: int | None = None
        """The exit code; minus the signal's number if a signal ended the process."""
        self._closed = threading.Event()
        self._peer = Peer(ours, lambda message: answer(self, message), lambda: self._close(on_end))
        try:
            self._peer.start()
        except RuntimeError as error:
            self.kill()
            raise StartError(f"no thread can be started for worker {number}: {error}") from error

    @property
    def ending(self) -> str:
        """How the process has ended, for the log."""
        code = self.exit_code
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def call(self, message: Any, timeout: float | None = None) -> Any:
        """Send a message and return the answer. Raises PeerError, or what the worker raised."""
        return self._peer.call(message, timeout)

    def refresh(self) -> None:
        """Read the worker's state; without an answer the last known one stays."""
        try:
            self.state = self.call(GetState(), self._answer_seconds)
        except UnavailableError:
            pass  # it is starting, and has answered that
        except Exception:
            return  # it has ended or hangs; last_answer says since when
        self.last_answer = time.monotonic()

    def request_stop(self) -> None:
        """Let the worker drain and end."""
        try:
            self.call(Stop(), self._answer_seconds)
        except PeerError:
            return  # it has ended already, or the supervisor will kill it

    def kill(self) -> None:
        with suppress(ValueError):  # it has ended, and was closed
            self._process.kill()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the process to end; returns whether it has."""
        return self._closed.wait(timeout)

    def _close(self, on_end: Callable[["WorkerProcess"], None]) -> None:
        """Wait for the end of a process that has closed its pipe, and free its descriptors."""
        self._process.join()
        # multiprocessing looks at all processes whenever one is started, so another thread may have seen the end first:
        # then join returns before that thread has noted the exit code, without which close raises ValueError.
        while self._process.exitcode is None:
            time.sleep(_PAUSE_SECONDS)
        self.exit_code = self._process.exitcode
        self._process.close()
        self._closed.set()
        on_end(self)
