"""How a client proves who it is and whom it trusts: TLS files and a bearer token. Client and load test share it.

It opens channels and gives the metadata that each call needs, and knows nothing of the services that are called.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import grpc

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(dir_okay=False, path_type=Path)
# Of every channel. Whoever waits for a server that is about to start tries again soon, not after gRPC's one second.
_CONNECTING = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # For all its name, how long one attempt may take at least. A handshake over a far network, or with a busy machine,
    # has to fit in, and so has the failure into a call's deadline, for its message is the better one.
    ("grpc.min_reconnect_backoff_ms", 5000),
]


class CredentialsError(Exception):
    """A file that cannot be read or does not fit, in one sentence."""


@dataclass(frozen=True)
class Credentials:
    """Nothing given: no TLS and no token. Raises CredentialsError on construction when files do not fit together.

    tls_ca: PEM file of the authorities that may have signed the server's certificate; it turns TLS on.
    tls_cert, tls_key: PEM files of this client's own certificate and its key, where the server asks for one.
    token_file: a file whose first line is sent as bearer token.
    """

    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token_file: Path | None = None

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise CredentialsError("a client certificate needs its key: give --tls-cert and --tls-key together")
        if self.tls_cert is not None and self.tls_ca is None:
            raise CredentialsError("a client certificate needs TLS: give --tls-ca, the authority of the server's, too")

    def channel(self, address: str, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
        """An open channel to HOST:PORT, encrypted where there is a tls_ca. Raises CredentialsError."""
        options = [*_CONNECTING, *options]
        if self.tls_ca is None:
            return grpc.insecure_channel(address, options)
        authorities = _read(self.tls_ca, "--tls-ca")
        if b"-----BEGIN CERTIFICATE-----" not in authorities:  # gRPC would only say that it cannot connect
            raise CredentialsError(f"{self.tls_ca} (--tls-ca) holds no certificate in PEM form")
        key = None if self.tls_key is None else _read(self.tls_key, "--tls-key")
        certificate = None if self.tls_cert is None else _read(self.tls_cert, "--tls-cert")
        credentials = grpc.ssl_channel_credentials(authorities, key, certificate)
        return grpc.secure_channel(address, credentials, options)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries: the token as it stands in the file now, since tokens are renewed while a client
        lives. Empty without one. Raises CredentialsError."""
        if self.token_file is None:
            return ()
        try:
            token = _read(self.token_file, "--token-file").decode("ascii").strip().partition("\n")[0].strip()
        except UnicodeDecodeError as error:
            raise CredentialsError(f"{self.token_file} (--token-file) is not a text file of ASCII") from error
        if not token or not token.isprintable():
            raise CredentialsError(f"{self.token_file} (--token-file) holds no token in its first line")
        return (("authorization", f"Bearer {token}"),)


def credentials_options(command: F) -> F:
    """Give a click command --tls-ca, --tls-cert, --tls-key and --token-file; it receives ``credentials``."""

    @functools.wraps(command)
    def with_credentials(
        *args: Any,
        tls_ca: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        token_file: Path | None,
        **kwargs: Any,
    ) -> Any:
        try:
            credentials = Credentials(tls_ca, tls_cert, tls_key, token_file)
            credentials.metadata()  # now, in one line, not at the first call
        except CredentialsError as error:
            raise click.UsageError(f"{error}.") from error
        return command(*args, credentials=credentials, **kwargs)

    options = {
        "--tls-ca": "Use TLS, and trust servers whose certificate these authorities (a PEM file) signed.",
        "--tls-cert": "This client's own certificate (PEM), for a server that asks for one. Needs --tls-key.",
        "--tls-key": "The key of --tls-cert (PEM, not encrypted).",
        "--token-file": "Send the first line of this file as bearer token.",
    }
    decorated: Any = with_credentials
    for flag, text in reversed(options.items()):
        # One variable for every command that calls a server, besides the command's own.
        variable = f"HANGTAG_{flag.removeprefix('--').replace('-', '_').upper()}"
        decorated = click.option(flag, type=_FILE, envvar=variable, show_envvar=True, help=text)(decorated)
    made: F = decorated
    return made


def _read(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CredentialsError(f"{path} ({flag}) cannot be read: {error.strerror}") from error
