"""Command-line options shared by all commands that call a server: the address, TLS and a token."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hangtag.serving import address
from hangtag.serving.credentials import Credentials, CredentialsError

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(dir_okay=False, path_type=Path)
# the help texts of the options, by the names of the fields of Credentials
_CREDENTIALS = {
    "tls_ca": "Use TLS, and trust servers with a certificate signed by an authority in this PEM file.",
    "tls_cert": "This client's own certificate (PEM), if the server verifies clients. Needs --tls-key.",
    "tls_key": "The private key of --tls-cert (PEM, not encrypted).",
    "token_file": "Send the first line of this file as a bearer token.",
}


class ServerAddress(click.ParamType[str]):
    """HOST:PORT of a gRPC server, or a URL for HTTP. Any other text causes a usage error that says what to write."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            address.require(value)
        except address.AddressError as error:
            self.fail(f"{error}.", param, ctx)
        return str(value)


server_option = click.option(
    "--server",
    type=ServerAddress(),
    default=address.DEFAULT,
    envvar="HANGTAG_SERVER",
    show_default=True,
    show_envvar=True,
    help="The server's gRPC port, or http://HOST:PORT for its HTTP port.",
)


def credentials_options(command: F) -> F:
    """Add --tls-ca, --tls-cert, --tls-key and --token-file to a click command, which gets them as ``credentials``.

    Files that do not belong together, or a token that cannot be read, cause a usage error (exit code 2) before any
    call.
    """

    @functools.wraps(command)
    def with_credentials(*args: Any, **kwargs: Any) -> Any:
        try:
            credentials = Credentials(**{name: kwargs.pop(name) for name in _CREDENTIALS})
            credentials.metadata()
        except CredentialsError as error:
            raise click.UsageError(f"{error}.") from error
        return command(*args, credentials=credentials, **kwargs)

    decorated: Any = with_credentials
    for name, help_text in reversed(_CREDENTIALS.items()):
        flag = f"--{name.replace('_', '-')}"
        # All commands that call a server share this environment variable. Each command also has a variable of its own.
        variable = f"HANGTAG_{name.upper()}"
        decorated = click.option(flag, type=_FILE, envvar=variable, show_envvar=True, help=help_text)(decorated)
    result: F = decorated
    return result
