"""Looks up the model for a request, by name and version, and swaps models while requests arrive.

A thread of the transport looks a model up, decodes the request's tensors, and only then queues the request. If the
model is replaced in between, the old model, which is being closed, computes the requests that it has queued, and raises
UnavailableError for this request. The thread then looks the name up again, and gets the successor.
"""

import threading
from collections.abc import Callable, Sequence

import structlog

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.compute_pool import ComputePool
from hangtag.serving.server.engine.residency import Residency
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import STOPPING, NotFoundError, NotLoadedError, UnavailableError
from hangtag.serving.server.host import machine
from hangtag.serving.server.runtime.inference_session import shrink_arena
from hangtag.serving.server.telemetry.server_state import FailureCounts

log = structlog.get_logger()


class Engine:
    """Holds the models that serve. Any thread may look models up; one thread at a time may change them (``serve``)."""

    residency: Residency
    """Loads models on their first call. `ModelControl` sets this attribute."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.failures = FailureCounts()
        self.reason: Callable[[str], str] = lambda _name: ""
        """Returns why the model or route of this name does not serve, or "" if there is no reason."""
        # A change replaces the whole table and never edits it, so a look-up needs no lock. A request that names no
        # version goes to the model's first version.
        self._table: dict[str, dict[str, Servable]] = {}
        self.epoch = 0
        """A number that rises with each change of the table. Data that a caller cached before the change may be
        outdated."""
        self.pool = ComputePool(config.instance_count)
        """Computes the batches of all models."""
        self._retiring: set[threading.Thread] = set()  # each thread closes a model
        self.stopping = False
        """Whether the server is stopping. Calls in flight then still find their models, but no model is ready."""
        self._ready = False
        self._closing = False

    @property
    def ready(self) -> bool:
        """Whether the server accepts new calls: the models needed at startup are loaded, and the server is not
        stopping."""
        return self._ready and not self.stopping

    @property
    def models(self) -> list[Servable]:
        """Every version that accepts requests; none before ``open``."""
        table = self._table if self._ready else {}
        return [model for versions in table.values() for model in versions.values()]

    def versions(self, name: str) -> list[Servable]:
        """Return a model's loaded versions, also before ``open``. The first version takes requests that name no
        version."""
        return list(self._table.get(name, {}).values())

    def names(self) -> list[str]:
        return list(self._table)

    def callable_names(self) -> set[str]:
        return {*self._table, *self.residency.names}

    def open(self) -> None:
        """Admit requests."""
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
        """Count one request that ended with an error ``ns`` nanoseconds after its arrival. Every transport counts each
        failure here, once.

        ``name`` and ``version`` are as the client sent them; empty if the request could not be read. A name or version
        that is not served is counted under an empty label: names that callers make up would otherwise create metric
        series without end. ``code`` is the name of the gRPC status code. ``shed`` is whether a queue was full or
        requests took too much memory.
        """
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
        """Let these versions of a model take its requests from now on, or remove the name if there are none. The first
        version takes requests that name no version. The model's other versions finish their requests, and are closed.

        With ``wait``, return only after the other versions are closed, and keep their memory for the model that is
        loaded next.
        """
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
            if model in models:
                continue
            # a route has no queue, because its members queue and compute the calls
            if not isinstance(model, ServedModel):
                model.close()
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
                model.close()

    def _retire(self, model: Servable, keep_memory: bool) -> None:
        """Close a model. Unless ``keep_memory``, return all freed memory to the system, so that new versions do not
        make the process larger. This delays all calls by some 20 ms."""
        model.close()
        log.info("model retired", model=model.name, version=model.version)
        shrink_arena()
        if not keep_memory:
            machine.release_freed_memory()
        self._retiring.discard(threading.current_thread())
