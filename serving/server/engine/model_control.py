"""Which versions of which models serve: from the repository on disk to the engine, at the start and while it serves.

A new version is loaded and warmed up before it takes requests; then one assignment makes it the one that is found, and
the old one finishes what it has. What cannot be loaded changes nothing, and is told by RepositoryIndex and the log.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import structlog

from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine import repository
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import ControlError, NotFoundError, RepositoryError, StartError, UnavailableError
from hangtag.serving.server.host.watched_files import Stamp
from hangtag.serving.server.telemetry.server_state import LOADING, READY, UNAVAILABLE, ServerState, VersionState

log = structlog.get_logger()

LINGER_SECONDS = 1.0
"""How long a replaced model still takes requests: those of callers who looked it up before and are still decoding."""

Key = tuple[str, str]


class Control(Protocol):
    """What the transport asks for: of this process alone, or of all workers."""

    def load(self, name: str) -> None:
        """Load the model's latest versions, or load them again.

        Raises NotFoundError, ControlError, and UnavailableError where the server is stopping.
        """

    def unload(self, name: str) -> None:
        """Take the model out of service. Raises NotFoundError and ControlError."""

    def state(self) -> ServerState:
        """What is served, what is not, and what was done."""

    def published(self) -> list[ModelFile]:
        """The latest version of each model in the repository, served or not."""


class ModelControl:
    """The control of this process. Thread-safe: one change at a time, while requests go on."""

    def __init__(self, engine: Engine, versions: Mapping[str, tuple[int, ...]] | None = None) -> None:
        """versions: begin with these, by model, where they are there, instead of the latest."""
        self.on_change: Callable[[], None] = lambda: None
        """Called after each change of what is served."""
        self._engine = engine
        self._config: ServerConfig = engine.config
        self._versions = versions or {}
        self._changing = threading.Lock()
        self._stamps: dict[Key, Stamp] = {}  # of the files as they were when they were loaded, or refused
        self._problems: dict[Key, tuple[str, Stamp]] = {}
        self._loading: set[Key] = set()
        self._loads: Counter[Key] = Counter()  # (model, "ok" or "error")
        self._retired: dict[ServedModel, threading.Timer] = {}  # replaced, and not closed yet
        self._stopping = threading.Event()
        self._poller = threading.Thread(target=self._poll_until_stopped, name="model-control", daemon=True)

    def start(self, *, polling: bool = True) -> None:
        """Load what is to be served at the start, then open the engine. Raises StartError.

        Polling falls back on an older version where the latest is broken, as it would have done while running, and
        wants one model at least. The other modes want everything that was asked for.
        """
        config = self._config
        if config.model_control == "poll":
            self.poll()
            if not self._engine.names():
                reasons = "; ".join(reason for reason, _ in self._problems.values())
                raise RepositoryError(
                    f"no model of {config.models} can be served. {reasons}" if reasons else _none(config)
                )
            if polling:
                self._poller.start()
        else:
            for name in _asked_for(config):
                self._update(name, self._pinned(repository.require_versions(config.models, name)), strict=True)
        self._engine.open()
        self.on_change()

    def catch_up(self, wanted: Iterable[str], unwanted: Iterable[str]) -> None:
        """Do what was asked of the server while this process began. Raises StartError."""
        try:
            for name in wanted:
                self.load(name)
            for name in unwanted:
                if self._engine.versions(name):
                    self.unload(name)
        except (ControlError, NotFoundError) as error:
            raise RepositoryError(str(error)) from error

    def stop(self) -> None:
        """Change nothing any more."""
        self._stopping.set()
        if self._poller.is_alive():
            self._poller.join()

    def close(self) -> None:
        """Close what was replaced a moment ago; the engine closes the rest."""
        for model, ending in list(self._retired.items()):
            ending.cancel()
            model.close()

    def load(self, name: str) -> None:
        self._require_explicit()
        try:
            found = repository.versions(self._config.models, name)
            if not found:
                raise NotFoundError(f"the repository has no model {name!r} with a version to load")
            self._update(name, found, strict=True, again=True)
        except StartError as error:
            raise ControlError(f"{error}; what served before serves on") from error
        self.on_change()

    def unload(self, name: str) -> None:
        self._require_explicit()
        with self._changing:
            if not self._engine.versions(name):
                raise NotFoundError(f"no model {name!r} is served here, so there is nothing to unload")
            self._retire(self._engine.serve(name, []))
            log.info("model unloaded", model=name)
        self.on_change()

    def poll(self) -> None:
        """Look at the repository once, and serve what lies there now. Never raises for a broken model."""
        try:
            present = repository.names(self._config.models)
        except RepositoryError as error:
            log.warning("repository not readable; what serves goes on serving", reason=str(error))
            return
        before = self._engine.models
        with contextlib.suppress(UnavailableError):  # it stops
            for name in sorted({*present, *self._engine.names()}):
                try:
                    self._update(name, repository.versions(self._config.models, name), strict=False)
                except RepositoryError as error:
                    log.warning("model not looked at; what serves of it serves on", model=name, reason=str(error))
        if self._engine.models != before:
            self.on_change()

    def state(self) -> ServerState:
        served = {
            (model.name, model.version): VersionState(
                model.name,
                model.version,
                READY,
                provider_asked=model.runtime.provider_asked,
                provider=model.runtime.provider,
                cuda_graphs=model.runtime.cuda_graphs,
                instances=model.instances,
                queued=len(model.batcher),
                max_queue_size=model.batcher.max_queue_size,
                counters=model.statistics.snapshot(),
            )
            for model in self._engine.models
        }
        told = dict(served)
        for (name, version), (reason, _) in list(self._problems.items()):
            told.setdefault((name, version), VersionState(name, version, UNAVAILABLE, reason))
        for name, version in list(self._loading):
            told.setdefault((name, version), VersionState(name, version, LOADING))
        return ServerState(
            tuple(told[key] for key in sorted(told)), self._engine.failures.snapshot(), dict(self._loads)
        )

    def published(self) -> list[ModelFile]:
        return repository.published(self._config.models)

    def _pinned(self, files: list[ModelFile]) -> list[ModelFile]:
        versions = self._versions.get(files[0].name, ())
        found = [file for file in files if file.version in versions]
        if versions and not found:
            log.warning("versions gone from the repository; the latest are loaded", model=files[0].name, gone=versions)
        return found or files

    def _require_explicit(self) -> None:
        if self._config.model_control != "explicit":
            raise ControlError(
                f"models cannot be loaded or unloaded by call with --model-control {self._config.model_control}; start "
                "the server with --model-control explicit"
            )

    def _update(self, name: str, files: list[ModelFile], *, strict: bool, again: bool = False) -> None:
        """Serve the latest of these files that can be loaded, as many as are wanted; the latest come first.

        strict: raise StartError for one that cannot be loaded, and change nothing. again: load also those whose
        file has not changed. Raises UnavailableError, with nothing changed, once the server stops.
        """
        with self._changing:
            served = {model.version: model for model in self._engine.versions(name)}
            chosen: dict[str, ServedModel] = {}
            stamps: dict[Key, Stamp] = {}
            wanted = self._config.num_versions or max(len(files), len(served))
            broken = False
            for file in files:
                if len(chosen) == wanted:
                    break
                if self._stopping.is_set():  # what serves stays, to finish what it has
                    raise UnavailableError("the server is stopping, and loads nothing any more")
                version, stamp = str(file.version), repository.stamp(file)
                model = served.get(version)
                if model is None or again or self._stamps.get((name, version)) != stamp:
                    # Where the file is broken now, what was loaded from it before is not.
                    model = self._load(file, stamp, strict) or model
                    broken = broken or model is served.get(version)
                if model is not None:
                    chosen[version] = model
                    stamps[name, version] = stamp
            for version, model in served.items():
                if broken and len(chosen) < wanted:  # what serves is not given up for what is broken
                    chosen.setdefault(version, model)
            self._stamps |= stamps
            on_disk = {str(file.version) for file in files}
            self._problems = {key: told for key, told in self._problems.items() if key[0] != name or key[1] in on_disk}
            if chosen != served:
                self._retire(self._engine.serve(name, list(chosen.values())))

    def _load(self, file: ModelFile, stamp: Stamp, strict: bool) -> ServedModel | None:
        """None, unless strict, for a file that cannot be loaded; one that was refused as it is is not tried again."""
        key = (file.name, str(file.version))
        if not strict and key in self._problems and self._problems[key][1] == stamp:
            return None
        self._loading.add(key)
        try:
            model = self._engine.load(file)
        except StartError as error:
            self._problems[key] = (str(error), stamp)
            self._loads[file.name, "error"] += 1
            log.warning("model not loaded", model=file.name, version=file.version, reason=str(error))
            if strict:
                raise
            return None
        finally:
            self._loading.discard(key)
        self._problems.pop(key, None)
        self._loads[file.name, "ok"] += 1
        return model

    def _retire(self, replaced: list[ServedModel]) -> None:
        for model in replaced:
            ending = self._retired[model] = threading.Timer(LINGER_SECONDS, self._end, [model])
            ending.daemon = True
            ending.start()

    def _end(self, model: ServedModel) -> None:
        model.close()
        self._retired.pop(model, None)
        log.info("model retired", model=model.name, version=model.version)

    def _poll_until_stopped(self) -> None:
        while not self._stopping.wait(self._config.poll_seconds):
            try:
                self.poll()
            except Exception:
                log.exception("polling the repository failed; trying again")


def _asked_for(config: ServerConfig) -> list[str]:
    if config.model_control == "explicit" and "*" not in config.load_model:
        return sorted(set(config.load_model))
    return repository.require_names(config.models)


def _none(config: ServerConfig) -> str:
    return f"{config.models} holds no model to serve. 'hangtag export' publishes one."
