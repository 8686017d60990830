"""Loads the versions of a model with their settings and sessions, and warms them up; records why loads failed. A
model's own settings in ``<models>/<name>/serving.toml`` take precedence over the server's."""

import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog

from hangtag.errors import UserError
from hangtag.serving.model_repository import SETTINGS_FILE, ModelFile, read_toml, require_inside
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.engine.trial_load import require_loadable, require_running
from hangtag.serving.server.errors import ModelLoadError, StartError, UnavailableError
from hangtag.serving.server.host.machine import usable_cpus
from hangtag.serving.server.host.watched_files import Stamp, folder_stamp
from hangtag.serving.server.runtime.batching_proof import decide_batching
from hangtag.serving.server.runtime.gate_proof import require_proof
from hangtag.serving.server.runtime.inference_session import Gpu, shrink_arena
from hangtag.serving.server.runtime.session import Runtime, RuntimeFactory

log = structlog.get_logger()

VersionKey = tuple[str, str]
"""A model's name and its version."""
_MODEL_SETTINGS = (
    *("max_batch_size", "max_queue_size", "max_queue_delay_microseconds", "instances", "intra_op_threads"),
    *("provider", "gpu_device_id", "gpu_mem_limit_mib", "cuda_graphs"),
)


class LoadFailure(NamedTuple):
    """Why a version could not be loaded, and the stamp of its files at that time."""

    reason: str
    stamp: Stamp


def stamp_of(file: ModelFile) -> Stamp:
    """Identify all files that loading may read: the model's settings, and the folder, which may hold weights."""
    return folder_stamp(file.path.parent, file.path.parents[1] / SETTINGS_FILE)


def settings_of(folder: Path, config: ServerConfig) -> ServerConfig:
    """Return the server's settings, overridden by the settings file in a model's folder if there is one. Raises
    UserError if the file cannot be read as TOML, or has an unknown name or invalid values."""
    file = folder / SETTINGS_FILE
    try:
        values = read_toml(file)
    except FileNotFoundError:
        return config
    unknown = [name for name in values if name not in _MODEL_SETTINGS]
    if unknown:
        raise StartError(f"{file}: unknown setting {unknown[0]!r}; a model may set {', '.join(_MODEL_SETTINGS)}")
    try:
        return dataclasses.replace(config, **values)
    except StartError as error:
        raise StartError(f"{file}: {error}") from error


def _require_unchanged(file: ModelFile, stamp: Stamp) -> None:
    if stamp_of(file) != stamp:
        raise ModelLoadError(
            f"{file.path} changed while it was loaded. Publish a version by renaming its finished folder into its place"
        )


class ModelLoader:
    """Loads versions one at a time, and records each outcome for RepositoryIndex and the metrics."""

    def __init__(self, config: ServerConfig, runtimes: RuntimeFactory = Runtime) -> None:
        self._config = config
        self._runtimes = runtimes
        self.stopping = threading.Event()
        """Set when the server stops. Nothing is loaded from then on, and a running trial ends."""
        self.failures: dict[VersionKey, LoadFailure] = {}
        self.loading: set[VersionKey] = set()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """Number of loads by model and outcome ("ok" or "error")."""

    def update(
        self, name: str, files: Sequence[ModelFile], served: Sequence[ServedModel], *, strict: bool
    ) -> list[ServedModel]:
        """Return the versions of a model to serve: the first num_versions of these files that can be loaded. Raises
        UnavailableError if the server is stopping. ``served`` are the versions that are served now. ``strict`` loads
        unchanged versions again, and raises the UserError of a version that cannot be loaded."""
        before = {model.version: model for model in served}
        chosen: dict[str, ServedModel] = {}
        limit = self._config.num_versions or max(len(files), len(served))
        tried: list[str] = []
        any_failed = False
        for file in files:
            if len(chosen) == limit:
                break
            require_running(self.stopping)
            version, stamp = str(file.version), stamp_of(file)
            tried.append(version)
            model = before.get(version)
            if model is None or strict or model.stamp != stamp:
                loaded = self._load(file, stamp, strict=strict)
                any_failed = any_failed or loaded is None
                model = loaded or model  # if a file was damaged in place, its loaded model still serves
            if model is not None:
                chosen[version] = model
        require_running(self.stopping)  # while the server stops, no model is changed
        if any_failed:  # a served version stays until a new version has been loaded
            for version, model in before.items():
                if len(chosen) < limit:
                    chosen.setdefault(version, model)
        self.forget_others(name, tried)
        return list(chosen.values())

    def _load(self, file: ModelFile, stamp: Stamp, *, strict: bool) -> ServedModel | None:
        """Load a version whose files have this stamp. If the load fails, record the reason, and return None or, with
        ``strict``, raise the error. Without ``strict``, a version that failed is tried again only after a change."""
        key = (file.name, str(file.version))
        if not strict and key in self.failures and self.failures[key].stamp == stamp:
            return None
        self.loading.add(key)
        try:
            model = self.load_once(file)
        except UnavailableError:
            raise
        except Exception as error:  # after any error, polling continues with the other models
            is_bug, reason = not isinstance(error, UserError), str(error)
            if is_bug:
                reason = f"{file.path} cannot be loaded: an error inside the server, described in the server's log"
            self.failures[key] = LoadFailure(reason, stamp)
            self.outcomes[file.name, "error"] += 1
            if not (is_bug and strict):  # in all other cases, the load call or the startup logs the exception
                write = log.exception if is_bug else log.warning
                write("model not loaded", model=file.name, version=file.version, reason=reason)
            if strict:
                raise
            return None
        finally:
            self.loading.discard(key)
        self.failures.pop(key, None)
        self.outcomes[file.name, "ok"] += 1
        return model

    def load_once(self, file: ModelFile) -> ServedModel:
        """Load a version with its settings, and warm it up. Raises UserError if the settings are not valid, the file is
        a link that leads out of the repository, or the version cannot be loaded, and UnavailableError if the server is
        stopping."""
        started = time.perf_counter()
        config = settings_of(self._config.models / file.name, self._config)
        cpus = max(1, usable_cpus() // config.workers)
        threads = config.intra_op_threads or max(1, cpus // config.instance_count)
        require_inside(file.path, self._config.models / file.name)
        stamp = stamp_of(file)
        if self._config.require_proof:
            require_proof(file.path)
        if self._config.trial_load_seconds:
            require_loadable(file, self._config, self.stopping)
            _require_unchanged(file, stamp)  # the trial must have loaded the same file
        try:
            runtime = self._runtimes(
                file.path,
                provider=config.provider,
                threads=threads,
                batching_override=config.batching_override(file.name),
                gpu=Gpu(config.gpu_device_id, config.gpu_mem_limit_mib),
            )
        except ModelLoadError as error:
            if config.provider not in ("auto", "cpu"):  # the GPU may be at fault, and not the file
                raise
            raise ModelLoadError(
                f"{str(error).rstrip('.')}. Publish the model again, remove this version's folder, or return to an "
                f"earlier version: 'hangtag models rollback {file.name}'"
            ) from error
        runtime.warm_up([1])
        largest = config.max_batch_size_of(file.name)
        batching = decide_batching(runtime, largest)
        if runtime.signature.disproof is not None:
            log.warning(
                "requests are not joined",
                model=file.name,
                version=file.version,
                reason=runtime.signature.why_unbatched,
                to_join_them_all_the_same=f"--model-max-batch-size {file.name}={largest}",
            )
        _require_unchanged(file, stamp)  # the session and the decision on batching must come from one unchanged file
        model = ServedModel(file, runtime, config, stamp)
        # With --max-loaded-mib there is no warm-up, because a caller waits while the model loads, and a batch of the
        # largest size would take most of that time.
        is_tried = (batching.lengths and runtime.on_cpu) or config.max_loaded_mib
        if model.max_batch_size > 1 and not is_tried:
            runtime.warm_up([model.max_batch_size])
        if cpus > threads and not config.intra_op_threads and runtime.on_cpu:
            runtime.allow_more_threads(cpus, lambda: stamp_of(file) == stamp)
        if not runtime.on_cpu:
            runtime.use_io_binding(
                model.max_batch_size, instances=config.instance_count, cuda_graphs=config.cuda_graphs
            )
        shrink_arena()  # without this, an idle server would keep the memory of each model's largest batch
        log.info(
            "model loaded",
            model=file.name,
            version=file.version,
            requested_provider=config.provider,
            provider=runtime.provider,
            **({} if runtime.on_cpu else {"cuda_graphs": runtime.cuda_graphs}),
            **runtime.notes,
            intra_op_threads=threads,
            instances=config.instance_count,
            max_batch_size=model.max_batch_size if runtime.signature.batched else 0,
            **{"batched_because" if batching.batched else "unbatched_because": batching.why},
            seconds=round(time.perf_counter() - started, 3),
        )
        return model

    def reason(self, name: str = "") -> str:
        """Return why versions of a model, or of all models, could not be loaded, or "" if no load failed."""
        failures = list(self.failures.items())
        return "; ".join(failure.reason for (model, _), failure in failures if name in ("", model))

    def forget_others(self, name: str, versions: Collection[str]) -> None:
        """Forget the load failures of all versions of a model except ``versions``."""
        self.failures = {
            (model, version): failure
            for (model, version), failure in self.failures.items()
            if model != name or version in versions
        }
