"""Which transport serves, and why: every reason that ``--transport auto`` has, and what asking by name does."""

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
import structlog

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.transport.choice import choose_transport
from hangtag.serving.server.transport.native.availability import problem
from tests.kit import onnx_models
from tests.kit.live import LiveServer, index, request

CERTIFICATE: dict[str, Any] = {"tls_cert": Path(__file__), "tls_key": Path(__file__)}
NOT_INSTALLED = "pygrpc-native is not installed (pip install '.[native]')"
NOT_TESTED = "pygrpc-native {} is not tested with hangtag; versions from 0.5 to below 0.6 are"


def not_installed(_: str) -> str:
    raise importlib.metadata.PackageNotFoundError


@pytest.mark.parametrize(
    ("options", "choice"),
    [
        ({}, ("native", "TLS is off and the address is loopback")),
        ({"host": "::1"}, ("native", "TLS is off and the address is loopback")),
        ({"host": "localhost"}, ("native", "TLS is off and the address is loopback")),
        ({"transport": "native"}, ("native", "--transport native")),
        ({"transport": "native", "host": "0.0.0.0"}, ("native", "--transport native")),
        ({"transport": "grpc"}, ("grpc", "--transport grpc")),
        (CERTIFICATE, ("grpc", "TLS is on, which native does not have")),
        ({"host": "0.0.0.0"}, ("grpc", "the address is not loopback, and native does not limit what clients send")),
    ],
    ids=str,
)
def test_each_reason(options: dict[str, Any], choice: tuple[str, str]) -> None:
    assert choose_transport(ServerConfig(**options)) == choice


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (not_installed, NOT_INSTALLED),
        (lambda _: "0.4.9", NOT_TESTED.format("0.4.9")),
        (lambda _: "0.6.0", NOT_TESTED.format("0.6.0")),
        (lambda _: "1.0", NOT_TESTED.format("1.0")),
        (lambda _: "0.6rc1", NOT_TESTED.format("0.6rc1")),
        (lambda _: "unknown", NOT_TESTED.format("unknown")),
    ],
    ids=["missing", "older", "newer", "major", "candidate", "no number"],
)
def test_a_library_that_is_missing_or_was_not_tested(
    monkeypatch: pytest.MonkeyPatch, version: Any, reason: str
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", version)
    assert choose_transport(ServerConfig()) == ("grpc", reason)
    assert choose_transport(ServerConfig(transport="grpc")) == ("grpc", "--transport grpc")
    with pytest.raises(StartError) as refused:
        choose_transport(ServerConfig(transport="native"))
    assert str(refused.value) == f"--transport native cannot be used: {reason}. Or use --transport grpc."


@pytest.mark.parametrize("version", ["0.5.0", "0.5.99"])
def test_a_version_in_the_tested_range(version: str) -> None:
    assert problem(version) == ""


def test_native_with_tls_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(StartError) as refused:
        ServerConfig(transport="native", **CERTIFICATE)
    assert str(refused.value) == (
        "--transport native has no TLS. Use --transport grpc, or leave TLS to a proxy in front of the server: see "
        "'TLS and the native transport' in docs/operations.md."
    )


@pytest.mark.parametrize(
    ("options", "transport", "reason"),
    [
        ({}, "native", "TLS is off and the address is loopback"),
        ({"transport": "grpc"}, "grpc", "--transport grpc"),
    ],
    ids=["auto", "by name"],
)
def test_the_log_says_which_and_why_and_what_native_does_not_limit(
    tmp_path: Path, options: dict[str, Any], transport: str, reason: str
) -> None:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    with (
        structlog.testing.capture_logs() as logs,
        LiveServer(ServerConfig(models=tmp_path, port=0, http_port=-1, **options)) as live,
    ):
        assert live.infer(request("gather", index=index(2)))["value"].tolist() == [20]
        assert live.server.state().transports == {(transport, reason): 1}
    (ready,) = [line for line in logs if line["event"] == "ready"]
    assert (ready["transport"], ready["because"]) == (transport, reason)
    limits = [line for line in logs if line["event"].startswith("the native transport sets no limit")]
    assert len(limits) == (transport == "native")
    assert {line["log_level"] for line in logs} == {"info"}
