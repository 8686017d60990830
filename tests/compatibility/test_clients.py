"""Clients and commands of earlier releases get from today's server what they got from their own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hangtag.serving.server.process.server import Server
from tests.compatibility.earlier import RELEASES, Client
from tests.kit.server import server

pytestmark = pytest.mark.slow

PICTURES = sorted((Path(__file__).parents[2] / "examples/garments").glob("*-1.png"))
SERVED = [(release, transport) for release in RELEASES for transport in ("native", "grpc")]


@pytest.fixture(scope="module", params=SERVED, ids=lambda served: f"{served[0].version}-{served[1]}")
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Server]]:
    """An earlier client, and today's server with that release's models."""
    release, transport = request.param
    client = release.install(tmp_path_factory.mktemp("client"))
    with server(release.folder / "models", transport=transport) as running:
        yield client, running


def test_every_call_is_answered_as_before(served: tuple[Client, Server]) -> None:
    client, running = served
    addresses = [running.address, *([f"http://{running.http_address}"] if client.release.has_http else [])]
    for address in addresses:
        require_close(client.call(address, PICTURES), client.release.read("answers.json"), address)


def require_close(now: Any, before: Any, where: str) -> None:
    """Compare what JSON holds; numbers may differ by what another processor's rounding does."""
    if isinstance(before, list):
        assert len(now) == len(before), where
        for index, pair in enumerate(zip(now, before, strict=True)):
            require_close(*pair, f"{where} {index}")
    elif isinstance(before, dict):
        assert now.keys() == before.keys(), where
        for key in before:
            require_close(now[key], before[key], f"{where} {key}")
    else:
        assert now == (pytest.approx(before, abs=1e-5) if isinstance(before, float) else before), where


def test_the_commands_work(served: tuple[Client, Server], tmp_path: Path) -> None:
    client, running = served
    at, report = ("--server", running.address), tmp_path / "report.json"
    client.hangtag("health", *at)
    classified = client.hangtag("classify", *at, "--model", "lstm-56", "--json", str(PICTURES[0]))
    assert json.loads(classified)["labels"][0]["name"] == client.release.read("answers.json")["classified"][0][3][0][0]
    assert "lstm-56-int8" in client.hangtag("top", *at, "--once", "--interval", "0.1")
    client.hangtag(
        *("loadtest", "lstm-56", *at, "--concurrency", "2", "--json", str(report)),
        *("--min-duration", "0.1", "--min-query-count", "50", "--warm-up", "0.05", "--blocks", "2"),
        exit_codes=(0, 1),  # 1: the machine was too busy for a valid run
    )
    (run,) = json.loads(report.read_text())["runs"]
    assert (run["target"], run["error_messages"]) == ("lstm-56", {})
    assert run["total"]["queries"] >= 50
