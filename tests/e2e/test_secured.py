"""Every command that calls a server, with mutual TLS and tokens; and what each says without them."""

import json
import re
from collections.abc import Iterator

import pytest
import trustme

from tests.e2e.processes import ROOT, ServerProcess, hangtag, serving

GARMENT = ROOT / "examples/garments/ankle-boot-1.png"


class Secured:
    """A server that wants both, and the options that satisfy it."""

    def __init__(self, server: ServerProcess, options: list[str], metrics: str) -> None:
        self.server = server
        self.options = options
        self.metrics = metrics


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("papers")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name in ("server", "client"):
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_and_cert_chain_pem.write_to_path(str(folder / f"{name}.pem"))
    (folder / "tokens").write_text("a-token-that-is-long-enough\n")
    papers = {name: str(folder / name) for name in ("ca.pem", "server.pem", "client.pem", "tokens")}
    with serving(
        ROOT / "models",
        *("--tls-cert", papers["server.pem"], "--tls-key", papers["server.pem"]),
        *("--tls-client-ca", papers["ca.pem"], "--token-file", papers["tokens"]),
    ) as server:
        url = re.search(r"url=(\S+)", server.wait_for("event=metrics"))
        assert url
        yield Secured(
            server,
            [
                *("--server", server.address, "--tls-ca", papers["ca.pem"]),
                *("--tls-cert", papers["client.pem"], "--tls-key", papers["client.pem"]),
                *("--token-file", papers["tokens"]),
            ],
            url[1],
        )


def test_classify_and_health(secured: Secured) -> None:
    answer = json.loads(hangtag("classify", GARMENT, "--model", "lstm", "--json", *secured.options).stdout)
    assert answer["labels"][0]["name"] == "Ankle boot"
    assert "is ready" in hangtag("health", "--model", "cnn", *secured.options).stdout


def test_loadtest(secured: Secured) -> None:
    quick = ["--concurrency", "2", "--min-duration", "0.2", "--min-query-count", "10", "--blocks", "1"]
    told = hangtag("loadtest", "lstm", *quick, *secured.options, exit_codes=(0, 1))
    assert "UNAUTHENTICATED" not in told.stdout
    assert "UNAVAILABLE" not in told.stdout
    assert "lstm" in told.stdout


def test_top(secured: Secured) -> None:
    looked = hangtag("top", "--once", "--json", "--interval", "0.1", "--metrics", secured.metrics, *secured.options)
    assert [model["model"] for model in json.loads(looked.stdout)["models"]] == ["cnn", "lstm", "lstm2"]


def test_evaluate(secured: Secured) -> None:
    written = hangtag("evaluate", "lstm", "--limit", "64", "--json", "-", *secured.options)
    assert json.loads(written.stdout)["data"]["images"] == 64


@pytest.mark.parametrize("command", [("classify", str(GARMENT)), ("top", "--once"), ("loadtest", "lstm")], ids=" ".join)
def test_without_a_token_each_says_so(secured: Secured, command: tuple[str, ...]) -> None:
    told = hangtag(*command, *secured.options[:-2], exit_codes=(1,))
    assert "this server asks for a token" in told.stderr
    assert "Traceback" not in told.stderr
