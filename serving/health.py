"""``hangtag health``, which containers run every few seconds: it loads as little as it can."""

import click

from hangtag.serving.connection import ClientError, Connection, server_option
from hangtag.serving.credentials import Credentials, CredentialsError, credentials_options


@click.command()
@server_option
@click.option("--model", default="", help="Ask for one model.  [default: the whole server]")
@click.option("--wait", type=click.FloatRange(min=0), help="Wait up to this many seconds for it to become ready.")
@credentials_options
def health(server: str, model: str, wait: float | None, credentials: Credentials) -> None:
    """Say whether a server is ready: exit code 0 when it is, else 1."""
    try:
        with Connection(server, credentials=credentials) as connection:
            if wait is not None:
                connection.wait_until_ready(wait, model)
            elif not connection.is_ready(model):
                raise click.ClickException(f"{model or 'the server'} at {server} is not ready")
    except (ClientError, CredentialsError) as error:
        raise click.ClickException(f"{error}") from error
    click.echo(f"{model or 'the server'} at {server} is ready")
