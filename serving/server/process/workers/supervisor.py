"""Starts the workers, keeps as many as are wanted, and speaks for all of them."""

import threading
import time
from dataclasses import replace
from typing import Any

import structlog

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.repository import require_names
from hangtag.serving.server.errors import ControlError, StartError
from hangtag.serving.server.process.workers import shared_port as port
from hangtag.serving.server.process.workers.messages import Failed, GetState, Listening, Load, Loaded, Poll, Unload
from hangtag.serving.server.process.workers.pipe_rpc import PeerError
from hangtag.serving.server.process.workers.worker_process import WorkerProcess
from hangtag.serving.server.telemetry.prometheus import Workers
from hangtag.serving.server.telemetry.server_state import READY, ServerState, total

log = structlog.get_logger()

FIRST_DELAY, LONGEST_DELAY = 0.1, 30.0
"""Seconds before a worker is replaced: doubled each time that one ends within STABLE_SECONDS of its start."""
STABLE_SECONDS = 60.0
MAX_ATTEMPTS = 5
"""Replacements that do not even come to listen, one after the other; then the supervisor gives up."""
LOOK_SECONDS = 1.0
HANG_SECONDS = 60.0
"""A worker that says nothing for so long is killed, and replaced."""
_SPARE_SECONDS = 10.0


class Supervisor:
    """``start`` it, look for ``failure`` now and then, ``stop`` it."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._changed = threading.Condition()
        self._controlling = threading.Lock()  # one load or unload at a time
        self._workers: dict[int, WorkerProcess] = {}
        self._ended = ServerState()  # what the workers did that are gone
        self._restarts = 0
        self._short_lives = 0
        self._attempts = 0  # that came to nothing, since the last that listened
        self._failure = ""
        self._stopping = threading.Event()
        self._started = False
        self._wanted: set[str] = set()  # with --model-control explicit
        self._changes: list[str] = []  # names that were loaded or unloaded, in order
        self._versions: dict[str, tuple[int, ...]] = {}  # what the workers serve
        self._held = port.reserve(config)
        self._worker_config = replace(config, port=self._held.getsockname()[1])
        self._looking = threading.Thread(target=self._look_after_them, name="looking", daemon=True)

    @property
    def address(self) -> str:
        return self._config.address(self._worker_config.port)

    @property
    def ready(self) -> bool:
        """All have come to listen at least once, and one does."""
        return self._started and not self._stopping.is_set() and self.workers().running > 0

    def workers(self) -> Workers:
        with self._changed:
            running = sum(worker.listening for worker in self._workers.values())
            return Workers(self._config.workers, running, self._restarts)

    def start(self) -> None:
        """Return once all listen. Raises StartError, with all ended again, when one cannot start."""
        if self._config.model_control == "explicit":
            asked = self._config.load_model
            self._wanted = set(require_names(self._config.models) if "*" in asked else asked)
        with self._changed:
            for number in range(self._config.workers):
                self._begin(number)
        while not self._wait_for_all():
            self._look()
        if self._failure:
            self.stop(grace=0)
            raise StartError(self._failure)
        self._look()
        self._started = True
        self._looking.start()
        models = sorted({one.name for one in self.state().versions if one.state == READY})
        log.info("ready", address=self.address, workers=self._config.workers, models=models)

    @property
    def failure(self) -> str:
        """Why it had to give up; empty while it goes on."""
        return self._failure

    def stop(self, grace: float | None = None) -> None:
        """Every worker drains and ends; one that does not is killed."""
        with self._changed:
            self._stopping.set()  # from now on none begins
            workers = list(self._workers.values())
        grace = self._config.drain_seconds if grace is None else grace
        asking = [threading.Thread(target=worker.ask_to_stop) for worker in workers]
        for thread in asking:
            thread.start()
        until = time.monotonic() + grace + _SPARE_SECONDS
        for worker in workers:
            if not worker.join(max(0.0, until - time.monotonic())):
                worker.kill()
                worker.join()
        for thread in asking:
            thread.join()
        self._held.close()
        log.info("stopped")

    def load(self, name: str) -> None:
        """Load a model in every worker. Raises what the first one raises: then nothing has changed."""
        with self._controlling:
            self._wanted |= self._all_do(Load(name))

    def unload(self, name: str) -> None:
        """Unload a model in every worker."""
        with self._controlling:
            self._wanted -= self._all_do(Unload(name))

    def state(self) -> ServerState:
        """Of all workers together; what those did that are gone counts where their model still serves."""
        with self._changed:
            workers = [worker for worker in self._workers.values() if worker.listening]
        asking = [threading.Thread(target=worker.refresh) for worker in workers]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        now = total(worker.state for worker in workers)
        served = {(one.name, one.version) for one in now.versions}
        with self._changed:
            gone = self._ended.counts_only()
        counted = tuple(one for one in gone.versions if (one.name, one.version) in served)
        return now + replace(gone, versions=counted)

    def _wait_for_all(self) -> bool:
        """For a moment; whether all listen, or one has failed."""
        with self._changed:
            return bool(
                self._changed.wait_for(
                    lambda: self._failure or all(worker.listening for worker in self._workers.values()), LOOK_SECONDS
                )
            )

    def _begin(self, number: int) -> None:
        config = replace(self._worker_config, load_model=tuple(sorted(self._wanted)))
        changes = len(self._changes)
        self._workers[number] = WorkerProcess(number, config, self._versions, changes, self._answer, self._on_end)

    def _answer(self, worker: WorkerProcess, message: Any) -> Any:
        match message:
            case Load(name):
                return self.load(name)
            case Unload(name):
                return self.unload(name)
            case GetState():
                return self.state()
            case Loaded():
                return self._let_follow(worker)
            case Listening():
                return self._on_listening(worker)
            case Failed(reason):
                worker.failure = reason
                return None
        raise TypeError(f"a supervisor does not understand {message!r}")

    def _let_follow(self, worker: WorkerProcess) -> tuple[set[str], set[str]]:
        """From now on it hears of changes. What was changed since it began: what is wanted now, and what is not."""
        with self._controlling:
            worker.following = True
            changed = set(self._changes[worker.changes :])
            return changed & self._wanted, changed - self._wanted

    def _on_listening(self, worker: WorkerProcess) -> None:
        with self._changed:
            worker.listening = True
            worker.told = time.monotonic()
            self._attempts = 0
            self._changed.notify_all()
        log.info("worker listens", worker=worker.number, pid=worker.pid)

    def _on_end(self, worker: WorkerProcess) -> None:
        worker.join()
        with self._changed:
            self._ended += worker.state.counts_only()
            worker.listening = worker.following = False
            worker.state = ServerState()
            if self._stopping.is_set():
                return
            reason = worker.failure or f"worker {worker.number} ended with {_ending(worker.exit_code)}"
            if not self._started:  # at the start nothing is tried twice
                self._failure = reason
                self._changed.notify_all()
                return
            self._restarts += 1
            self._attempts += 1
            stable = time.monotonic() - worker.started >= STABLE_SECONDS
            self._short_lives = 0 if stable else self._short_lives + 1
            delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** max(0, self._short_lives - 1))
            if self._attempts > MAX_ATTEMPTS:
                self._failure = f"a worker could not be replaced, {MAX_ATTEMPTS} times: {reason}"
                self._changed.notify_all()
                return
        log.warning("worker ended", worker=worker.number, pid=worker.pid, reason=reason, replaced_in_seconds=delay)
        self._stopping.wait(delay)
        with self._changed:
            if not self._stopping.is_set():
                self._begin(worker.number)

    def _following(self) -> list[WorkerProcess]:
        with self._changed:
            return [worker for worker in self._workers.values() if worker.following]

    def _all_do(self, message: Load | Unload) -> set[str]:
        """The first worker tries it; then the others can do it too, or are replaced by some that begin with it."""
        workers = self._following()
        if not workers:
            raise ControlError("no worker is running; try again in a moment")
        try:
            workers[0].call(message)
        except PeerError as error:
            raise ControlError(f"the worker that tried it first has ended; it is replaced: {error}") from error
        self._changes.append(message.name)
        for worker in workers[1:]:
            try:
                worker.call(message)
            except Exception as error:
                log.warning("worker does not follow; it is replaced", worker=worker.number, reason=str(error))
                worker.kill()
        self._look()
        return {message.name}

    def _look(self) -> None:
        """Note what is served, for workers that begin later. Kill those that hang."""
        served: dict[str, list[int]] = {}
        state = self.state()
        for one in state.versions:
            if one.state == READY:
                served.setdefault(one.name, []).append(int(one.version))
        if self.workers().running:
            self._versions = {name: tuple(versions) for name, versions in served.items()}
        for worker in list(self._workers.values()):
            if not worker.listening:  # loading may take long, but no worker is too busy to say so
                threading.Thread(target=worker.refresh, daemon=True).start()
            if time.monotonic() - worker.told > HANG_SECONDS:
                log.warning("worker hangs; it is replaced", worker=worker.number, pid=worker.pid)
                worker.kill()

    def _look_after_them(self) -> None:
        polled = time.monotonic()
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                self._look()
                if self._config.model_control == "poll" and time.monotonic() - polled >= self._config.poll_seconds:
                    polled = time.monotonic()
                    for worker in self._following():
                        worker.call(Poll(), HANG_SECONDS)
            except Exception as error:
                log.warning("looking after the workers failed; trying again", reason=str(error))


def _ending(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"signal {-exit_code}"
    return f"exit code {exit_code}"
