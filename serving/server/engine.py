"""The data plane without a transport: models by name, loaded, asked and closed."""

import time

import structlog

from serving.server.config import ServerConfig
from serving.server.cpus import usable_cpus
from serving.server.errors import NotFoundError, UnavailableError
from serving.server.model import ServedModel
from serving.server.repository import ModelFile, latest_versions
from serving.server.runtime import Runtime

log = structlog.get_logger()


class Engine:
    """Holds the served models. ``load`` once, then ``model`` from any thread, then ``close``."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self._models: dict[str, ServedModel] = {}
        self._ready = False
        self._closing = False

    @property
    def ready(self) -> bool:
        """Every model is loaded and warmed up, and the engine is not closing."""
        return self._ready and not self._closing

    @property
    def models(self) -> list[ServedModel]:
        return list(self._models.values()) if self._ready else []

    def load(self) -> None:
        """Load and warm up the latest version of every model. Raises StartError, and serves nothing, if one fails."""
        files = latest_versions(self.config.models)
        loaded = {file.name: self._load(file) for file in files}
        for model in loaded.values():
            model.start()
        self._models = loaded
        self._ready = True

    def model(self, name: str, version: str = "") -> ServedModel:
        """The model that answers to this name and version; an empty version is the one that serves by default.

        Raises UnavailableError while loading or stopping, NotFoundError for what is not served.
        """
        if self._closing:
            raise UnavailableError("the server is stopping and takes no new requests; try another replica")
        if not self._ready:
            raise UnavailableError(
                "the models are being loaded; wait until the server is ready (hangtag health --wait 30)"
            )
        model = self._models.get(name)
        if model is None:
            served = ", ".join(self._models)
            raise NotFoundError(f"no model {name!r} is served here; served: {served}")
        if version not in ("", model.version):
            raise NotFoundError(f"version {version!r} of {name!r} is not served here; served: {model.version}")
        return model

    def stop_admission(self) -> None:
        """From now on every look-up raises UnavailableError; what is queued is still computed."""
        self._closing = True

    def close(self) -> None:
        """Finish what is queued and end every instance."""
        self.stop_admission()
        for model in self._models.values():
            model.close()

    def _load(self, file: ModelFile) -> ServedModel:
        started = time.perf_counter()
        threads = self.config.intra_op_threads or max(1, usable_cpus() // self.config.instances)
        runtime = Runtime(
            file.path,
            provider=self.config.provider,
            threads=threads,
            batching_override=self.config.batching_override(file.name),
        )
        model = ServedModel(file, runtime, self.config)
        runtime.warm_up(sorted({1, model.max_batch_size}))
        log.info(
            "model loaded",
            model=file.name,
            version=file.version,
            provider_asked=self.config.provider,
            provider=runtime.provider,
            intra_op_threads=threads,
            instances=self.config.instances,
            max_batch_size=model.max_batch_size if runtime.signature.batched else 0,
            **({} if runtime.signature.batched else {"unbatched_because": runtime.signature.why_unbatched}),
            seconds=round(time.perf_counter() - started, 3),
        )
        return model
