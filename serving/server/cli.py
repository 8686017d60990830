"""The command ``hangtag serve``."""

import os
from typing import Any

import click
import structlog

from hangtag.extras import needs
from hangtag.options import options_of, repository
from hangtag.serving.server.config.server_config import ServerConfig, platform_settings
from hangtag.serving.server.config.settings import ModelLimit
from hangtag.serving.server.process import environment
from hangtag.serving.server.telemetry.log import configure_log

log = structlog.get_logger()


def _model_limit(value: Any) -> ModelLimit:
    """Read NAME=N. ServerConfig checks whether the limit is valid."""
    if isinstance(value, tuple):
        return value
    name, _, limit = value.rpartition("=")
    if not (name and limit.isascii() and limit.isdigit()):
        raise click.BadParameter(f"{value!r} must be a model's name, '=' and a number")
    return name, int(limit)


@click.command()
@options_of(
    ServerConfig,
    models=click.types.FuncParamType(repository),
    model_max_batch_size=click.types.FuncParamType(_model_limit),
)
def serve(**options: Any) -> None:
    """Serve every model of a repository over gRPC and HTTP.

    gRPC and HTTP both offer calls that classify images. They also offer the Open Inference Protocol, which clients of
    Triton and KServe use. In addition, gRPC has streams, health and reflection, and HTTP has a page to try the models.
    On SIGTERM the server finishes the calls in flight and exits with code 0.

    docs/reference/options.md also lists the options that are rarely needed.

    \b
    Examples:
      hangtag serve             the models of ./models on 127.0.0.1:8001 and :8000
      hangtag serve --models /srv/models --host 0.0.0.0 --tls-cert tls.crt \\
          --tls-key tls.key --token-file tokens
      hangtag health --wait 30  returns when the server is ready
    """
    configure_log()
    environment.prepare()
    # gRPC and ONNX Runtime read their environment variables while they are imported, so this import comes last.
    with needs("cpu", "'hangtag serve'"):
        from hangtag.serving.server.process import main

    if options["platform"] != "none":
        options |= platform_settings(options["platform"], os.environ)
    if isinstance(options["models"], str):
        options["store"] = options.pop("models")
    config = ServerConfig(**options)
    if config.dangers:
        log.warning(f"LISTENING BEYOND LOOPBACK: {' and '.join(config.dangers)}", host=config.host)
    main.run(config)


_RARE = (
    "model_cache", "model_cache_mib", "trial_load_mib", "platform_model", "gpu_device_id", "gpu_mem_limit_mib",
    "cuda_graphs", "model_max_batch_size", "max_http_bodies_mib", "max_concurrent_streams", "max_connections",
    "connection_idle_seconds", "connection_age_seconds", "keepalive_seconds",
)  # fmt: skip
for option in serve.params:
    if isinstance(option, click.Option) and option.name in _RARE:
        option.hidden = True
