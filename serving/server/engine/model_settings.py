"""Settings of one model: ``<models>/<name>/serving.toml``, beside its versions, over those of the server."""

import contextlib
import dataclasses
import tomllib
from pathlib import Path

from hangtag.serving.model_repository import SETTINGS_FILE
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


def settings_of(folder: Path, config: ServerConfig) -> ServerConfig:
    """The server's configuration with a model's own values in it; the same object where the model has none.

    folder: the model's, <models>/<name>. Raises StartError for a file that is not TOML, an unknown name, a value out of
    range, or values that do not fit together.
    """
    file = folder / SETTINGS_FILE
    try:
        values = tomllib.loads(file.read_text())
    except FileNotFoundError:
        return config
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StartError(f"{file} cannot be read as TOML: {error}") from error
    unknown = [name for name in values if name not in NAMES]
    if unknown:
        raise StartError(f"{file}: unknown setting {unknown[0]!r}; a model may set {', '.join(NAMES)}")
    try:
        return dataclasses.replace(config, **values)
    except StartError as error:
        raise StartError(f"{file}: {error}") from error


def largest_settings(config: ServerConfig) -> ServerConfig:
    """The server's configuration with the largest batch and queue size and the most instances of any model's own.

    Of what is in the repository now; a file that is no good counts when its model is loaded, which says so.
    """
    settings = [config]
    try:
        folders = sorted(config.models.iterdir())
    except OSError:  # the repository is missing, which is said where it is read
        return config
    for folder in folders:
        with contextlib.suppress(StartError):
            settings.append(settings_of(folder, config))
    return dataclasses.replace(
        config,
        max_batch_size=max(each.max_batch_size for each in settings),
        max_queue_size=max(each.max_queue_size for each in settings),
        instances=max(each.instance_count for each in settings),
    )
