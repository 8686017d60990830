"""Loads a version of a model with its settings and session, and warms it up; records which loads failed and why."""

import time
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

import structlog

from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine import repository
from hangtag.serving.server.engine.repository import VersionKey, settings_of
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.engine.trial_load import TrialLoad
from hangtag.serving.server.errors import ModelLoadError, StartError, UnavailableError
from hangtag.serving.server.host.machine import usable_cpus
from hangtag.serving.server.host.watched_files import FolderStamp, folder_stamp
from hangtag.serving.server.runtime.batching_proof import Decision, decide_batching
from hangtag.serving.server.runtime.gate_proof import require_proof
from hangtag.serving.server.runtime.inference_session import Gpu, shrink_arena
from hangtag.serving.server.runtime.session import Runtime, RuntimeFactory

log = structlog.get_logger()


class LoadFailure(NamedTuple):
    """Why a version could not be loaded, and the stamp of its files at that time."""

    reason: str
    stamp: FolderStamp


def _decide_batching(file: ModelFile, runtime: Runtime, max_batch_size: int) -> Decision:
    """Decide whether requests are batched, and warn if a trial shows that they must not be."""
    expected = runtime.signature.batched
    decision = decide_batching(runtime, max_batch_size)
    if expected and not runtime.signature.batched:
        log.warning(
            "requests are not joined",
            model=file.name,
            version=file.version,
            reason=runtime.signature.why_unbatched,
            to_join_them_all_the_same=f"--model-max-batch-size {file.name}={max_batch_size}",
        )
    return decision


def _content(file: ModelFile) -> FolderStamp:
    """Identify the model's file and all files that it may refer to, such as external weights.

    Raises:
        ModelLoadError: The folder does not exist any more or cannot be read.
    """
    content = folder_stamp(file.path.parent)
    if content == ((), ()):
        raise ModelLoadError(f"{file.path.parent} cannot be read, or its file has been removed")
    return content


def _require_unchanged(file: ModelFile, content: FolderStamp) -> None:
    """Raise ModelLoadError if the files have changed since ``content`` was read."""
    if _content(file) != content:
        raise ModelLoadError(
            f"{file.path} changed while it was loaded. Publish a version by renaming its finished folder into its place"
        )


class ModelLoader:
    """Loads versions one at a time, and records each outcome for RepositoryIndex and the metrics."""

    def __init__(self, config: ServerConfig, runtimes: RuntimeFactory = Runtime) -> None:
        """Load nothing yet. If ``config`` has a time for trials, a child process loads each version first."""
        self._config = config
        self._runtimes = runtimes
        self._trial = TrialLoad(config) if config.trial_load_seconds else None
        self.failures: dict[VersionKey, LoadFailure] = {}
        """Versions whose last load failed."""
        self.loading: set[VersionKey] = set()
        """Versions that are being loaded now."""
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """Number of loads by model and outcome ("ok" or "error")."""

    def load(self, file: ModelFile, stamp: FolderStamp, *, strict: bool) -> ServedModel | None:
        """Load a version. ``stamp`` is the stamp of the version's files before the call.

        With ``strict``, a failed load raises its error. Otherwise the failure is logged and None is returned, and a
        version that failed before is not tried again until its files change.

        Raises:
            StartError: The version cannot be loaded, and ``strict`` is set.
            UnavailableError: ``stop`` was called during the version's trial.
        """
        key = (file.name, str(file.version))
        if not strict and key in self.failures and self.failures[key].stamp == stamp:
            return None
        self.loading.add(key)
        try:
            model = self.load_once(file)
        except UnavailableError:
            raise
        except Exception as error:  # after any error, polling continues with the other models
            is_bug, reason = not isinstance(error, StartError), str(error)
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
        """Load a version with its settings, which may come from the model's own serving.toml, and warm it up.

        The version accepts no requests until ``Engine.serve``. The outcome of the load is not recorded.

        Raises:
            StartError: The settings file is not valid.
            RepositoryError: The file is a link that leads out of the repository.
            ModelLoadError: The file lacks a proof that the settings require, or changes while it is loaded, or ONNX
                Runtime cannot load it with the required execution provider. A model that cannot compute, or fails the
                trial, raises this error too.
            UnavailableError: The trial was stopped.
        """
        started = time.perf_counter()
        config = settings_of(self._config.models / file.name, self._config)
        cpus = max(1, usable_cpus() // config.workers)
        threads = config.intra_op_threads or max(1, cpus // config.instance_count)
        repository.require_inside(file.path, self._config.models / file.name)
        content = _content(file)
        if self._config.require_proof:
            require_proof(file.path)
        if self._trial is not None:
            self._trial.require_loadable(file)
            _require_unchanged(file, content)  # the trial must have loaded the same file
        runtime = self._runtimes(
            file.path,
            provider=config.provider,
            threads=threads,
            batching_override=config.batching_override(file.name),
            gpu=Gpu(config.gpu_device_id, config.gpu_mem_limit_mib),
        )
        runtime.warm_up([1])
        decision = _decide_batching(file, runtime, config.max_batch_size_of(file.name))
        _require_unchanged(file, content)  # the session and the proof of batching must come from one unchanged file
        model = ServedModel(file, runtime, config)
        # With --max-loaded-mib there is no warm-up, because a caller waits for the load, and the largest batch would
        # take most of the load's time.
        is_tried = (decision.tried and runtime.on_cpu) or config.max_loaded_mib
        if model.max_batch_size > 1 and not is_tried:
            runtime.warm_up([model.max_batch_size])
        # On an exposed server, one CPU is left to Envoy, because ONNX Runtime's threads that spin on that CPU would
        # delay the next call.
        alone = cpus if config.behind is None else cpus - 1
        if alone > threads and not config.intra_op_threads and runtime.on_cpu:
            runtime.allow_more_threads(alone, lambda: _content(file) == content)
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
            **(
                {"batched_because": decision.because}
                if runtime.signature.batched
                else {"unbatched_because": runtime.signature.why_unbatched}
            ),
            seconds=round(time.perf_counter() - started, 3),
        )
        return model

    def stop(self) -> None:
        """Stop a running trial; the version on trial is not loaded."""
        if self._trial is not None:
            self._trial.stop()

    def reason(self, name: str = "") -> str:
        """Return why versions of a model, or of all models, could not be loaded, or "" if no load failed."""
        failures = list(self.failures.items())
        return "; ".join(failure.reason for (model, _), failure in failures if name in ("", model))

    def forget_others(self, name: str, versions: Collection[str]) -> None:
        """Forget the load failures of a model's versions except these, because the other versions need not serve any
        more."""
        self.failures = {
            (model, version): failure
            for (model, version), failure in self.failures.items()
            if model != name or version in versions
        }
