"""The dashboard and the alert rules use only metrics that the server exports."""

import json
import re
import urllib.request
from pathlib import Path

import pytest
import yaml
from prometheus_client.core import Sample
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy import dashboard
from tests.kit import onnx_models
from tests.kit.server import server

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy/monitoring"
DASHBOARD = MONITORING / "grafana/hangtag.json"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """The metrics that a server with a model and a cascade exports before its first call."""
    models = tmp_path_factory.mktemp("models")
    for name in ("images", "others"):
        onnx_models.publish(models, name, onnx_models.classifier())
    (models / "both").mkdir()
    (models / "both/route.toml").write_text(
        'cascade = ["images", "others"]\naccept = {output = "probabilities", at_least = 0.9}\nexpected_sent_on = 0.2\n'
        'shadow = {model = "others", share = 1}'
    )
    with server(models) as running, urllib.request.urlopen(f"http://{running.http_address}/metrics") as answer:
        text = answer.read().decode()
    return [sample for metric in text_string_to_metric_families(text) for sample in metric.samples]


@pytest.fixture(scope="module")
def exported_names(samples: list[Sample]) -> set[str]:
    return {sample.name for sample in samples}


def test_the_dashboard_queries_only_exported_metrics(exported_names: set[str]) -> None:
    for title, expression in dashboard.expressions(DASHBOARD):
        named = dashboard.metrics(expression)
        assert named <= exported_names, f"{title}: {named - exported_names}"
        assert named or "up{" in expression, title


def test_the_rules_use_only_exported_metrics(exported_names: set[str]) -> None:
    # Recorded series carry colons: level:metric:operations.
    text = re.sub(r"\w+:\w+:\w+", "", (MONITORING / "rules.yml").read_text())
    named = dashboard.metrics(text)
    assert named <= exported_names, named - exported_names
    assert len(named) > 5


def test_counters_of_alerts_are_exported_at_zero_from_the_start(samples: list[Sample]) -> None:
    """Prometheus sees no increase in a series whose first value is 1, so the alert would miss the first event."""
    (group,) = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
    matches = [
        re.findall(r"(?:increase|rate)\((\w+)(?:{(.*?)})?\[", rule["expr"])
        for rule in group["rules"]
        if "alert" in rule
    ]
    counters = [(name, dict(re.findall(r'(\w+)="(\w+)"', labels))) for rule in matches for name, labels in rule]
    assert len(counters) > 3
    for name, labels in counters:
        values = [sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()]
        assert values, f"{name} {labels}"
        assert not any(values), f"{name} {labels}"


def test_panels_have_a_description_and_a_place_of_their_own() -> None:
    board = json.loads(DASHBOARD.read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["description"] for panel in panels)
    occupied: set[tuple[int, int]] = set()
    for panel in panels:
        position = panel["gridPos"]
        cells = {(x + position["x"], y + position["y"]) for x in range(position["w"]) for y in range(position["h"])}
        assert not cells & occupied, f"{panel['title']} overlaps another panel"
        assert max(x for x, _ in cells) < 24, f"{panel['title']} is outside the grid"
        occupied |= cells


def test_every_alert_s_runbook_exists() -> None:
    runbook = (ROOT / "docs/operations.md").read_text()
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", runbook, re.M)
    }
    links = re.findall(r"runbook: docs/operations.md#(\S+)", (MONITORING / "rules.yml").read_text())
    assert links
    assert set(links) <= anchors
