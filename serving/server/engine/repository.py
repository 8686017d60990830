"""Reads the model repository for the server: names, versions and settings, and which versions to load at startup.

A model's own settings in ``<models>/<name>/serving.toml`` take precedence over the server's.
"""

import contextlib
import dataclasses
from pathlib import Path

import structlog

from hangtag.errors import UserError
from hangtag.serving.model_repository import (
    SETTINGS_FILE,
    ModelFile,
    ModelRepositoryError,
    is_route,
    names,
    numbered_versions,
    read_toml,
    require_versions,
    versions,
)
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.host.watched_files import Stamp, folder_stamp

log = structlog.get_logger()

VersionKey = tuple[str, str]
"""A model's name and its version."""
ROUTE_VERSION = "1"
"""The version of every route. Each model behind a route has its own version."""
MODEL_SETTINGS = (
    *("max_batch_size", "max_queue_size", "max_queue_delay_microseconds", "instances", "intra_op_threads"),
    *("provider", "gpu_device_id", "gpu_mem_limit_mib", "cuda_graphs"),
)
"""Settings that a model may set."""


def stamp(file: ModelFile) -> Stamp:
    """Identify all files that loading this version may read: the model's settings, and every file in its folder, which
    may hold weights."""
    return folder_stamp(file.path.parent, file.path.parents[1] / SETTINGS_FILE)


def published(models: Path) -> list[VersionKey]:
    """List each readable model and route, by name, with the version that should serve."""
    listed: list[VersionKey] = []
    with contextlib.suppress(ModelRepositoryError):
        for name in names(models):
            with contextlib.suppress(ModelRepositoryError):
                if is_route(models, name):
                    listed.append((name, ROUTE_VERSION))
                else:
                    listed += [(file.name, str(file.version)) for file in versions(models, name)[:1]]
    return listed


def versions_to_start_with(models: Path, name: str, served: tuple[int, ...] | None) -> list[ModelFile]:
    """List the versions of a model to load: first the version that should serve, then the latest.

    ``served`` has the versions that the other workers serve. ``served`` is None if no other worker has the model. Then
    this function raises ModelRepositoryError if the repository has no version of the model.
    """
    if served is None:
        return require_versions(models, name)
    try:
        files = versions(models, name)
    except ModelRepositoryError as error:  # for example a malformed promoted.toml, which the other workers ignore
        log.warning("model not readable; serving what the other workers serve", model=name, reason=str(error))
        files = numbered_versions(models / name)
    return [file for file in files if file.version in served] or files


def settings_of(folder: Path, config: ServerConfig) -> ServerConfig:
    """Return the server's settings, overridden by the settings file in a model's folder if there is one.

    Raises:
        ModelRepositoryError: The file cannot be read as TOML.
        StartError: The file has an unknown name, a value out of range, or values that contradict each other.
    """
    file = folder / SETTINGS_FILE
    try:
        values = read_toml(file)
    except FileNotFoundError:
        return config
    unknown = [name for name in values if name not in MODEL_SETTINGS]
    if unknown:
        raise StartError(f"{file}: unknown setting {unknown[0]!r}; a model may set {', '.join(MODEL_SETTINGS)}")
    try:
        return dataclasses.replace(config, **values)
    except StartError as error:
        raise StartError(f"{file}: {error}") from error


def largest_settings(config: ServerConfig) -> ServerConfig:
    """Return the server's settings, but with the largest batch size, queue size and number of instances of any model in
    the repository. Loading, and not this function, reports a missing repository or an invalid file."""
    configs = [config]
    with contextlib.suppress(OSError):
        for folder in sorted(config.models.iterdir()):
            with contextlib.suppress(UserError):
                configs.append(settings_of(folder, config))
    return dataclasses.replace(
        config,
        max_batch_size=max(each.max_batch_size for each in configs),
        max_queue_size=max(each.max_queue_size for each in configs),
        instances=max(each.instance_count for each in configs),
    )
