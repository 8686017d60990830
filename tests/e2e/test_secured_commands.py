"""Runs every command that calls a server against one that demands mutual TLS and a token."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hangtag.serving.client import Credentials
from tests.kit.certificates import TOKEN, Certificates
from tests.kit.command import ROOT, Serving, hangtag, last_line, serving
from tests.kit.shipped import MODELS

GARMENT = ROOT / "examples/garments/ankle-boot-1.png"


@dataclass(frozen=True)
class Secured:
    """A server that demands a client certificate and a token, and the credentials that supply both."""

    server: Serving
    credentials: Credentials

    def run(self, *arguments: object, token: bool = True, exit_code: int = 0) -> str:
        """What a command prints with the credentials, or the error that ends it."""
        paths = {
            "--tls-ca": self.credentials.tls_ca,
            "--tls-cert": self.credentials.tls_cert,
            "--tls-key": self.credentials.tls_key,
            **({"--token-file": self.credentials.token_file} if token else {}),
        }
        options = [each for option, path in paths.items() for each in (option, path)]
        done = hangtag(*arguments, "--server", self.server.address, *options, exit_codes=[exit_code])
        return last_line(done.stderr) if exit_code else done.stdout

    def read(self, *arguments: object) -> Any:
        return json.loads(self.run(*arguments))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    certificates = Certificates(tmp_path_factory.mktemp("certificates"))
    tokens = certificates.folder / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    tls = certificates.server(tls_client_ca=certificates.ca(), token_file=tokens)
    options = [each for name, path in tls.items() for each in (f"--{name.replace('_', '-')}", path)]
    with serving("--models", MODELS, "--port", 0, *options, script=True) as server:
        server.wait_for("ready")
        yield Secured(server, replace(certificates.client(), token_file=tokens))


def test_each_command_reaches_the_server(secured: Secured) -> None:
    answer = secured.read("classify", GARMENT, "--model", "lstm", "--json")
    assert answer["labels"][0]["name"] == "Ankle boot"
    compared = secured.read("classify", GARMENT, "--model", "lstm", "--model", "cnn", "--json")["models"]
    labels = [(answer["model"], answer["labels"][0]["name"]) for answer in compared]
    assert labels == [("lstm", "Ankle boot"), ("cnn", "Ankle boot")]
    assert secured.server.address in secured.run("health", "--model", "cnn")
    once = ("--once", "--json", "--interval", 0.1, "--metrics", secured.server.metrics_url)
    listed = [model["model"] for model in secured.read("top", *once)["models"]]
    assert listed == sorted(folder.name for folder in MODELS.iterdir())
    for command in ("load", "unload"):
        assert "--model-control explicit" in secured.run("models", command, "cnn", exit_code=1)
    assert secured.read("evaluate", "lstm", "--limit", 64, "--json", "-")["data"]["images"] == 64


def test_the_load_test_reaches_the_server(secured: Secured, tmp_path: Path) -> None:
    file = tmp_path / "load.json"
    quick = ("--concurrency", 2, "--min-duration", 0.2, "--min-query-count", 10, "--blocks", 1)
    secured.run("loadtest", "lstm", *quick, "--json", file)
    (run,) = json.loads(file.read_text())["runs"]
    assert run["total"]["statuses"] == {"OK": run["total"]["queries"]}


@pytest.mark.parametrize("command", [f"classify {GARMENT}", "top --once", "loadtest lstm", "models load cnn"])
def test_without_a_token_each_command_says_what_is_missing(secured: Secured, command: str) -> None:
    assert "this server requires a token" in secured.run(*command.split(), token=False, exit_code=1)
