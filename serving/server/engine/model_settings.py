"""Reads a model's own settings, ``<models>/<name>/serving.toml``, which take precedence over the server's."""

import contextlib
import dataclasses
from pathlib import Path

from hangtag.serving.model_repository import SETTINGS_FILE, ModelRepositoryError, read_toml
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError

NAMES = (
    "max_batch_size",
    "max_queue_size",
    "max_queue_delay_microseconds",
    "instances",
    "intra_op_threads",
    "provider",
    "gpu_device_id",
    "gpu_mem_limit_mib",
    "cuda_graphs",
)
"""Settings that a model may set."""


def settings_of(folder: Path, config: ServerConfig) -> ServerConfig:
    """Return the server's settings with a model's own in their place; the same object where the model has none.

    Args:
        folder: The model's folder, <models>/<name>.
        config: The server's settings.

    Raises:
        StartError: The file cannot be read as TOML, or has an unknown name, a value out of range, or values that
            contradict.
    """
    file = folder / SETTINGS_FILE
    try:
        values = read_toml(file)
    except FileNotFoundError:
        return config
    except ModelRepositoryError as error:
        raise StartError(str(error)) from error
    unknown = [name for name in values if name not in NAMES]
    if unknown:
        raise StartError(f"{file}: unknown setting {unknown[0]!r}; a model may set {', '.join(NAMES)}")
    try:
        return dataclasses.replace(config, **values)
    except StartError as error:
        raise StartError(f"{file}: {error}") from error


def largest_settings(config: ServerConfig) -> ServerConfig:
    """Return the server's settings with the largest batch size, queue size and instance count of any model.

    Only models that are in the repository now count. A missing repository or an invalid file is ignored here;
    loading reports the error.
    """
    configs = [config]
    try:
        folders = sorted(config.models.iterdir())
    except OSError:
        return config
    for folder in folders:
        with contextlib.suppress(StartError):
            configs.append(settings_of(folder, config))
    return dataclasses.replace(
        config,
        max_batch_size=max(each.max_batch_size for each in configs),
        max_queue_size=max(each.max_queue_size for each in configs),
        instances=max(each.instance_count for each in configs),
    )
