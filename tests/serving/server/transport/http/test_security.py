"""Tokens, TLS and spans over HTTP."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.transport.tracing import Tracing
from tests.kit import onnx_models
from tests.kit.certificates import TOKEN, Certificates
from tests.kit.collector import PARENT, TRACE, TRACEPARENT
from tests.kit.live import LiveServer, index, request
from tests.kit.rest import Rest

pytestmark = pytest.mark.slow


@pytest.fixture
def models(tmp_path: Path) -> Path:
    onnx_models.publish(tmp_path / "models", "gather", onnx_models.gather())
    return tmp_path / "models"


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    (tmp_path / "certificates").mkdir()
    return Certificates(tmp_path / "certificates")


@contextmanager
def serving(models: Path, **options: Path) -> Iterator[LiveServer]:
    settings: dict[str, Any] = {"limits": Limits(file_check_seconds=0), **options}
    config = ServerConfig(models=models, port=0, http_port=0, drain_seconds=1, transport="grpc", **settings)
    with LiveServer(config) as live:
        yield live


def trusting(certificates: Certificates, authority: str = "ours", client: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificates.ca(authority))
    if client is not None:
        context.load_cert_chain(certificates.cert(client), certificates.key(client))
    return context


def value(live: LiveServer, tls: ssl.SSLContext) -> float:
    with Rest(live.server.http_address, tls) as rest:
        return float(rest.infer(request("gather", index=index(2))).outputs["value"].item())


def test_every_request_but_those_to_health_requires_a_token(models: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    with serving(models, token_file=tokens) as live, Rest(live.server.http_address) as rest:
        assert rest.get("/v2/health/live").json == {"live": True}
        assert rest.get("/v2/health/ready").json == {"ready": True}
        for method, path in (
            ("POST", "/v2/models/gather/infer"),
            ("POST", "/v1/classify/gather"),
            ("GET", "/v2"),
            ("GET", "/v2/models/gather"),
            ("GET", "/metrics"),
            ("POST", "/v2/repository/index"),
            ("GET", "/no/such/path"),
        ):
            answer = rest.ask(method, path, b"", {})
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert "'authorization: Bearer <token>'" in answer.error
        assert rest.get("/v2", authorization=f"Bearer {TOKEN}x").status == 401
        assert rest.get("/v2", authorization=f"Bearer {TOKEN}").status == 200
        answer = rest.infer(request("gather", index=index(2)), authorization=f"Bearer {TOKEN}")
        assert answer.outputs["value"].tolist() == [20]


def test_requests_are_encrypted_and_a_renewed_certificate_serves_new_connections(
    models: Path, certificates: Certificates
) -> None:
    with (
        serving(models, **certificates.server()) as live,
        Rest(live.server.http_address, trusting(certificates)) as old,
    ):
        assert old.get("/v2/health/live").status == 200
        assert value(live, trusting(certificates)) == 20
        with pytest.raises(ssl.SSLCertVerificationError):
            value(live, trusting(certificates, "strangers"))
        certificates.issue("server-of-ours", by="strangers")
        assert value(live, trusting(certificates, "strangers")) == 20
        assert old.get("/v2/health/live").status == 200  # on its old connection


def test_mutual_tls_requires_a_certificate_of_the_authority_as_it_is_now(
    models: Path, certificates: Certificates
) -> None:
    authority = certificates.folder / "authority-ca.pem"
    authority.write_bytes(certificates.ca().read_bytes())
    with serving(models, **certificates.server(tls_client_ca=authority)) as live:
        assert value(live, trusting(certificates, client="client-of-ours")) == 20
        for client in (None, "client-of-strangers"):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                value(live, trusting(certificates, client=client))
        authority.write_bytes(certificates.ca("strangers").read_bytes())
        assert value(live, trusting(certificates, client="client-of-strangers")) == 20
        with pytest.raises((ssl.SSLError, ConnectionError)):
            value(live, trusting(certificates, client="client-of-ours"))


def test_a_request_is_a_span_of_its_callers_trace(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(Tracing, "to", lambda *_: Tracing(SimpleSpanProcessor(exporter), 2))
    with serving(models) as live, Rest(live.server.http_address) as rest:
        rest.infer(request("gather", index=index(1)), traceparent=TRACEPARENT)
        rest.post("/v1/classify/nobody", b"", traceparent=TRACEPARENT)
    by_name = {span.name: span for span in exporter.get_finished_spans()}
    span = by_name["POST /v2/models/{model}/infer"]
    assert span.context is not None
    assert span.parent is not None
    assert (span.context.trace_id, span.parent.span_id) == (TRACE, PARENT)
    assert dict(span.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v2/models/{model}/infer",
        "hangtag.status": "OK",
        "hangtag.batch_size": 1,
    }
    assert {"queue", "compute"} <= set(by_name)
    assert (by_name["POST /v1/classify/{model}"].attributes or {})["hangtag.status"] == "NOT_FOUND"
