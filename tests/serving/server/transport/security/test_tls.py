"""TLS, mutual TLS and tokens on real connections, through the client that hangtag's commands use."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc

from hangtag.protos import classifier_pb2, classifier_pb2_grpc, inference_pb2_grpc
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.client import Client, ClientError, Credentials
from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.certificates import TOKEN, Certificates
from tests.kit.live import TIMEOUT, failure, index, request, status_of

REFLECTION = "grpc.reflection.v1.ServerReflection"


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "certificates")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    onnx_models.publish(tmp_path / "models", "gather", onnx_models.gather())
    return tmp_path / "models"


@contextmanager
def serving(models: Path, **options: Path) -> Iterator[Server]:
    settings: dict[str, Any] = {"limits": Limits(file_check_seconds=0), **options}
    with Server(ServerConfig(models=models, port=0, http_port=-1, drain_seconds=1, **settings)) as server:
        yield server


def value(server: Server, credentials: Credentials) -> float:
    with Client(server.address, timeout=TIMEOUT, credentials=credentials) as client:
        client.wait_until_ready(TIMEOUT)
        return float(client.infer("gather", {"index": index(2)})["value"].item())


def refusal(server: Server, credentials: Credentials) -> ClientError:
    with (
        Client(server.address, timeout=TIMEOUT, credentials=credentials) as client,
        pytest.raises(ClientError) as error,
    ):
        client.infer("gather", {"index": index(2)})
    return error.value


def refused(server: Server, credentials: Credentials) -> grpc.StatusCode:
    return refusal(server, credentials).code


def test_calls_are_encrypted_and_the_server_proves_its_identity(models: Path, certificates: Certificates) -> None:
    with serving(models, **certificates.server()) as server:
        assert value(server, Credentials(certificates.ca())) == 20
        assert refused(server, Credentials(certificates.ca("strangers"))) is grpc.StatusCode.UNAVAILABLE
        assert refused(server, Credentials()) is grpc.StatusCode.UNAVAILABLE  # clear text


def test_a_failed_connection_says_what_is_wrong(models: Path, certificates: Certificates) -> None:
    with serving(models, **certificates.server(tls_client_ca=certificates.ca())) as server:
        wrong_authority = str(refusal(server, Credentials(certificates.ca("strangers"))))
        assert wrong_authority.startswith(f"the certificate of {server.address} was not signed by an authority in ")
        assert "wants TLS: give --tls-ca" in str(refusal(server, Credentials()))
        assert "give a client certificate (--tls-cert, --tls-key)" in str(refusal(server, certificates.client(None)))
    with serving(models) as server:
        assert "does not use TLS: leave out --tls-ca" in str(refusal(server, Credentials(certificates.ca())))


def test_mutual_tls_requires_a_client_certificate(models: Path, certificates: Certificates) -> None:
    with serving(models, **certificates.server(tls_client_ca=certificates.ca())) as server:
        assert value(server, certificates.client()) == 20
        assert refused(server, certificates.client(None)) is grpc.StatusCode.UNAVAILABLE
        assert refused(server, certificates.client("strangers")) is grpc.StatusCode.UNAVAILABLE


def test_a_renewed_certificate_serves_new_connections_and_leaves_the_old(
    models: Path, certificates: Certificates
) -> None:
    with (
        serving(models, **certificates.server()) as server,
        Client(server.address, credentials=certificates.client(None)) as old,
    ):
        assert old.models() == ["gather"]
        certificates.issue("server-of-ours", by="strangers")
        assert value(server, Credentials(certificates.ca("strangers"))) == 20
        assert refused(server, Credentials(certificates.ca("ours"))) is grpc.StatusCode.UNAVAILABLE
        assert old.models() == ["gather"]


def test_a_renewed_authority_of_clients_counts_for_new_connections(models: Path, certificates: Certificates) -> None:
    authority = certificates.folder / "authority-ca.pem"
    authority.write_bytes(certificates.ca().read_bytes())
    with serving(models, **certificates.server(tls_client_ca=authority)) as server:
        assert value(server, certificates.client()) == 20
        authority.write_bytes(certificates.ca("strangers").read_bytes())
        assert refused(server, certificates.client()) is grpc.StatusCode.UNAVAILABLE
        assert value(server, certificates.client("strangers")) == 20
        authority.write_bytes(b"no certificate")
        assert value(server, certificates.client("strangers")) == 20


def test_a_broken_renewal_leaves_the_certificate_that_was_good(models: Path, certificates: Certificates) -> None:
    with serving(models, **certificates.server()) as server:
        certificates.key("server-of-ours").write_bytes(certificates.key("server-of-strangers").read_bytes())
        assert value(server, Credentials(certificates.ca())) == 20
        certificates.cert("server-of-ours").write_bytes(
            certificates.cert("server-of-strangers").read_bytes()
        )  # now they fit
        assert value(server, Credentials(certificates.ca("strangers"))) == 20


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("server-of-ours.key", r"are not a certificate and its key, both PEM and the key not encrypted"),
        ("server-of-ours.pem", r"are not a certificate and its key"),
        ("ours-ca.pem", r"ours-ca\.pem \(--tls-client-ca\) holds no certificate in PEM form"),
    ],
)
def test_the_server_does_not_start_with_unusable_files(
    models: Path, certificates: Certificates, spoil: str, message: str
) -> None:
    config = ServerConfig(models=models, port=0, http_port=-1, **certificates.server(tls_client_ca=certificates.ca()))
    (certificates.folder / spoil).write_text("no PEM")
    with pytest.raises(StartError, match=message):
        Server(config)
    (certificates.folder / spoil).unlink()
    with pytest.raises(StartError, match=r"cannot be read: No such file"):
        Server(config)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    (tmp_path / "tokens").write_text(TOKEN)
    return tmp_path / "tokens"


def test_every_call_but_those_to_health_requires_a_token(models: Path, tokens: Path) -> None:
    with serving(models, token_file=tokens) as server, grpc.insecure_channel(server.address) as channel:
        assert value(server, Credentials(token_file=tokens)) == 20
        inference = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        classifier = classifier_pb2_grpc.ClassifierStub(channel)
        for call in (
            lambda: inference.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT),
            lambda: inference.ModelInfer(request("gather", index=index(1)), timeout=TIMEOUT),
            lambda: classifier.Classify(classifier_pb2.ClassifyRequest(), timeout=TIMEOUT),
            lambda: next(bare(channel.stream_stream, f"/{REFLECTION}/ServerReflectionInfo")(iter([b""]))),
            lambda: bare(channel.unary_unary, "/no.such/Method")(b"", timeout=TIMEOUT),
        ):
            code, message = failure(call)
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert message.startswith("this server requires a token: send 'authorization: Bearer <token>'")
        wrong = [("authorization", f"Bearer {TOKEN}s")]
        code, message = failure(lambda: inference.ServerLive(pb.ServerLiveRequest(), metadata=wrong, timeout=TIMEOUT))
        assert (code, message[:25]) == (grpc.StatusCode.UNAUTHENTICATED, "the token is not valid he")
        assert status_of(health_pb2_grpc.HealthStub(channel), "gather") == "SERVING"


def bare(make: Callable[[str], Any], method: str) -> Any:
    """A call that takes and gives bytes."""
    return make(method)


def test_tokens_and_mutual_tls_together_require_both(models: Path, certificates: Certificates, tokens: Path) -> None:
    with serving(models, **certificates.server(tls_client_ca=certificates.ca()), token_file=tokens) as server:
        both = certificates.client()
        assert refused(server, both) is grpc.StatusCode.UNAUTHENTICATED
        assert value(server, Credentials(both.tls_ca, both.tls_cert, both.tls_key, tokens)) == 20
