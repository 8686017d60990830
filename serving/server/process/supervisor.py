"""Starts the workers, replaces those that end or hang, and controls the models of all of them together."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import structlog

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.repository import require_names
from hangtag.serving.server.errors import ControlError, StartError
from hangtag.serving.server.process.workers.changes import let_follow, let_one_try
from hangtag.serving.server.process.workers.messages import GetState, Listening, Load, Loaded, Poll, StartFailed, Unload
from hangtag.serving.server.process.workers.replacement import ReplacementPolicy
from hangtag.serving.server.process.workers.shared_port import SharedPorts
from hangtag.serving.server.process.workers.worker_process import WorkerProcess
from hangtag.serving.server.telemetry.server_state import READY, ServerState, Workers, total
from hangtag.serving.server.transport.choice import choose_transport

log = structlog.get_logger()

_SPARE_SECONDS = 10.0


class Supervisor:
    """Runs a server of several processes: ``start`` it, read ``failure`` now and then, ``stop`` it."""

    def __init__(self, config: ServerConfig) -> None:
        """Reserve the ports. Raises StartError where an address cannot be bound."""
        self._config = config
        self._changed = threading.Condition()  # guards the fields below; notified when a worker listens or fails
        self._workers: dict[int, WorkerProcess] = {}
        self._counts_of_ended = ServerState()
        self._restarts = 0
        limits = config.limits
        self._policy = ReplacementPolicy(
            limits.worker_restart_seconds, limits.worker_attempts, limits.worker_stable_seconds
        )
        self._failure = ""
        self._started = False
        self._stopping = threading.Event()
        self._controlling = threading.Lock()  # one load or unload call at a time; guards the next two
        self._explicit_models: set[str] = set()  # with --model-control explicit: the models that should be loaded
        self._changes: list[str] = []  # models in the order of the load and unload calls
        self._served_versions: dict[str, tuple[int, ...]] = {}
        self._ports = SharedPorts(config)
        self._monitor = threading.Thread(target=self._monitor_workers, name="supervisor", daemon=True)

    @property
    def ready(self) -> bool:
        """Whether the server takes new calls: all workers have listened at least once, and one does now."""
        return self._started and not self._stopping.is_set() and self.workers().running > 0

    @property
    def failure(self) -> str:
        """Why the supervisor gave up; empty while it goes on."""
        return self._failure

    def workers(self) -> Workers:
        """How many workers there should be, how many listen, and how many were replaced."""
        with self._changed:
            running = sum(worker.listening for worker in self._workers.values())
            return Workers(self._config.workers, running, self._restarts)

    def start(self) -> None:
        """Start all workers; returns once all listen.

        Raises:
            StartError: A worker cannot start. All have ended again.
        """
        if self._config.model_control == "explicit":
            models = self._config.load_model
            self._explicit_models = set(require_names(self._config.models) if "*" in models else models)
        with self._changed:
            try:
                for number in range(self._config.workers):
                    self._start_worker(number)
            except StartError as error:
                self._give_up(str(error))
        while not self._wait_for_start():
            self._check_workers()
        if self._failure:
            self.stop(grace=0)
            raise StartError(self._failure)
        self._check_workers()
        self._started = True
        self._monitor.start()
        models_served = sorted({version.name for version in self.state().versions if version.state == READY})
        transport = choose_transport(self._config)
        log.info(
            "ready",
            **self._ports.addresses,
            workers=self._config.workers,
            transport=transport.name,
            because=transport.reason,
            models=models_served,
        )

    def stop(self, grace: float | None = None) -> None:
        """Let every worker drain within ``grace`` seconds (default: drain_seconds) and end; kill those that do not."""
        with self._changed:
            self._stopping.set()  # no worker starts from now on
            workers = list(self._workers.values())
        grace = self._config.drain_seconds if grace is None else grace
        requests = _start_threads(worker.request_stop for worker in workers)
        deadline = time.monotonic() + grace + _SPARE_SECONDS
        for worker in workers:
            if not worker.join(max(0.0, deadline - time.monotonic())):
                worker.kill()
                worker.join()
        for request in requests:
            request.join()
        self._ports.close()
        log.info("stopped")

    def load(self, name: str) -> None:
        """Load a model in every worker. Raises what the first worker raises; then nothing has changed."""
        with self._controlling:
            self._change_all(Load(name), self._explicit_models.add)

    def unload(self, name: str) -> None:
        """Unload a model in every worker. Raises what the first worker raises; then nothing has changed."""
        with self._controlling:
            self._change_all(Unload(name), self._explicit_models.discard)

    def state(self) -> ServerState:
        """The state of all workers together, with the counts of workers that ended, for versions that still serve."""
        with self._changed:
            workers = [worker for worker in self._workers.values() if worker.listening]
        for refresh in _start_threads(worker.refresh for worker in workers):
            refresh.join()
        running = total(worker.state for worker in workers)
        served = {(version.name, version.version) for version in running.versions}
        with self._changed:
            ended = self._counts_of_ended.restricted_to(served)
            if workers and all(worker.state.versions for worker in workers):  # else what serves is not known
                self._counts_of_ended = ended
        return replace(running + ended, workers=self.workers())

    def _start_worker(self, number: int) -> None:
        """Raises StartError where the system allows no further process."""
        config = replace(self._ports.config, load_model=tuple(sorted(self._explicit_models)))
        self._workers[number] = WorkerProcess(
            number, config, self._served_versions, len(self._changes), self._answer, self._on_end
        )

    def _wait_for_start(self) -> bool:
        """Wait for one check's interval; returns whether all workers listen or one has failed."""
        with self._changed:
            return bool(
                self._changed.wait_for(
                    lambda: self._failure or all(worker.listening for worker in self._workers.values()),
                    self._config.limits.worker_check_seconds,
                )
            )

    def _answer(self, worker: WorkerProcess, message: Any) -> Any:
        match message:
            case Load(name):
                return self.load(name)
            case Unload(name):
                return self.unload(name)
            case GetState():
                return self.state()
            case Loaded():
                return self._send_changes_from_now_on(worker)
            case Listening():
                return self._on_listening(worker)
            case StartFailed(reason):
                worker.failure = reason
                return None
        raise TypeError(f"a supervisor has no answer to {message!r}")

    def _send_changes_from_now_on(self, worker: WorkerProcess) -> tuple[set[str], set[str]]:
        """Send load and unload calls to this worker too; returns the models that it has to load and to unload first."""
        with self._controlling:
            worker.gets_changes = True
            changed = set(self._changes[worker.changes_before :])
            return changed & self._explicit_models, changed - self._explicit_models

    def _on_listening(self, worker: WorkerProcess) -> None:
        with self._changed:
            worker.listening = True
            worker.last_answer = time.monotonic()
            self._policy.on_listening()
            self._changed.notify_all()
        log.info("worker listens", worker=worker.number, pid=worker.pid)

    def _on_end(self, worker: WorkerProcess) -> None:
        with self._changed:
            listened = worker.listening
            self._counts_of_ended += worker.state.counts_only()
            worker.ended = True
            worker.listening = worker.gets_changes = False
            worker.state = ServerState()
            if self._stopping.is_set():
                return
            reason = worker.failure or f"worker {worker.number} ended with {worker.ending}"
            if not self._started:  # a server that cannot start says so at once, instead of trying again
                self._give_up(reason)
                return
            self._restarts += 1
            delay = self._policy.delay_after(time.monotonic() - worker.started, failed=not listened)
        if delay is not None:
            log.warning("worker ended", worker=worker.number, pid=worker.pid, reason=reason, replaced_in_seconds=delay)
        self._replace(worker.number, delay, reason)

    def _replace(self, number: int, delay: float | None, reason: str) -> None:
        """Start a worker in this place after ``delay`` seconds. None: give up, for the reason that the last ended."""
        while delay is not None:
            self._stopping.wait(delay)
            with self._changed:
                if self._stopping.is_set():
                    return
                try:
                    self._start_worker(number)
                except StartError as error:
                    reason = str(error)
                    # The system may refuse for a moment, and the workers that listen need not end for that.
                    others_listen = any(worker.listening for worker in self._workers.values())
                    delay = self._policy.delay_after(0.0, failed=not others_listen)
                else:
                    return
            if delay is None:
                break
            log.warning("worker not started", worker=number, reason=reason, tried_again_in_seconds=delay)
        with self._changed:
            self._give_up(f"a worker could not be replaced, {self._config.limits.worker_attempts} times: {reason}")

    def _give_up(self, reason: str) -> None:
        self._failure = reason
        self._changed.notify_all()

    def _workers_that_get_changes(self) -> list[WorkerProcess]:
        with self._changed:
            return [worker for worker in self._workers.values() if worker.gets_changes]

    def _change_all(self, message: Load | Unload, record: Callable[[str], None]) -> None:
        """Let the first worker try. If it succeeds, the others follow, or are replaced by workers that start with it.

        record: adds the model to those that should be loaded, or removes it.
        """
        workers = self._workers_that_get_changes()
        if not workers:
            raise ControlError("no worker is running; try again in a moment")
        followers = let_one_try(workers, message)
        # Before a worker is killed, because its replacement starts with what is recorded. The model comes first,
        # so that a worker that starts in between repeats the change instead of missing it.
        record(message.name)
        self._changes.append(message.name)
        let_follow(followers, message)
        self._check_workers()

    def _check_workers(self) -> None:
        """Note the versions that are served, for workers that start later, and kill workers that hang."""
        served: dict[str, list[int]] = {}
        for version in self.state().versions:
            if version.state == READY:
                served.setdefault(version.name, []).append(int(version.version))
        if self.workers().running:
            self._served_versions = {name: tuple(versions) for name, versions in served.items()}
        for worker in [worker for worker in self._workers.values() if not worker.ended]:
            if not worker.listening:  # loading may take long, but a worker that loads still answers
                _start_threads([worker.refresh])
            if time.monotonic() - worker.last_answer > self._config.limits.worker_hang_seconds:
                log.warning("worker hangs; it is replaced", worker=worker.number, pid=worker.pid)
                worker.kill()

    def _monitor_workers(self) -> None:
        polling = self._config.model_control == "poll"
        check_seconds = self._config.limits.worker_check_seconds
        interval = min(check_seconds, self._config.poll_seconds) if polling else check_seconds
        last_poll = time.monotonic()
        while not self._stopping.wait(interval):
            try:
                self._check_workers()
                overdue = polling and time.monotonic() - last_poll >= self._config.poll_seconds
                # One by one, and only while all listen: a version that ends the worker that loads it leaves the others.
                if overdue and self.workers().running == self._config.workers:
                    last_poll = time.monotonic()
                    for worker in self._workers_that_get_changes():
                        worker.call(Poll(), self._config.limits.worker_hang_seconds)
            except Exception as error:
                log.warning("checking the workers failed; trying again", reason=str(error))


def _start_threads(functions: Iterable[Callable[[], None]]) -> list[threading.Thread]:
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    return threads
