"""``hangtag health``. Containers run this command every few seconds, so it imports as little as possible."""

import time
from contextlib import closing

import click

from hangtag.options import Duration
from hangtag.serving.caller_options import credentials_options, server_option
from hangtag.serving.connection.client_options import ConnectionOptions
from hangtag.serving.connection.connect import blocking, connect, finished
from hangtag.serving.credentials import Credentials
from hangtag.serving.health_check import DEFAULT_TIMEOUT, HealthCalls


@click.command()
@server_option
@click.option("--model", default="", help="The model to check.  [default: the whole server]")
@click.option("--wait", type=Duration(min=0), help="Wait this long for readiness, such as 30s or 500ms.")
@credentials_options
def health(server: str, model: str, wait: float | None, credentials: Credentials) -> None:
    """Report whether a server or a model is ready. The exit code is 0 if it is ready, and otherwise 1."""
    options = ConnectionOptions()
    with closing(connect(server, DEFAULT_TIMEOUT, credentials, options)) as connection:
        checks = HealthCalls(server, options, blocking(connection.call), blocking(time.sleep))
        finished(checks.wait_until_ready(wait, model) if wait else checks.require_ready(model))
    click.echo(f"{model or 'the server'} at {server} is ready")
