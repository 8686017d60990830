"""Certificate authorities, the certificates that they issued, and options and credentials that name their files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme

from hangtag.serving.client import Credentials

TOKEN = "a-token-of-sixteen-and-more"


@dataclass
class Certificates:
    """Two authorities, ``ours`` and ``strangers``, and a server certificate and a client certificate from each."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.authorities = {name: trustme.CA() for name in ("ours", "strangers")}
        for name, authority in self.authorities.items():
            authority.cert_pem.write_to_path(str(self.ca(name)))
            self.issue(f"server-of-{name}", by=name)
            self.issue(f"client-of-{name}", by=name)

    def ca(self, name: str = "ours") -> Path:
        return self.folder / f"{name}-ca.pem"

    def cert(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def issue(self, name: str, by: str, *hosts: str, **validity: Any) -> None:
        """Write a certificate and its key to the files with this name.

        Args:
            name: The name of the files, without .pem and .key.
            by: The authority that issues the certificate.
            hosts: The hosts that the certificate is for; by default 127.0.0.1.
            validity: ``not_before`` and ``not_after``. By default, the certificate is valid now.
        """
        issued = self.authorities[by].issue_cert(*(hosts or ("127.0.0.1",)), **validity)
        self.cert(name).write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        self.key(name).write_bytes(issued.private_key_pem.bytes())

    def server(self, **more: Path) -> dict[str, Any]:
        """The TLS settings of a server with a certificate from ``ours``."""
        return {"tls_cert": self.cert("server-of-ours"), "tls_key": self.key("server-of-ours"), **more}

    def client(self, by: str | None = "ours") -> Credentials:
        """Credentials of a client that trusts ``ours``. The authority ``by`` issues the client's certificate."""
        name = f"client-of-{by}"
        return Credentials(self.ca(), *((self.cert(name), self.key(name)) if by else ()))
