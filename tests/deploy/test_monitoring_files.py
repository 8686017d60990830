"""The dashboard and the alert rules speak of metrics that the server really exports."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from serving.server.app import Server
from serving.server.config import ServerConfig
from serving.server.metrics import StateCollector
from tests import onnx_models
from tests.deploy import dashboard

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy/monitoring"
DASHBOARD = MONITORING / "grafana/hangtag.json"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[str]]:
    """The names of all time series of a server with one model."""
    models = tmp_path_factory.mktemp("models")
    onnx_models.publish(models, "images", onnx_models.classifier())
    config = ServerConfig(models=models, port=0, provider="cpu")
    with Server(config) as server:
        registry = CollectorRegistry()
        registry.register(StateCollector(server.state))
        yield {sample.name for metric in registry.collect() for sample in metric.samples}


def test_the_dashboard_shows_what_is_exported(exported: set[str]) -> None:
    for title, expression in dashboard.expressions(DASHBOARD):
        named = dashboard.metrics(expression)
        assert named <= exported, f"{title}: {named - exported}"
        assert named or "up{" in expression, title


def test_the_rules_watch_what_is_exported(exported: set[str]) -> None:
    # Recorded series carry colons: level:metric:operations.
    text = re.sub(r"\w+:\w+:\w+", "", (MONITORING / "rules.yml").read_text())
    named = dashboard.metrics(text)
    assert named <= exported, named - exported
    assert len(named) > 5


def test_the_dashboard_is_whole() -> None:
    board = json.loads(DASHBOARD.read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["description"] for panel in panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x + place["x"], y + place["y"]) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, f"{panel['title']} lies over another panel"
        assert max(x for x, _ in cells) < 24, f"{panel['title']} leaves the grid"
        taken |= cells


def test_the_runbook_has_what_alerts_point_to() -> None:
    runbook = (ROOT / "docs/operations.md").read_text()
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", runbook, re.M)
    }
    wanted = re.findall(r"runbook: docs/operations.md#(\S+)", (MONITORING / "rules.yml").read_text())
    assert wanted
    assert set(wanted) <= anchors
