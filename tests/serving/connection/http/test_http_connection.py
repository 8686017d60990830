"""What is HTTP's own in a client: datatypes in binary, tokens, model control, addresses, and the missing extra."""

import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from hangtag.serving.address import AddressError
from hangtag.serving.client import Client, ClientError, Credentials
from hangtag.serving.credentials import CredentialsError
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.kit.command import environment
from tests.kit.kinds import KINDS, Kind, every_kind

http_kinds = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.http], ids=str)


@http_kinds
def test_a_call_without_its_token_is_refused(kind: Kind, server: Server, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token-of-sixteen-and-more")
    config = ServerConfig(models=server.config.models, port=0, http_port=0, token_file=tmp_path / "token")
    with Server(config) as guarded:
        with kind.open(kind.of(guarded)) as client, pytest.raises(ClientError, match="token") as caught:
            client.models()
        assert caught.value.code is grpc.StatusCode.UNAUTHENTICATED
        mine = Credentials(token_file=tmp_path / "token")
        with kind.open(kind.of(guarded), credentials=mine) as client:
            assert "gather" in client.models()


@every_kind
def test_control_that_the_server_forbids_has_the_same_code_over_grpc_and_http(kind: Kind, server: Server) -> None:
    with kind.open(kind.of(server)) as client:
        for call in (client.load_model, client.unload_model):
            with pytest.raises(ClientError, match="--model-control explicit") as caught:
                call("gather")
            assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION


def test_both_protocols_give_the_same_answers(server: Server) -> None:
    with Client(server.address) as over_grpc, Client(f"http://{server.http_address}") as over_http:
        assert over_http.parameters("classifier") == over_grpc.parameters("classifier")
        assert over_http.models() == over_grpc.models()
        image = np.random.default_rng(3).integers(0, 256, (28, 28), np.uint8)
        assert (
            over_http.classify(image, "classifier", top_k=10).labels
            == over_grpc.classify(image, "classifier", top_k=10).labels
        )
        names = [one.name for one in over_http.statistics()]
        assert names == [one.name for one in over_grpc.statistics()]


@pytest.mark.parametrize(
    "address", ["http://", "http://:8000", "http://a:0", "http://a:99999", "http://a b", "http://a/?q=1", "https://[x"]
)
def test_a_url_without_a_server_is_refused(address: str) -> None:
    with pytest.raises(AddressError, match="no URL of a server"):
        Client(address)


@http_kinds
def test_a_server_with_another_authority_is_refused(kind: Kind, server: Server, tmp_path: Path) -> None:
    ours, strangers = trustme.CA(), trustme.CA()
    issued = ours.issue_cert("127.0.0.1")
    (tmp_path / "server.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(tmp_path / "server.key"))
    strangers.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    config = ServerConfig(
        models=server.config.models,
        port=0,
        http_port=0,
        tls_cert=tmp_path / "server.pem",
        tls_key=tmp_path / "server.key",
    )
    with Server(config) as other:
        with (
            kind.open(kind.of(other), credentials=Credentials(tmp_path / "ca.pem")) as client,
            pytest.raises(ClientError, match=r"was not signed by an authority in .*ca\.pem \(--tls-ca\)"),
        ):
            client.models()
        with (
            kind.open(kind.of(other)) as client,
            pytest.raises(ClientError, match=r"wants TLS: write https://127\.0\.0\.1:\d+$"),
        ):
            client.models()


def test_tls_files_need_https_and_must_be_certificates(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(CredentialsError, match=r"http://127\.0\.0\.1:1 is not encrypted: write https://"):
        Client("http://127.0.0.1:1", credentials=Credentials(tmp_path / "ca.pem"))
    with pytest.raises(CredentialsError, match="holds no certificate"):
        Client("https://127.0.0.1:1", credentials=Credentials(tmp_path / "ca.pem"))
    with pytest.raises(CredentialsError, match=r"gone \(--tls-ca\) cannot be read"):
        Client("https://127.0.0.1:1", credentials=Credentials(tmp_path / "gone"))


def test_an_encrypted_key_is_refused_without_asking_for_its_password(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    (tmp_path / "client.pem").write_bytes(issued.cert_chain_pems[0].bytes())
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (tmp_path / "client.key").write_bytes(encrypted)
    mine = Credentials(tmp_path / "ca.pem", tmp_path / "client.pem", tmp_path / "client.key")
    with pytest.raises(CredentialsError, match="--tls-cert and --tls-key are no certificate with its unencrypted key"):
        Client("https://127.0.0.1:1", credentials=mine)


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_without_its_extra_an_address_of_http_says_what_to_install(kind: str) -> None:
    code = (
        "import sys; sys.modules['httpx2'] = None\n"
        f"import hangtag; hangtag.{kind}('127.0.0.1:8001')\n"
        f"try: hangtag.{kind}('http://127.0.0.1:8000')\n"
        "except hangtag.UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment())
    assert "An http:// address needs the Python module 'httpx2'" in done.stdout
    assert "pip install '.[http]'" in done.stdout
