"""Runs every command that calls a server against one that demands mutual TLS and a token."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trustme

from hangtag.serving.client import Classification, Client, ClientError, Credentials
from tests.e2e.processes import ROOT, ServerProcess, hangtag, serving

pytestmark = pytest.mark.slow

GARMENT = ROOT / "examples/garments/ankle-boot-1.png"


class Secured:
    """A server that demands a client certificate and a token, the options that supply both, and its metrics URL."""

    def __init__(self, server: ServerProcess, options: list[str], metrics: str) -> None:
        self.server = server
        self.options = options
        self.metrics = metrics

    @property
    def credentials(self) -> Credentials:
        """The same credentials for the Python client."""
        ca, cert, key, token = self.options[3::2]
        return Credentials(*map(Path, (ca, cert, key, token)))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("credentials")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name in ("server", "client"):
        certificate = authority.issue_cert("127.0.0.1")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / f"{name}.pem"))
    (folder / "tokens").write_text("a-token-that-is-long-enough\n")
    files = {name: str(folder / name) for name in ("ca.pem", "server.pem", "client.pem", "tokens")}
    with serving(
        ROOT / "models",
        *("--tls-cert", files["server.pem"], "--tls-key", files["server.pem"]),
        *("--tls-client-ca", files["ca.pem"], "--token-file", files["tokens"]),
    ) as server:
        url = re.search(r"url=(\S+)", server.wait_for("event=metrics"))
        assert url
        yield Secured(
            server,
            [
                *("--server", server.address, "--tls-ca", files["ca.pem"]),
                *("--tls-cert", files["client.pem"], "--tls-key", files["client.pem"]),
                *("--token-file", files["tokens"]),
            ],
            url[1],
        )


def test_classify_and_health(secured: Secured) -> None:
    answer = json.loads(hangtag("classify", GARMENT, "--model", "lstm", "--json", *secured.options).stdout)
    assert answer["labels"][0]["name"] == "Ankle boot"
    assert "is ready" in hangtag("health", "--model", "cnn", *secured.options).stdout


def test_streams_and_compare(secured: Secured) -> None:
    comparison = hangtag("classify", GARMENT, "--model", "lstm", "--model", "cnn", "--json", *secured.options)
    answers = json.loads(comparison.stdout)["models"]
    labels = [(answer["model"], answer["labels"][0]["name"]) for answer in answers]
    assert labels == [("lstm", "Ankle boot"), ("cnn", "Ankle boot")]
    with Client(secured.server.address, credentials=secured.credentials) as client:
        (answer,) = client.classify_stream([GARMENT.read_bytes()], "lstm")
        assert isinstance(answer, Classification)
        (outputs,) = client.infer_stream("lstm", [{"image": np.zeros((1, 28, 28), np.uint8)}])
        assert isinstance(outputs, dict)
    tokenless = replace(secured.credentials, token_file=None)
    with (
        Client(secured.server.address, credentials=tokenless) as client,
        pytest.raises(ClientError, match="this server requires a token"),
    ):
        next(client.classify_stream([GARMENT.read_bytes()], "lstm"))


def test_loadtest(secured: Secured) -> None:
    quick = ["--concurrency", "2", "--min-duration", "0.2", "--min-query-count", "10", "--blocks", "1"]
    loadtest = hangtag("loadtest", "lstm", *quick, *secured.options, exit_codes=(0, 1))
    assert "UNAUTHENTICATED" not in loadtest.stdout
    assert "UNAVAILABLE" not in loadtest.stdout
    assert "lstm" in loadtest.stdout


def test_top(secured: Secured) -> None:
    top = hangtag("top", "--once", "--json", "--interval", "0.1", "--metrics", secured.metrics, *secured.options)
    listed = [model["model"] for model in json.loads(top.stdout)["models"]]
    assert listed == sorted(folder.name for folder in (ROOT / "models").iterdir())


def test_models_load_and_unload_reach_the_servers_control(secured: Secured) -> None:
    for command in ("load", "unload"):
        process = hangtag("models", command, "cnn", *secured.options, exit_codes=(1,))
        assert "start the server with --model-control explicit" in process.stderr


def test_evaluate(secured: Secured) -> None:
    evaluation = hangtag("evaluate", "lstm", "--limit", "64", "--json", "-", *secured.options)
    assert json.loads(evaluation.stdout)["data"]["images"] == 64


@pytest.mark.parametrize(
    "command",
    [("classify", str(GARMENT)), ("top", "--once"), ("loadtest", "lstm"), ("models", "load", "cnn")],
    ids=" ".join,
)
def test_without_a_token_each_command_says_what_is_missing(secured: Secured, command: tuple[str, ...]) -> None:
    process = hangtag(*command, *secured.options[:-2], exit_codes=(1,))
    assert "this server requires a token" in process.stderr
    assert "Traceback" not in process.stderr
