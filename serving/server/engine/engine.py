"""The data plane without a transport: models by name and version, asked while they are swapped, and closed."""

import time
from collections.abc import Sequence

import structlog

from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.model_settings import settings_of
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import NotFoundError, UnavailableError
from hangtag.serving.server.host.cpus import usable_cpus
from hangtag.serving.server.runtime.providers import Gpu
from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.server.telemetry.model_statistics import FailureCounts

log = structlog.get_logger()


class Engine:
    """Holds the served models. Look-ups come from any thread; changes (``serve``) from one at a time."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.failures = FailureCounts()
        # Replaced as a whole and never changed, so that look-ups need no lock. Versions: the latest first.
        self._table: dict[str, dict[str, ServedModel]] = {}
        self._ready = False
        self._closing = False

    @property
    def ready(self) -> bool:
        """The models that were asked for are loaded and warmed up, and the engine is not closing."""
        return self._ready and not self._closing

    @property
    def models(self) -> list[ServedModel]:
        """Every version that takes requests."""
        table = self._table if self._ready else {}
        return [model for versions in table.values() for model in versions.values()]

    def versions(self, name: str) -> list[ServedModel]:
        """A model's versions that are loaded, the latest first, before the engine is open too."""
        return list(self._table.get(name, {}).values())

    def names(self) -> list[str]:
        return list(self._table)

    def open(self) -> None:
        """Admit requests."""
        self._ready = True

    def model(self, name: str, version: str = "") -> ServedModel:
        """The model that answers to this name and version; an empty version is the latest.

        Raises UnavailableError while loading or stopping, NotFoundError for what is not served. The model may be
        replaced at any time: whoever holds it may go on with it for control.LINGER_SECONDS, then gets UnavailableError
        and looks it up again.
        """
        if self._closing:
            raise UnavailableError("the server is stopping and takes no new requests; try another replica")
        if not self._ready:
            raise UnavailableError(
                "the models are being loaded; wait until the server is ready (hangtag health --wait 30)"
            )
        table = self._table
        versions = table.get(name)
        if versions is None:
            served = ", ".join(table) or "none"
            raise NotFoundError(f"no model {name!r} is served here; served: {served}")
        if not version:
            return next(iter(versions.values()))
        model = versions.get(version)
        if model is None:
            served = ", ".join(versions)
            raise NotFoundError(f"version {version!r} of {name!r} is not served here; served: {served}")
        return model

    def record_failure(self, name: str, version: str, code: str, ns: int) -> None:
        """Count a request that got this status code, ns after it came. name and version: as its caller gave them."""
        versions = self._table.get(name)
        if versions is None:
            name, version = "", ""
        elif version not in versions:
            version = "" if version else next(iter(versions))
        self.failures.record(name, version, code, ns)

    def serve(self, name: str, models: Sequence[ServedModel]) -> list[ServedModel]:
        """From now on these versions, and no others of this name, take requests; none removes the name.

        Returns the models that were replaced: they finish what they have, and are the caller's to close.
        """
        before = self.versions(name)
        for model in models:
            if model not in before:
                model.start()
        versions = {model.version: model for model in sorted(models, key=lambda model: -int(model.version))}
        table = {**self._table, name: versions} if versions else {k: v for k, v in self._table.items() if k != name}
        self._table = dict(sorted(table.items()))
        return [model for model in before if model not in models]

    def stop_admission(self) -> None:
        """From now on every look-up raises UnavailableError; what is queued is still computed."""
        self._closing = True

    def close(self) -> None:
        """Finish what is queued and end every instance."""
        self.stop_admission()
        for versions in self._table.values():
            for model in versions.values():
                model.close()

    def load(self, file: ModelFile) -> ServedModel:
        """Load a version and warm it up; it takes no requests yet. Raises ModelLoadError."""
        started = time.perf_counter()
        config = settings_of(self.config.models / file.name, self.config)
        cpus = max(1, usable_cpus() // config.workers)
        threads = config.intra_op_threads or max(1, cpus // config.instance_count)
        runtime = Runtime(
            file.path,
            provider=config.provider,
            threads=threads,
            batching_override=config.batching_override(file.name),
            gpu=Gpu(config.gpu_device_id, config.gpu_mem_limit_mib),
        )
        model = ServedModel(file, runtime, config)
        runtime.warm_up(sorted({1, model.max_batch_size}))
        if cpus > threads and not config.intra_op_threads and runtime.on_cpu:
            runtime.widen(cpus)
        if not runtime.on_cpu:
            runtime.bind(model.max_batch_size, slots=config.instance_count, cuda_graphs=config.cuda_graphs)
        log.info(
            "model loaded",
            model=file.name,
            version=file.version,
            provider_asked=config.provider,
            provider=runtime.provider,
            **({} if runtime.on_cpu else {"cuda_graphs": runtime.cuda_graphs}),
            **runtime.notes,
            intra_op_threads=threads,
            alone_threads=runtime.alone_threads or threads,
            instances=config.instance_count,
            max_batch_size=model.max_batch_size if runtime.signature.batched else 0,
            **({} if runtime.signature.batched else {"unbatched_because": runtime.signature.why_unbatched}),
            seconds=round(time.perf_counter() - started, 3),
        )
        return model
