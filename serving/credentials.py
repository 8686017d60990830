"""Open channels with a client's TLS files, and send its bearer token. The client and the load test use this module."""

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from hangtag.errors import UserError

StrPath: TypeAlias = str | os.PathLike[str]

_RECONNECT_ARGUMENTS = [
    # A client that waits for a starting server retries after 0.1 s to 1 s; gRPC's own backoff begins at 1 s.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Despite its name, min_reconnect_backoff_ms is the shortest time limit of one connection attempt. 5 s is enough for
    # a handshake over a slow network or on a busy machine, and less than a call's default deadline, so that a failed
    # handshake is not reported as an exceeded deadline.
    ("grpc.min_reconnect_backoff_ms", 5000),
]


class CredentialsError(UserError):
    """A TLS or token file cannot be read, has the wrong contents, or is given without the file that belongs to it."""


@dataclass(frozen=True)
class Credentials:
    """A client's TLS files and token. Without arguments, calls use neither TLS nor a token.

    Args:
        tls_ca: PEM file of the certificate authorities that the client trusts. If ``tls_ca`` is given, the client uses
            TLS.
        tls_cert: PEM file of this client's own certificate, for servers that verify their clients. Needs ``tls_key``.
        tls_key: unencrypted PEM file of the private key of ``tls_cert``.
        token_file: a file whose first line the client sends as bearer token.

    Raises:
        CredentialsError: only one of ``tls_cert`` and ``tls_key`` is given, or both are given without ``tls_ca``.

    Example:
        >>> Client("models.example:8001", credentials=Credentials(tls_ca="ca.pem", token_file="token"))
    """

    tls_ca: StrPath | None = None
    tls_cert: StrPath | None = None
    tls_key: StrPath | None = None
    token_file: StrPath | None = None

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise CredentialsError("a client certificate needs its key: give --tls-cert and --tls-key together")
        if self.tls_cert is not None and self.tls_ca is None:
            raise CredentialsError(
                "a client certificate needs TLS: give --tls-ca too, the file of the server's certificate authority"
            )

    def channel(self, address: str, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
        """Open a channel to a server or to a list of servers. The channel is encrypted if there is a ``tls_ca``.

        Raises:
            CredentialsError: a TLS file cannot be read, or ``tls_ca`` holds no certificate.
        """
        arguments = [*_RECONNECT_ARGUMENTS, *options]
        first, is_list, _ = address.removeprefix("ipv4:").removeprefix("ipv6:").partition(",")
        if is_list:
            # By default gRPC sends the whole list as the authority of the calls, which the native transport refuses.
            arguments.append(("grpc.default_authority", first))
        credentials = self.channel_credentials()
        if credentials is None:
            return grpc.insecure_channel(address, arguments)
        return grpc.secure_channel(address, credentials, arguments)

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """Return gRPC's credentials with the contents of the TLS files, or None if there is no ``tls_ca``.

        Raises:
            CredentialsError: a TLS file cannot be read, or ``tls_ca`` holds no certificate.
        """
        if self.tls_ca is None:
            return None
        authorities = _read(self.tls_ca, "--tls-ca")
        if b"-----BEGIN CERTIFICATE-----" not in authorities:  # gRPC would report only that the connection failed
            raise CredentialsError(f"{self.tls_ca} (--tls-ca) holds no certificate in PEM form")
        key = None if self.tls_key is None else _read(self.tls_key, "--tls-key")
        certificate = None if self.tls_cert is None else _read(self.tls_cert, "--tls-cert")
        return grpc.ssl_channel_credentials(authorities, key, certificate)

    def ssl_context(self, url: str) -> ssl.SSLContext | None:
        """Return the TLS context for a URL; None for http://. Without ``tls_ca``, the client trusts the system's
        certificate authorities.

        Raises:
            CredentialsError: a TLS file cannot be read or is malformed, or ``tls_ca`` is given for an http:// URL.
        """
        if not url.lower().startswith("https:"):
            if self.tls_ca is not None:
                raise CredentialsError(f"--tls-ca is given, but {url} is not encrypted: write https://")
            return None
        if self.tls_ca is None:
            return ssl.create_default_context()
        for path, flag in ((self.tls_ca, "--tls-ca"), (self.tls_cert, "--tls-cert"), (self.tls_key, "--tls-key")):
            if path is not None:
                _read(path, flag)  # ssl's own errors do not name the file
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
            if self.tls_cert is not None:
                # without a password, OpenSSL would prompt for one
                context.load_cert_chain(self.tls_cert, self.tls_key, password="")
        except ssl.SSLError as error:
            raise CredentialsError(
                f"{self.tls_ca} (--tls-ca) holds no certificate in PEM form, or --tls-cert and --tls-key are not a "
                f"certificate and its unencrypted key: {error.reason or error}"
            ) from error
        return context

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata that each call carries: the bearer token, or nothing if there is no ``token_file``.

        This method reads the token file at each call, because tokens may be renewed during a client's life.

        Raises:
            CredentialsError: the token's file cannot be read, or its first line is not a token.
        """
        if self.token_file is None:
            return ()
        try:
            token = _read(self.token_file, "--token-file").decode("ascii").strip().partition("\n")[0].strip()
        except UnicodeDecodeError as error:
            raise CredentialsError(f"{self.token_file} (--token-file) is not an ASCII text file") from error
        if not token or not token.isprintable():
            raise CredentialsError(f"{self.token_file} (--token-file) holds no token in its first line")
        return (("authorization", f"Bearer {token}"),)


def _read(path: StrPath, flag: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CredentialsError(f"{path} ({flag}) cannot be read: {error.strerror}") from error
