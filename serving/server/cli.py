"""The command ``hangtag serve``."""

from typing import Any

import click
import structlog

from hangtag.printable import escaped
from hangtag.serving.server.config.click_options import server_options
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.process import environment
from hangtag.serving.server.telemetry.log import configure_log

log = structlog.get_logger()


@click.command()
@server_options
def serve(**options: Any) -> None:
    """Serve every model of a repository over gRPC and HTTP.

    Both have the Open Inference Protocol (the clients of Triton and KServe work unchanged) and classify images. gRPC
    has streams, health, and reflection too, and HTTP a page that tries the models. On SIGTERM the server finishes the
    calls in flight and ends with exit code 0.

    \b
    Examples:
      hangtag serve                               the models of ./models on 127.0.0.1:8001 and :8000
      hangtag serve --models /srv/models --host 0.0.0.0 --tls-cert tls.crt --tls-key tls.key --token-file tokens
      hangtag health --wait 30                    (in another shell) returns when the server is ready
    """
    configure_log()
    environment.prepare()
    # Imported here and not above, because gRPC and ONNX Runtime read their variables while they are imported.
    from hangtag.serving.server.process import main

    try:
        config = ServerConfig(**options)
        if config.dangers:
            log.warning(f"LISTENING BEYOND LOOPBACK: {' and '.join(config.dangers)}", host=config.host)
        if environment.prints_headers():
            log.warning(
                "GRPC_TRACE IS SET: gRPC's core prints the headers of calls, tokens included, to standard error. "
                "Unset it unless you look for a fault in gRPC."
            )
        main.run(config)
    except StartError as error:
        raise click.ClickException(escaped(str(error))) from error
