"""The supervisor's view of a worker (its process, pipe and last known state), and changes of models in all workers."""

import multiprocessing
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Literal, TypeAlias

import structlog

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import ControlError, NothingToUnloadError, StartError, UnavailableError
from hangtag.serving.server.process.worker import Peer, PeerError, main
from hangtag.serving.server.telemetry.server_state import ServerState

log = structlog.get_logger()

Change: TypeAlias = Literal["load", "unload"]

_CONTEXT = multiprocessing.get_context("spawn")  # the threads of gRPC and ONNX Runtime do not survive a fork
_PAUSE_SECONDS = 0.001


class WorkerProcess(Peer):
    """A worker process, which the constructor starts. The functions that it offers are in `worker.main`."""

    def __init__(self, number: int, config: ServerConfig, versions: Mapping[str, tuple[int, ...]]) -> None:
        """Start the process. Raises StartError if the system allows no further process or file. A worker's replacement
        gets the same ``number``. ``versions`` maps each model to the versions that the other workers serve; it is empty
        when the server starts, because no other worker serves yet."""
        self.number = number
        self.started = time.monotonic()
        self.listening = False
        self.failure = ""
        """Why the worker could not start. If the worker gives no reason, ``run`` stores how the process ended."""
        self.state = ServerState()
        """The worker's last known state."""
        self.last_answer = self.started
        """When the worker last answered, on the monotonic clock."""
        try:
            ours, theirs = _CONTEXT.Pipe()
            self._process = _CONTEXT.Process(
                target=main, args=(number, config, versions, theirs), name=f"worker-{number}", daemon=True
            )
            self._process.start()
        except OSError as error:
            raise StartError(f"the process of worker {number} cannot be started: {error}") from error
        theirs.close()  # only the worker holds this end now, so reading the other end fails when the worker ends
        self.pid = self._process.pid
        super().__init__(ours)
        self.ended = threading.Event()

    def run(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        """Let the worker call these functions, until its process has ended. Then free the process's descriptors."""
        self.answer_calls(functions)
        self._process.join()
        # When multiprocessing starts a process, it polls all others, so a thread that starts a worker may notice first
        # that this one ended. Then join returns before that thread records the code, and close would raise ValueError.
        while (code := self._process.exitcode) is None:
            time.sleep(_PAUSE_SECONDS)
        self._process.close()
        ending = f"signal {-code}" if code < 0 else f"exit code {code}"
        self.failure = self.failure or f"worker {self.number} ended with {ending}"
        self.ended.set()

    def take_state(self, answer: "Future[Any]") -> None:
        """Record the worker's answer to the call "state". If the worker has ended, keep the last known state."""
        if not self.ended.is_set() and answer.exception() is None:
            self.state = answer.result()
            self.last_answer = time.monotonic()

    def kill(self) -> None:
        with suppress(ValueError):  # the process has ended, and was closed
            self._process.kill()


def make_change(change: Change, name: str, workers: Sequence[WorkerProcess]) -> None:
    """Let one worker try a change. If the change succeeds, the other workers repeat it or are replaced.

    A worker that is stopping cannot make a change. A worker cannot unload a model that it lacks, for example if the
    model's folder was gone when the worker started.
    """
    is_made = False
    for worker in workers:
        try:
            worker.call(change, name)
        except (UnavailableError, NothingToUnloadError):
            if not is_made and worker is workers[-1]:
                raise
        except Exception as error:
            if not is_made and isinstance(error, PeerError):
                reason = f"the worker that tried this first has ended and is being replaced: {error}"
                raise ControlError(reason) from error
            if not is_made:
                raise
            reason = str(error)
            log.warning("worker is replaced: it failed to load/unload a model", worker=worker.number, reason=reason)
            worker.kill()
        else:
            is_made = True
