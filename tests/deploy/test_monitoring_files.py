"""The dashboard and the alert rules speak of metrics that the server really exports."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.core import Sample

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.telemetry.prometheus import StateCollector
from tests import onnx_models
from tests.deploy import dashboard

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy/monitoring"
DASHBOARD = MONITORING / "grafana/hangtag.json"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Sample]]:
    """What a server with one model exports before its first call."""
    models = tmp_path_factory.mktemp("models")
    onnx_models.publish(models, "images", onnx_models.classifier())
    config = ServerConfig(models=models, port=0, provider="cpu")
    with Server(config) as server:
        registry = CollectorRegistry()
        registry.register(StateCollector(server.state))
        yield [sample for metric in registry.collect() for sample in metric.samples]


@pytest.fixture(scope="module")
def exported(samples: list[Sample]) -> set[str]:
    return {sample.name for sample in samples}


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


def test_what_alerts_wait_for_is_at_zero_before_it_happens(samples: list[Sample]) -> None:
    """To Prometheus a series that begins at one has not increased: the alert would miss the first time."""
    (group,) = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
    grown = [
        re.findall(r"(?:increase|rate)\((\w+)(?:{(.*?)})?\[", rule["expr"])
        for rule in group["rules"]
        if "alert" in rule
    ]
    awaited = [(name, dict(re.findall(r'(\w+)="(\w+)"', labels))) for found in grown for name, labels in found]
    assert len(awaited) > 3
    for name, labels in awaited:
        found = [one.value for one in samples if one.name == name and labels.items() <= one.labels.items()]
        assert found == [0], f"{name} {labels}"


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
