"""The supervisor's view of its workers: each worker's process, pipe and last known state. This module also passes load
and unload calls to all workers."""

import multiprocessing
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Literal

import structlog

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import ControlError, NothingToUnloadError, StartError, UnavailableError
from hangtag.serving.server.process.worker import Peer, PeerError, main
from hangtag.serving.server.telemetry.server_state import ServerState

log = structlog.get_logger()

_CONTEXT = multiprocessing.get_context("spawn")  # the threads of gRPC and ONNX Runtime do not survive a fork
_PAUSE_SECONDS = 0.001


class WorkerProcess(Peer):
    """A worker process, which the constructor starts. The functions that it offers are in `worker.main`."""

    def __init__(self, number: int, config: ServerConfig, versions: Mapping[str, tuple[int, ...]]) -> None:
        """Start the process. Raises StartError if the system allows no further process or file. A worker's replacement
        gets the same ``number``. ``versions`` are the versions that the other workers serve, by model; empty when the
        whole server starts."""
        self.number = number
        self.started = time.monotonic()
        self.gets_changes = False
        """Whether the worker gets load and unload calls; false until `Changes.catch_up`."""
        self.missed: set[str] = set()
        """The models that were loaded or unloaded in other workers before this worker caught up."""
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
        # multiprocessing checks all its processes whenever it starts a process, so another thread may notice the end
        # first. join then returns before that thread has recorded the exit code, and close would raise ValueError.
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


class Changes:
    """Passes load and unload calls to all workers, and records the loaded models (with --model-control explicit)."""

    def __init__(self, workers: Callable[[], Sequence[WorkerProcess]]) -> None:
        self._workers = workers
        self._changing = threading.Lock()  # one call at a time
        self.models: frozenset[str] = frozenset()
        """The models that a newly started worker has to load."""

    def catch_up(self, worker: WorkerProcess) -> tuple[set[str], set[str]]:
        """From now on, send changes to this worker too. Return the models that it must load and unload to catch up."""
        with self._changing:
            worker.gets_changes = True
            return worker.missed & self.models, worker.missed - self.models

    def make(self, change: Literal["load", "unload"], name: str) -> None:
        """Let one worker try a change. If the change succeeds, the other workers repeat it or are replaced.

        A worker that is stopping cannot make a change. A worker cannot unload a model that it lacks, for example if the
        model's folder was gone when the worker started.

        Raises:
            ControlError: No worker runs, or the first worker ended or could not make the change. Nothing has changed.
            NotFoundError: There is no such model, or no worker serves it.
            UnavailableError: All workers are stopping.
        """
        with self._changing:
            workers = [worker for worker in self._workers() if worker.gets_changes]
            if not workers:
                raise ControlError("no worker is running; try again in a moment")
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
                    log.warning("worker is replaced: it could not repeat a change", worker=worker.number, reason=reason)
                    worker.kill()
                else:
                    if not is_made:
                        self._record(change, name)
                    is_made = True

    def _record(self, change: Literal["load", "unload"], name: str) -> None:
        """Record a change before other workers follow, because the replacement of a killed worker starts with the
        recorded changes. The model is recorded first, so that a worker that starts meanwhile repeats the change instead
        of missing it."""
        self.models = self.models | {name} if change == "load" else self.models - {name}
        for worker in self._workers():
            if not worker.gets_changes:
                worker.missed.add(name)
