"""``hangtag models load`` and ``unload``: load or unload a model of a running server."""

import click

from hangtag.options import Duration
from hangtag.printable import escaped
from hangtag.serving.caller_options import credentials_options, server_option
from hangtag.serving.client.client import Client
from hangtag.serving.credentials import Credentials


@click.command()
@click.argument("name")
@server_option
@click.option(
    "--timeout",
    type=Duration(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="How many seconds the command waits. If the model needs longer, the server still loads it.",
)
@credentials_options
def load(name: str, server: str, timeout: float, credentials: Credentials) -> None:
    """Load a model on a running server, or load it again.

    The command waits until the model is ready. The server must run with --model-control explicit. The server loads the
    promoted version, or the latest if none is promoted. While the new version is loaded, the old version
    answers requests. If the new file is broken, the old version stays in service.

    \b
    Examples:
      hangtag models load cnn
      hangtag models load cnn --server gpu-1:8001 --tls-ca ca.pem --token-file token
    """
    with Client(server, timeout=timeout, credentials=credentials) as client:
        versions = client.load_model(name)
    click.echo(f"{server} serves {name} version {escaped(', '.join(versions))}")


@click.command()
@click.argument("name")
@server_option
@credentials_options
def unload(name: str, server: str, credentials: Credentials) -> None:
    """Take a model of a running server out of service.

    The model still answers the requests that it already has, and its files stay in the repository. The server must run
    with --model-control explicit.

    \b
    Examples:
      hangtag models unload cnn
      hangtag models unload cnn --server gpu-1:8001 --tls-ca ca.pem --token-file token
    """
    with Client(server, credentials=credentials) as client:
        client.unload_model(name)
    click.echo(f"{server} no longer serves {name}")
