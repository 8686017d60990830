"""Looks up the model for a request, by name and version, and swaps models while requests arrive. A thread of the
transport looks a model up, decodes the request's tensors, and only then queues the request. If the model is replaced in
between, the old model, which is being closed, computes the requests that it has queued, and raises UnavailableError for
this request. The thread then looks the name up again, and gets the successor."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby

import structlog

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.compute_pool import ComputePool
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import (
    STOPPING,
    NotFoundError,
    NotLoadedError,
    QueueFullError,
    UnavailableError,
)
from hangtag.serving.server.host import machine
from hangtag.serving.server.host.watched_files import Stamp
from hangtag.serving.server.runtime.inference_session import shrink_arena
from hangtag.serving.server.telemetry.server_state import FailureCounts

log = structlog.get_logger()


class Engine:
    """Holds the served models. Any thread may look models up; one thread at a time may change them (``serve``)."""

    residency: "Residency"
    """Loads models on their first call. `ModelControl` sets this attribute."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.failures = FailureCounts()
        self.reason: Callable[[str], str] = lambda _name: ""
        """Returns why the model or route of this name is not served, or "" if there is no reason."""
        # A change replaces the whole table and never edits it, so a look-up needs no lock. A request that names no
        # version goes to the model's first version.
        self._table: dict[str, dict[str, Servable]] = {}
        self.epoch = 0
        """A number that rises with each change of the table, after which a caller's cached data may be outdated."""
        self.pool = ComputePool(config.instance_count)
        self._retiring: set[threading.Thread] = set()  # each thread closes a model
        self.stopping = False
        """Whether the server is stopping. If so, calls in flight still find their models, but no model is ready."""
        self._ready = False
        self._closing = False

    @property
    def ready(self) -> bool:
        """Whether the models needed at startup are loaded, and the server is not stopping."""
        return self._ready and not self.stopping

    @property
    def models(self) -> list[Servable]:
        """Every version that accepts requests; none before ``open``."""
        table = self._table if self._ready else {}
        return [model for versions in table.values() for model in versions.values()]

    def versions(self, name: str) -> list[Servable]:
        """Return a model's loaded versions, also before ``open``."""
        return list(self._table.get(name, {}).values())

    def names(self) -> list[str]:
        return list(self._table)

    def callable_names(self) -> set[str]:
        return {*self._table, *self.residency.names}

    def open(self) -> None:
        self._ready = True

    def model(self, name: str, version: str = "") -> Servable:
        """Return the model that takes requests for this name and version; by default the model's first version. Raises
        NotFoundError if no such version is served, NotLoadedError if ``residency`` loads the model on its first call,
        and UnavailableError while the models needed at startup are being loaded, or after ``close``."""
        if self._closing:
            raise UnavailableError(STOPPING)
        if not self._ready:
            raise UnavailableError(
                "the models are being loaded; wait until the server is ready (hangtag health --wait 30)"
            )
        table = self._table
        versions = table.get(name)
        if versions is None:
            served = ", ".join(table) or "none"
            if reason := self.reason(name).removeprefix(f"route {name}: "):
                raise NotFoundError(f"{name!r} is out of service: {reason}; served: {served}")
            if name in self.residency.names:
                raise NotLoadedError(f"{name!r} is not loaded yet; the first inference request loads it")
            raise NotFoundError(f"Request for unknown model: {name!r} is not served here; served: {served}")
        if not version:
            return next(iter(versions.values()))
        model = versions.get(version)
        if model is None:
            served = ", ".join(versions)
            raise NotFoundError(f"version {version!r} of {name!r} is not served here; served: {served}")
        return model

    def record_failure(self, name: str, version: str, code: str, ns: int, *, shed: bool = False) -> None:
        """Count one request that ended with an error, ``ns`` nanoseconds after its arrival. ``name`` and ``version``
        are as the client sent them; empty if the request could not be read. Names or versions that are not served are
        counted under an empty label, because callers could make up names without end. ``code`` is the name of the gRPC
        status code. ``shed`` is whether a queue was full or requests took too much memory."""
        versions = self._table.get(name)
        if versions is None:
            name, version = "", ""
        elif version and version not in versions:
            version = ""
        else:
            model = versions[version] if version else next(iter(versions.values()))
            version = model.version
            model.statistics.record_failure(ns)
        self.failures.record(name, version, code, ns, shed=shed)

    def serve(self, name: str, models: Sequence[Servable], *, wait: bool = False) -> None:
        """From now on, serve these versions of a model, or remove its name if there are none. The first version takes
        requests that name no version. The model's other versions finish their requests, and are closed. With ``wait``,
        return only once they are closed, and keep their memory for the model that is loaded next."""
        before = self.versions(name)
        for model in models:
            if model not in before:
                model.start(self.pool)
        versions = {model.version: model for model in models}
        table = {**self._table, name: versions} if versions else {k: v for k, v in self._table.items() if k != name}
        self._table = dict(sorted(table.items()))
        self.epoch += 1
        self.failures.forget_others(name, versions)
        for model in before:
            # a route has no queue to empty, because its calls wait in the queues of its members
            if model in models or not isinstance(model, ServedModel):
                continue
            retiring = threading.Thread(target=self._retire, args=[model, wait], name="retire", daemon=True)
            self._retiring.add(retiring)
            retiring.start()
            if wait:
                retiring.join()

    def close(self) -> None:
        """Make every look-up raise UnavailableError from now on, compute the queued requests, and close every model."""
        self.stopping = self._closing = True
        for retiring in list(self._retiring):
            retiring.join()
        for versions in self._table.values():
            for model in versions.values():
                if isinstance(model, ServedModel):
                    model.close()

    def _retire(self, model: ServedModel, keep_memory: bool) -> None:
        """Close a model. Unless ``keep_memory``, return all freed memory to the system, so that new versions do not
        make the process larger. Returning the memory delays all calls by about 20 ms."""
        model.close()
        log.info("model retired", model=model.name, version=model.version)
        shrink_arena()
        if not keep_memory:
            machine.release_freed_memory()
        self._retiring.discard(threading.current_thread())


class Residency:
    """With --max-loaded-mib, loads a model on its first call, and chooses which models to unload to make room.
    Thread-safe.

    A call to a model that is not loaded is decoded after the model is loaded, as decoding needs its signature. Before
    a model is unloaded, it answers all calls in its queue. A later call loads the model again, so no call fails because
    of an unload. If a call's deadline passes while the call waits for its model, gRPC cancels the call; on other
    transports, the queue refuses the call once the model is loaded.
    """

    def __init__(self, config: ServerConfig, load_now: Callable[[str], None]) -> None:
        """``load_now`` makes room for a model, loads it and serves it, or raises ServerError."""
        self.names: frozenset[str] = frozenset()
        """The models that are loaded on their first call, and unloaded to make room. Empty without --max-loaded-mib."""
        self._config = config
        self._load_now = load_now
        self._lock = threading.Lock()
        self._loading: dict[str, tuple[Future[None], int]] = {}  # unfinished loads, with the number of waiting calls
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")

    def load(self, name: str) -> "Future[None]":
        """Load a model of ``names`` after all models requested earlier are loaded. All calls for the model share one
        future, which must not be cancelled. If max_queue_size calls wait already, a new call gets a QueueFullError."""
        with self._lock:
            load, waiting = self._loading.get(name, (None, 0))
            if load is None:
                load = self._loader.submit(self._load, name)
            if waiting < self._config.max_queue_size:
                self._loading[name] = load, waiting + 1
                return load
        full: Future[None] = Future()
        full.set_exception(QueueFullError(f"{waiting} requests wait for {name!r} to be loaded; try again later"))
        return full

    def unload_for(self, name: str, stamps: Iterable[Stamp], serving: Iterable[Servable]) -> list[str]:
        """Choose the models to unload to make room for this model, whose files have these ``stamps``. Raises
        QueueFullError if unloading makes too little room. ``serving`` lists the served versions, model by model."""
        served = (model for model in serving if isinstance(model, ServedModel))
        models = {each: list(versions) for each, versions in groupby(served, lambda model: model.name)}
        needed = _mib(stamps)
        free = self._config.max_loaded_mib - sum(_mib(model.stamp for model in each) for each in models.values())
        chosen = []
        for each in sorted((models.keys() & self.names) - {name}, key=lambda each: _last_used(models[each])):
            if needed > free:
                chosen.append(each)
                free += _mib(model.stamp for model in models[each])
        if needed > free:
            raise QueueFullError(
                f"{name!r} needs {needed:.1f} MiB, but models that stay loaded leave only {free:.1f} of the "
                f"{self._config.max_loaded_mib} MiB of --max-loaded-mib"
            )
        return chosen

    def _load(self, name: str) -> None:
        try:
            self._load_now(name)
        finally:
            with self._lock:
                del self._loading[name]  # a load's Future holds a reference to every call that waited for it


def _mib(stamps: Iterable[Stamp]) -> float:
    return sum(status[1] for stamp in stamps for _, status in stamp if status is not None) / 2**20


def _last_used(models: list[ServedModel]) -> tuple[bool, int]:
    """Return a key that sorts models from the least to the most recently used, with models that are in use at the end.
    For a model that has never been called, the time of loading counts as its last use."""
    is_busy = any(model.batcher.waiting or model.batcher.computing for model in models)
    return is_busy, max(max(model.started_ns, model.statistics.last_inference_ns) for model in models)
