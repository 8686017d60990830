"""Starts the workers, replaces workers that end or hang, and controls the models of all workers together."""

import threading
import time
from concurrent.futures import wait
from dataclasses import replace
from functools import partial

import structlog

from hangtag.serving.model_repository import require_names
from hangtag.serving.server.config.limits import ReplacementPolicy
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.config.settings import OFF
from hangtag.serving.server.engine.model_control import require_explicit
from hangtag.serving.server.errors import STOPPING, ControlError, StartError, UnavailableError
from hangtag.serving.server.front.envoy import Envoy, reserve_ports
from hangtag.serving.server.process.worker_process import Change, WorkerProcess, make_change
from hangtag.serving.server.telemetry.server_state import READY, ServerState, StoreState, Workers
from hangtag.serving.server.transport import choose_transport

log = structlog.get_logger()

_FLUSH_SECONDS = 1.0
"""How many seconds Envoy continues after the workers have ended, for clients that still read their last answers."""


class Supervisor:
    """Runs a server of several processes. Call ``start``, check ``failure`` regularly, and call ``stop``."""

    def __init__(self, config: ServerConfig, *, store: StoreState | None = None) -> None:
        """Reserve the ports, unless the server is exposed: then `Envoy.start` reserves them. ``store`` is the state of
        the local copy of the model store, if the models come from a store. Raises StartError if an address cannot be
        bound, or a certificate is invalid, and MissingExtraError if an exposed server lacks Envoy."""
        self._config = config
        self._store = store
        self._changed = threading.Condition()  # guards the fields below; notified when a worker listens or ends
        self._workers: dict[int, WorkerProcess] = {}
        self._counts_of_ended = ServerState()
        self._restarts = 0
        self._policy = ReplacementPolicy(config.limits)
        self._failure = ""
        self._started = False
        self._stopping = threading.Event()
        self._changing = threading.Lock()  # held during a load or unload call
        self._is_changing = False  # whether the workers are making a change; no worker may start meanwhile
        self._models: frozenset[str] = frozenset()  # what a new worker loads with --model-control explicit
        self._served_versions: dict[str, tuple[int, ...]] = {}
        self.front = Envoy(config) if config.is_exposed else None
        """The Envoy in front of an exposed server; None for a trusted server."""
        self._listening, self._reserved = reserve_ports(config) if self.front is None else (config, [])
        self._monitor = threading.Thread(target=self._monitor_workers, name="supervisor", daemon=True)

    @property
    def ready(self) -> bool:
        """Whether the server accepts new calls: every worker has listened once, and at least one worker listens now."""
        return self._started and not self._stopping.is_set() and self.workers().running > 0

    @property
    def failure(self) -> str:
        """Why the supervisor gave up, or why clients can no longer connect; empty if neither has happened."""
        return self._failure or ("" if self.front is None else self.front.failure)

    def workers(self) -> Workers:
        """How many workers there should be, how many listen, and how many were replaced."""
        with self._changed:
            running = sum(worker.listening for worker in self._workers.values())
            return Workers(self._config.workers, running, self._restarts)

    def start(self) -> None:
        """Start all workers, and return once they listen. If a worker cannot start, end all and raise StartError."""
        if self._config.model_control == "explicit":
            models = self._config.load_model
            self._models = frozenset(require_names(self._config.models) if "*" in models else models)
        try:
            if self.front is not None:
                self._listening = self.front.start()
            for number in range(self._config.workers):
                threading.Thread(target=self._run_worker, args=(number,), name=f"worker-{number}", daemon=True).start()
        except (StartError, RuntimeError) as error:
            self._give_up(str(error))
        is_decided = False
        while not is_decided:
            with self._changed:
                is_decided = self._changed.wait_for(self._is_decided, self._config.limits.worker_check_seconds)
            self._check_workers()
        if self._failure:
            self.stop(grace=0)
            raise StartError(self._failure)
        self._started = True
        self._monitor.start()
        (transport, reason), listening = choose_transport(self._config), self._listening
        log.info(
            "ready",
            address=listening.address(listening.port),
            **({} if listening.http_port == OFF else {"http": listening.address(listening.http_port)}),
            workers=self._config.workers,
            transport=transport,
            because=reason,
            models=sorted(self._served_versions),
        )

    def stop(self, grace: float | None = None) -> None:
        """Let every worker drain within ``grace`` seconds (default: drain_seconds); kill workers that do not end."""
        with self._changed:
            self._stopping.set()  # no worker starts from now on
            self._changed.notify_all()
            workers = list(self._workers.values())
        grace = self._config.drain_seconds if grace is None else grace
        if self.front is not None:
            self.front.drain()
        for worker in workers:
            worker.begin("stop")
        deadline = time.monotonic() + grace + self._config.limits.end_seconds
        for worker in workers:
            if not worker.ended.wait(max(0.0, deadline - time.monotonic())):
                worker.kill()
                worker.ended.wait()
        if self.front is not None:
            self.front.stop(min(grace, _FLUSH_SECONDS))
        for reserved in self._reserved:
            reserved.close()
        log.info("stopped")

    def load(self, name: str) -> None:
        self._change("load", name)

    def unload(self, name: str) -> None:
        self._change("unload", name)

    def state(self) -> ServerState:
        """The state of all workers together. The counters of a served version include the counts of ended workers."""
        with self._changed:
            workers = [worker for worker in self._workers.values() if worker.listening]
        answers = {worker.begin("state"): worker for worker in workers}
        answered = wait(answers, self._config.limits.worker_answer_seconds).done
        with self._changed:  # a worker that ends now must not be counted twice, as running and as ended
            for answer in answered:
                answers[answer].take_state(answer)
            running = sum((worker.state for worker in workers), ServerState())
            served = {(version.name, version.version) for version in running.versions}
            ended = self._counts_of_ended.restricted_to(served)
        return replace(running + ended, workers=self.workers(), store=self._store)

    def _run_worker(self, number: int) -> None:
        """Run a worker with this number, and replace it whenever it ends, until the server stops or gives up."""
        delay = 0.0
        while not self._stopping.wait(delay):
            worker = None
            with self._changed:
                if self._is_changing:
                    log.warning("worker starts only after the load or unload in progress", worker=number)
                    self._changed.wait_for(lambda: self._stopping.is_set() or not self._is_changing)
                if self._stopping.is_set():
                    return
                try:
                    behind = None if self.front is None else self.front.behind[number]
                    config = replace(self._listening, load_model=tuple(sorted(self._models)), behind=behind)
                    worker = self._workers[number] = WorkerProcess(number, config, self._served_versions)
                except StartError as error:
                    event, reason, lifetime = "worker not started", str(error), 0.0
                    # The system may be temporarily unable to start a process. Until then, the server continues with the
                    # workers that already listen.
                    failed = not any(each.listening for each in self._workers.values())
            if worker is not None:
                worker.run(
                    {
                        "load": self.load,
                        "unload": self.unload,
                        "state": self.state,
                        "listening": partial(self._on_listening, worker),
                        "start_failed": partial(setattr, worker, "failure"),
                    }
                )
                event, reason, lifetime = "worker ended", worker.failure, time.monotonic() - worker.started
            with self._changed:
                if worker is not None:
                    failed = not worker.listening
                    self._counts_of_ended += worker.state.counts_only()
                    worker.state = ServerState()
                    del self._workers[number]
                    self._changed.notify_all()
                if self._stopping.is_set():
                    return
                if not self._started:  # a server that cannot start reports the failure at once, and does not try again
                    self._give_up(reason)
                    return
                self._restarts += worker is not None
                replaced_in = self._policy.delay_after(lifetime, failed=failed)
                if replaced_in is None:
                    attempts = self._config.limits.worker_attempts
                    self._give_up(f"a worker could not be replaced in {attempts} attempts: {reason}")
                    return
            delay = replaced_in
            log.warning(event, worker=number, reason=reason, replaced_in_seconds=delay)

    def _change(self, change: Change, name: str) -> None:
        """Make a change in all workers. No worker starts meanwhile, so each worker gets the change or starts after
        it. Before the change, wait until all workers that are still starting have begun to listen.

        Raises:
            ControlError: Nothing has changed, because changing models on request is off, no worker runs, a worker is
                still loading its models, or the first worker failed to make the change.
            NotFoundError: There is no such model, or no worker serves it.
            UnavailableError: All workers are stopping.
        """
        require_explicit(self._config)
        with self._changing:
            with self._changed:  # while this call waits, workers that end are still replaced
                all_listen = self._changed.wait_for(
                    lambda: self._stopping.is_set() or all(worker.listening for worker in self._workers.values()),
                    self._config.limits.worker_hang_seconds,
                )
                if self._stopping.is_set():
                    raise UnavailableError(STOPPING)
                workers = self._running_workers()
                if not (all_listen and workers):
                    raise ControlError("the workers are still starting; try again in a moment")
                self._is_changing = True
            try:
                make_change(change, name, workers)
                self._models = self._models | {name} if change == "load" else self._models - {name}
                self._check_workers()  # a worker that starts after this change loads the versions that serve now
            finally:
                with self._changed:
                    self._is_changing = False
                    self._changed.notify_all()

    def _is_decided(self) -> bool:
        return bool(self._failure) or self.workers().running == self._config.workers

    def _running_workers(self) -> list[WorkerProcess]:
        with self._changed:
            return [worker for _, worker in sorted(self._workers.items())]

    def _on_listening(self, worker: WorkerProcess) -> None:
        with self._changed:
            worker.listening = True
            worker.last_answer = time.monotonic()
            self._policy.on_listening()
            self._changed.notify_all()
        log.info("worker listens", worker=worker.number, pid=worker.pid)

    def _give_up(self, reason: str) -> None:
        with self._changed:
            self._failure = self._failure or reason
            self._changed.notify_all()

    def _check_workers(self) -> None:
        """Record the served versions, for workers that start later, and kill workers that hang."""
        served: dict[str, list[int]] = {}
        for version in self.state().versions:
            if version.state == READY:
                served.setdefault(version.name, []).append(int(version.version))
        if self.workers().running:
            self._served_versions = {name: tuple(versions) for name, versions in served.items()}
        for worker in self._running_workers():
            if not worker.listening:  # a worker answers even while it loads models
                worker.begin("state").add_done_callback(worker.take_state)
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
                # Workers poll one after another, and only while all of them listen. If a new version crashes the first
                # worker, the other workers do not load that version.
                if overdue and self.workers().running == self._config.workers:
                    last_poll = time.monotonic()
                    for worker in self._running_workers():
                        worker.call("poll", timeout=self._config.limits.worker_hang_seconds)
            except Exception as error:
                log.warning("checking the workers failed; trying again", reason=str(error))
