"""Looks up the model that takes a request, by name and version, and swaps models while requests arrive."""

from collections.abc import Callable, Sequence

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.compute_pool import ComputePool
from hangtag.serving.server.engine.model_settings import largest_settings
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import STOPPING, NotFoundError, UnavailableError
from hangtag.serving.server.telemetry.failure_counts import FailureCounts


class Engine:
    """Holds the models that serve. Any thread may look models up; only one at a time may change them (``serve``)."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.failures = FailureCounts()
        self.reasons: Sequence[Callable[[str], str]] = ()
        """Each returns why a name of the repository does not serve; empty where it does not know."""
        # A change replaces the whole table and never edits it, so a look-up needs no lock. The first version of a
        # model takes the requests that name none.
        self._table: dict[str, dict[str, Servable]] = {}
        self.epoch = 0
        """Rises with each change of the table: what was learnt of a model before may not hold any more."""
        self.pool = ComputePool(largest_settings(config).instance_count)
        """Computes the batches of all models."""
        self._ready = False
        self._closing = False

    @property
    def ready(self) -> bool:
        """Whether the models to start with are loaded and warmed up, and the engine is not closing."""
        return self._ready and not self._closing

    @property
    def models(self) -> list[Servable]:
        """Every version that takes requests; none before ``open``."""
        table = self._table if self._ready else {}
        return [model for versions in table.values() for model in versions.values()]

    def versions(self, name: str) -> list[Servable]:
        """Return a model's loaded versions, also before ``open``. The first takes the requests that name no version."""
        return list(self._table.get(name, {}).values())

    def names(self) -> list[str]:
        """Return the names of the loaded models, in alphabetical order."""
        return list(self._table)

    def open(self) -> None:
        """Admit requests."""
        self._ready = True

    def model(self, name: str, version: str = "") -> Servable:
        """Return the model that takes requests for this name and version.

        It may be replaced before the caller queues its request. It then still takes requests for
        ``Limits.linger_seconds``; after that it raises UnavailableError, and the caller looks its successor up.

        Args:
            name: As the client sent it.
            version: As the client sent it; empty for the one that serves by default.

        Raises:
            NotFoundError: No such model, or no such version of it, is served.
            UnavailableError: The models are still being loaded, or the engine is closing.
        """
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
            reason = next(filter(None, (reason(name) for reason in self.reasons)), "")
            if reason:
                raise NotFoundError(f"{name!r} is out of service: {reason}; served: {served}")
            raise NotFoundError(f"Request for unknown model: {name!r} is not served here; served: {served}")
        if not version:
            return next(iter(versions.values()))
        model = versions.get(version)
        if model is None:
            served = ", ".join(versions)
            raise NotFoundError(f"version {version!r} of {name!r} is not served here; served: {served}")
        return model

    def record_failure(self, name: str, version: str, code: str, ns: int, *, shed: bool = False) -> None:
        """Count one request that ended with an error. Every failure is counted here, once, whichever transport has it.

        It appears in nv_inference_request_failure and hangtag_request_seconds, and in the ``fail`` of ModelStatistics
        if it was for a version that serves. A name or version that is not served is counted under an empty label:
        names that callers make up would otherwise create metric series without end.

        Args:
            name: The model's name as the client sent it; empty if the request could not be read.
            version: The version as the client sent it; empty for the one that serves by default.
            code: Name of the gRPC status code, for example "RESOURCE_EXHAUSTED".
            ns: Nanoseconds from the arrival of the request to its error.
            shed: Whether it was refused because as many requests wait, or take as much memory, as may.
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

    def serve(self, name: str, models: Sequence[Servable]) -> list[Servable]:
        """Let these versions of a model take its requests from now on, and no others.

        Args:
            name: The model's name.
            models: Loaded versions, first the one for requests that name none; those that do not serve yet are started.
                An empty sequence removes the name.

        Returns:
            The models that were replaced. They finish what they have; the caller closes them.
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
        return [model for model in before if model not in models]

    def stop_admission(self) -> None:
        """Let every look-up raise UnavailableError from now on; requests in the queues are still computed."""
        self._closing = True

    def close(self) -> None:
        """Compute what is queued."""
        self.stop_admission()
        for versions in self._table.values():
            for model in versions.values():
                model.close()
