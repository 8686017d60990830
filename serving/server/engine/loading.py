"""Loads a version of a model with its settings, session and warm-up; records which loads failed and why."""

import time
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

import structlog

from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine import repository
from hangtag.serving.server.engine.model_settings import settings_of
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.engine.trial.trial_load import TrialLoad
from hangtag.serving.server.errors import ModelLoadError, StartError, UnavailableError
from hangtag.serving.server.host.cpus import usable_cpus
from hangtag.serving.server.host.watched_files import FolderStamp, folder_stamp
from hangtag.serving.server.runtime.batching_decision import Decision, decide_batching
from hangtag.serving.server.runtime.gate_proof import require_proof
from hangtag.serving.server.runtime.providers import Gpu
from hangtag.serving.server.runtime.session import Runtime, RuntimeFactory

log = structlog.get_logger()

VersionKey = tuple[str, str]
"""A model's name and its version."""


class LoadFailure(NamedTuple):
    """Why a version could not be loaded, and what its files were at that time."""

    reason: str
    stamp: FolderStamp


def load_model(
    file: ModelFile,
    server_config: ServerConfig,
    trial: TrialLoad | None = None,
    runtimes: RuntimeFactory = Runtime,
) -> ServedModel:
    """Load a version and warm it up. It takes no requests until ``Engine.serve``.

    Args:
        file: The version in the model repository.
        server_config: The server's settings; the model's own serving.toml takes precedence.
        trial: Loads the version in a child process before this one; None: only here.
        runtimes: Loads the file.

    Raises:
        StartError: The settings file is not valid.
        RepositoryError: The file is a link that leads out of the repository.
        ModelLoadError: The file has no proof and needs one, changes while it is loaded, ONNX Runtime cannot load it, or
            not with the execution provider that the settings require, it cannot compute, or it fails the trial.
        UnavailableError: The trial was stopped.
    """
    started = time.perf_counter()
    config = settings_of(server_config.models / file.name, server_config)
    cpus = max(1, usable_cpus() // config.workers)
    threads = config.intra_op_threads or max(1, cpus // config.instance_count)
    repository.require_inside(file.path, server_config.models / file.name)
    content = _content(file)
    if server_config.require_proof:
        require_proof(file.path)
    if trial is not None:
        trial.require_loadable(file)
        _require_unchanged(file, content)  # what is loaded here must be what was loaded there
    runtime = runtimes(
        file.path,
        provider=config.provider,
        threads=threads,
        batching_override=config.batching_override(file.name),
        gpu=Gpu(config.gpu_device_id, config.gpu_mem_limit_mib),
    )
    runtime.warm_up([1])
    decision = _decide_batching(file, runtime, config.max_batch_size_of(file.name))
    _require_unchanged(file, content)  # the session and the proof of batching were read from one file
    model = ServedModel(file, runtime, config)
    if model.max_batch_size > 1 and not (decision.tried and runtime.on_cpu):
        runtime.warm_up([model.max_batch_size])
    if cpus > threads and not config.intra_op_threads and runtime.on_cpu:
        runtime.allow_more_threads(cpus, lambda: _content(file) == content)
    if not runtime.on_cpu:
        runtime.use_io_binding(model.max_batch_size, instances=config.instance_count, cuda_graphs=config.cuda_graphs)
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


def _decide_batching(file: ModelFile, runtime: Runtime, max_batch_size: int) -> Decision:
    """Decide whether requests are joined, and warn where a trial speaks against it."""
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
    """Identify the file and all that it may refer to, such as weights in files of their own.

    Raises:
        ModelLoadError: The folder is gone, or cannot be read.
    """
    content = folder_stamp(file.path.parent)
    if content == ((), ()):
        raise ModelLoadError(f"{file.path.parent} cannot be read, or has no file any more")
    return content


def _require_unchanged(file: ModelFile, content: FolderStamp) -> None:
    """Raises ModelLoadError where the files are others than before."""
    if _content(file) != content:
        raise ModelLoadError(
            f"{file.path} changed while it was loaded. Publish a version by renaming its finished folder into its place"
        )


class ModelLoader:
    """Loads versions one at a time, and records for RepositoryIndex and the metrics how each load ended."""

    def __init__(self, config: ServerConfig, runtimes: RuntimeFactory) -> None:
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
        """Load a version.

        Args:
            file: The version in the model repository.
            stamp: Of the version's files, read before this call.
            strict: Raise where the load fails. Otherwise a failure is logged and None returned, and a version that
                failed before is not tried again until its files change.

        Raises:
            StartError: ``strict``, and the version cannot be loaded.
            UnavailableError: ``stop`` was called during its trial.
        """
        key = (file.name, str(file.version))
        if not strict and key in self.failures and self.failures[key].stamp == stamp:
            return None
        self.loading.add(key)
        try:
            model = load_model(file, self._config, self._trial, self._runtimes)
        except StartError as error:
            self._record_failure(key, str(error), stamp)
            log.warning("model not loaded", model=file.name, version=file.version, reason=str(error))
            if strict:
                raise
            return None
        except UnavailableError:
            raise
        except Exception:  # a bug of ours, which must not keep polling from the other models
            reason = f"{file.path} cannot be loaded because of an error inside the server, which its log has"
            self._record_failure(key, reason, stamp)
            if strict:  # the call, or the start, ends with the error
                raise
            log.exception("model not loaded", model=file.name, version=file.version, reason=reason)
            return None
        finally:
            self.loading.discard(key)
        self.failures.pop(key, None)
        self.outcomes[file.name, "ok"] += 1
        return model

    def stop(self) -> None:
        """End a trial that is running: its version is not loaded."""
        if self._trial is not None:
            self._trial.stop()

    def reason(self, name: str = "") -> str:
        """Why versions of a model, or of all models, could not be loaded; empty where none failed."""
        failures = list(self.failures.items())
        return "; ".join(failure.reason for (model, _), failure in failures if name in ("", model))

    def forget_others(self, name: str, versions: Collection[str]) -> None:
        """Forget why a model's versions could not be loaded, but for these: the others need not serve any more."""
        self.failures = {
            (model, version): failure
            for (model, version), failure in self.failures.items()
            if model != name or version in versions
        }

    def _record_failure(self, key: VersionKey, reason: str, stamp: FolderStamp) -> None:
        self.failures[key] = LoadFailure(reason, stamp)
        self.outcomes[key[0], "error"] += 1
