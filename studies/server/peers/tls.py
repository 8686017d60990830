"""This repository's server with TLS, which only the grpc transport has: what does TLS cost?"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import trustme

from studies.server.process import Launch, hangtag_serve


@contextmanager
def with_tls(models: Path, *options: str) -> Iterator[Launch]:
    """How to start it with these options, and a certificate that lasts as long as the context."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    with tempfile.TemporaryDirectory() as name:
        ca, cert, key = (Path(name, file) for file in ("ca.pem", "cert.pem", "key.pem"))
        authority.cert_pem.write_to_path(str(ca))
        certificate.cert_chain_pems[0].write_to_path(str(cert))
        certificate.private_key_pem.write_to_path(str(key))
        tls = ("--tls-cert", str(cert), "--tls-key", str(key))
        launch = hangtag_serve(models, "--transport", "grpc", *tls, *options)
        yield replace(launch, ca=ca)
