"""Decides which versions of which models are served: at startup, by polling the repository, and on load and unload
calls. A new version is loaded and warmed up first. Then it replaces the old version, which finishes its requests. A
version that cannot be loaded changes nothing; RepositoryIndex and the log report the reason."""

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import structlog

from hangtag.errors import UserError
from hangtag.serving import model_repository
from hangtag.serving.model_repository import ModelFile, ModelNameError, ModelRepositoryError, is_route
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.engine import Engine, Residency
from hangtag.serving.server.engine.loading import ModelLoader, VersionKey, stamp_of
from hangtag.serving.server.engine.routes.route_control import RouteControl
from hangtag.serving.server.engine.routes.route_file import ROUTE_VERSION
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.engine.trial_load import require_running
from hangtag.serving.server.errors import (
    ControlError,
    NotFoundError,
    NothingToUnloadError,
    QueueFullError,
    StartError,
    UnavailableError,
)
from hangtag.serving.server.runtime.session import RuntimeFactory
from hangtag.serving.server.telemetry.server_state import LOADING, UNAVAILABLE, ServerState, VersionState

log = structlog.get_logger()


class ModelControl:
    """The `Control` of this process. Thread-safe: one change at a time, while requests continue."""

    def __init__(self, engine: Engine, versions: Mapping[str, tuple[int, ...]], runtimes: RuntimeFactory) -> None:
        """Control an engine that is not open yet. If this process is the replacement for a worker that ended, it starts
        with ``versions``, which the other workers serve, by model and route. Otherwise, ``versions`` is empty."""
        self.on_change: Callable[[], None] = lambda: None
        """Called after each change of the served models."""
        self._engine = engine
        self._config: ServerConfig = engine.config
        self._start_with = versions
        self._changing = threading.Lock()
        self._loader = ModelLoader(engine.config, runtimes)
        self._routes = RouteControl(engine, self._loader)
        engine.reason = self._loader.reason
        self._residency = engine.residency = Residency(engine.config, self.load_for_call)
        self._poller = threading.Thread(target=self._poll_until_stopped, name="model-control", daemon=True)

    def start(self) -> None:
        """Load the models needed at startup, then open the engine. In mode ``poll``, start to poll the repository,
        unless a supervisor lets several workers poll one after another.

        In mode ``poll`` it is enough that one model loads. In the other modes, every model must load. In every mode, a
        route that cannot serve is only logged, because it may need a model that is loaded later. Raises StartError if a
        required model cannot be loaded, or there is none, and ModelRepositoryError if the repository cannot be read.
        """
        mode, models = self._config.model_control, self._config.models
        if mode != "poll" or self._start_with:
            names = sorted(set(self._config.load_model))
            if mode != "explicit" or "*" in names:
                names = model_repository.require_names(models)
                # a replacement worker serves what the other workers serve, even if the repository has changed
                names = [name for name in names if not self._start_with or name in self._start_with]
            routes = self._want(names)
            for name in names:
                if name not in routes and name not in self._residency.names:
                    self._update(name, self._versions_to_start_with(name), strict=mode != "poll")
            self._serve_routes()
        if mode == "poll" and not self._engine.names():
            self.poll()
        if mode != "explicit" and not self._engine.callable_names():
            reasons = self._loader.reason()
            which = "that the other workers serve" if self._start_with else "to serve"
            none = f"{models} holds no model {which}. 'hangtag export' publishes one."
            raise StartError(f"no model of {models} can be served. {reasons}" if reasons else none)
        if mode == "poll" and self._config.workers == 1:
            self._poller.start()
        self._engine.open()
        self.on_change()

    def _versions_to_start_with(self, name: str) -> list[ModelFile]:
        """List the versions of a model to load, beginning with the version that should be the default. Raises
        ModelRepositoryError if the other workers do not serve the model, and the repository has no version of it."""
        models, served = self._config.models, self._start_with.get(name)
        if served is None:
            return model_repository.require_versions(models, name)
        try:
            files = model_repository.versions(models, name)
        except ModelRepositoryError as error:  # for example a malformed promoted.toml, which the other workers ignore
            log.warning("model not readable; serving what the other workers serve", model=name, reason=str(error))
            files = model_repository.numbered_versions(models / name)
        return [file for file in files if file.version in served] or files

    def stop(self) -> None:
        """Refuse all further changes, and return at once. The model that is being loaded now will not be served."""
        self._loader.stopping.set()

    def close(self) -> None:
        """Wait for a load that has begun. The engine closes the models."""
        if self._poller.is_alive():
            self._poller.join()
        with self._changing:  # held while a model is loaded on request
            pass

    def load(self, name: str) -> None:
        require_explicit(self._config)
        try:
            files = model_repository.versions(self._config.models, name)
            if is_route(self._config.models, name):
                with self._change():
                    self._routes.load(name)
            elif not files:
                with self._change():
                    self._loader.forget_others(name, ())
                present = ", ".join(each for each, _ in self.published()) or "none"
                raise NotFoundError(f"the repository has no model {name!r} with a version to load; it has: {present}")
            else:
                self._update(name, files, strict=True)
                with self._change():
                    self._routes.wanted.pop(name, None)
                    self._routes.refresh()
        except ModelNameError as error:
            raise NotFoundError(str(error)) from error
        except UserError as error:
            kept = "; the versions that served before still serve" if self._engine.versions(name) else ""
            raise ControlError(f"{error}{kept}") from error
        self.on_change()

    def unload(self, name: str) -> None:
        require_explicit(self._config)
        with self._change():
            self._loader.forget_others(name, ())
            if not self._engine.versions(name) and name not in self._routes.wanted:
                served = ", ".join(self._engine.names()) or "none"
                raise NothingToUnloadError(
                    f"no model {name!r} is served, so there is nothing to unload; served: {served}"
                )
            self._engine.serve(name, [])
            self._routes.wanted.pop(name, None)
            self._routes.refresh()
            log.info("model unloaded", model=name)
        self.on_change()

    def poll(self) -> None:
        """Read the repository once, and serve the models that it holds now. A broken model is only logged."""
        try:
            present = model_repository.names(self._config.models)
        except ModelRepositoryError as error:
            log.warning("repository not readable; the served models continue", reason=str(error))
            return
        before = self._engine.models
        with contextlib.suppress(UnavailableError, QueueFullError):  # the server is stopping, or there is no room
            routes = self._want(present)
            for name in present:
                is_served = any(isinstance(each, ServedModel) for each in self._engine.versions(name))
                is_tried = is_served or self._loader.reason(name)
                if name not in routes and (is_tried or name not in self._residency.names):
                    self._sync_model(name)
            self._serve_routes()  # first, because a route may have used a model that is removed below
            failed = {name for name, _ in list(self._loader.failures)}
            for name in {*self._engine.names(), *failed} - {*present}:
                self._sync_model(name)
            self._serve_routes()
            self._make_room()  # new versions may be larger
        if self._engine.models != before:
            self.on_change()

    def load_for_call(self, name: str) -> None:
        """Make room for a model, load it, and serve it. Raises NotFoundError if the model cannot be loaded,
        QueueFullError if there is too little room, and UnavailableError if the server is stopping."""
        try:
            files = model_repository.require_versions(self._config.models, name)
        except ModelRepositoryError as error:
            raise NotFoundError(str(error)) from error
        self._make_room(name, files)
        self._update(name, files, strict=False)
        self._engine.model(name)
        self.on_change()

    def _make_room(self, name: str = "", files: Sequence[ModelFile] = ()) -> None:
        """Unload the models that `Residency.unload_for` chooses, or raise its error."""
        stamps = map(stamp_of, files[: self._config.num_versions or None])
        for unloaded in self._residency.unload_for(name, stamps, self._engine.models):
            with self._change():
                self._engine.serve(unloaded, [], wait=True)
                self._loader.outcomes[unloaded, "evicted"] += 1

    def _want(self, names: Collection[str]) -> set[str]:
        """Return which names are routes, and prepare these routes for ``_serve_routes``. With --max-loaded-mib, the
        models of --load-model and the members of routes stay loaded; any other model is loaded at its first call."""
        routes = self._routes.among(names)
        with self._change():
            self._routes.want(routes)
        if self._config.max_loaded_mib:
            present = model_repository.names(self._config.models)  # a replacement worker begins with fewer ``names``
            kept = {*self._config.load_model, *self._routes.members(), *self._routes.among(present)}
            self._residency.names = frozenset(present) - kept
        return routes

    def _sync_model(self, name: str) -> None:
        try:
            self._update(name, model_repository.versions(self._config.models, name), strict=False)
        except ModelRepositoryError as error:
            log.warning("model not readable; its loaded versions are still served", model=name, reason=str(error))

    def state(self) -> ServerState:
        states = {(model.name, model.version): model.state() for model in self._engine.models}
        for (name, version), failure in list(self._loader.failures.items()):
            states.setdefault((name, version), VersionState(name, version, UNAVAILABLE, failure.reason))
        for name, version in list(self._loader.loading):
            states.setdefault((name, version), VersionState(name, version, LOADING))
        versions = tuple(states[key] for key in sorted(states))
        failures, shed = self._engine.failures.snapshot()
        return ServerState(versions, failures, dict(self._loader.outcomes), shed=shed)

    def published(self) -> list[VersionKey]:
        listed: list[VersionKey] = []
        with contextlib.suppress(ModelRepositoryError):
            for name in model_repository.names(self._config.models):
                with contextlib.suppress(ModelRepositoryError):
                    if is_route(self._config.models, name):
                        listed.append((name, ROUTE_VERSION))
                    else:
                        files = model_repository.versions(self._config.models, name)
                        listed += [(name, str(file.version)) for file in files[:1]]
        return listed

    def _update(self, name: str, files: list[ModelFile], *, strict: bool) -> None:
        """Serve the versions that `ModelLoader.update` chooses, or raise its error and change nothing."""
        with self._change():
            served = [model for model in self._engine.versions(name) if isinstance(model, ServedModel)]
            chosen = self._loader.update(name, files, served, strict=strict)
            if chosen != served:  # the order matters, as the first version is the default
                self._engine.serve(name, chosen)

    def _serve_routes(self) -> None:
        with self._change():
            self._routes.refresh()

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Hold the lock during a change. Raises UnavailableError before the change if the server is stopping."""
        with self._changing:
            require_running(self._loader.stopping)
            yield

    def _poll_until_stopped(self) -> None:
        while not self._loader.stopping.wait(self._config.poll_seconds):
            try:
                self.poll()
            except Exception:
                log.exception("polling the repository failed; trying again")


def require_explicit(config: ServerConfig) -> None:
    """Raise ControlError if models are not loaded and unloaded on request."""
    if config.model_control != "explicit":
        raise ControlError(
            f"models cannot be loaded or unloaded on request with --model-control {config.model_control}; "
            "start the server with --model-control explicit"
        )
