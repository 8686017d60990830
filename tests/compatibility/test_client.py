"""The client of release 0.1.0 gets from today's server, on either transport, what it got from that release's own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compatibility import earlier_client
from tests.kit.live import LiveServer
from tests.kit.over_http import live_server

pytestmark = pytest.mark.slow

ANSWERS: dict[str, Any] = json.loads((earlier_client.RELEASE / "answers.json").read_text())
PICTURES = sorted((Path(__file__).parents[2] / "examples/garments").glob("*-1.png"))


@pytest.fixture(scope="module", params=["native", "grpc"])
def server(request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    with live_server(request.param, earlier_client.RELEASE / "models") as live:
        yield live


def test_every_call_is_answered_as_before(server: LiveServer) -> None:
    answers = earlier_client.call(server.server.address, PICTURES)
    assert answers.keys() == ANSWERS.keys()
    for call, before in ANSWERS.items():
        assert close(answers[call], before), f"{call}: {answers[call]}, and before {before}"


def close(now: Any, before: Any) -> bool:
    """Compare what JSON holds; numbers may differ by what another processor's rounding does."""
    if isinstance(before, list):
        return isinstance(now, list) and len(now) == len(before) and all(map(close, now, before))
    if isinstance(before, dict):
        return (
            isinstance(now, dict) and now.keys() == before.keys() and all(close(now[key], before[key]) for key in now)
        )
    if isinstance(before, float):
        return bool(now == pytest.approx(before, abs=1e-5))
    return bool(now == before)


def test_the_earlier_commands_work(server: LiveServer) -> None:
    at = ("--server", server.server.address)
    ready = earlier_client.command("health", *at)
    assert ready.returncode == 0, ready.stderr
    classified = earlier_client.command("classify", *at, "--model", "lstm-56", "--json", str(PICTURES[0]))
    assert classified.returncode == 0, classified.stderr
    assert ANSWERS["classified"][0][3][0][0] in classified.stdout
    watched = earlier_client.command("top", *at, "--once", "--interval", "0.1")
    assert watched.returncode == 0, watched.stderr
    assert "lstm-56-int8" in watched.stdout


def test_the_earlier_load_test_measures_todays_server(server: LiveServer, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = earlier_client.command(
        *("loadtest", "lstm-56", "--server", server.server.address, "--concurrency", "2", "--json", str(report)),
        *("--min-duration", "0.1", "--min-query-count", "50", "--warm-up", "0.05", "--blocks", "2"),
    )
    assert report.exists(), done.stderr
    runs = json.loads(report.read_text())["runs"]
    assert [(run["target"], run["error_messages"]) for run in runs] == [("lstm-56", {})]
    assert runs[0]["total"]["queries"] >= 50
