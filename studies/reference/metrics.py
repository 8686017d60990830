"""Makes a table of every metric that the server exports, with its help text and the alerts that watch it."""

import re
from dataclasses import replace

import yaml
from prometheus_client.core import Metric

from hangtag.serving.server.telemetry.histogram import BucketHistogram
from hangtag.serving.server.telemetry.prometheus import StateCollector
from hangtag.serving.server.telemetry.route_statistics import RouteCounts, ShadowCounts, StageCounts
from hangtag.serving.server.telemetry.server_state import READY, ServerState, VersionState
from studies.page import ROOT, table

HEAD = ("metric", "type", "labels", "meaning", "watched by")
_TYPES = {"unknown": "counter"}  # Triton's counters do not end in _total, so they are exported without a type.


def part() -> str:
    """A table of all metrics, in the order in which they are exported."""
    rules = yaml.safe_load((ROOT / "deploy/monitoring/rules.yml").read_text())["groups"][0]["rules"]
    recorded = {rule["record"]: rule["expr"] for rule in rules if "record" in rule}
    watched = {rule["alert"]: _expanded(rule["expr"], recorded) for rule in rules if "alert" in rule}
    return f"""Made by `make docs` from what the server exports and from the alerts in deploy/monitoring/rules.yml.

{table(HEAD, [_row(metric, watched) for metric in _exported()])}"""


def _expanded(expression: str, recorded: dict[str, str]) -> str:
    for name, meaning in recorded.items():
        expression = expression.replace(name, meaning)
    return expression


def _exported() -> list[Metric]:
    """As of a server with one model, of which one call failed, and a route: so that every metric has a sample."""
    one = VersionState("cnn", "1", READY, requested_provider="auto", provider="CPUExecutionProvider", instances=1)
    route = replace(one, name="both", route=RouteCounts({(1, "cnn"): StageCounts()}, ShadowCounts(), 0, 0.2))
    histogram = one.counters.request_seconds
    state = ServerState((one, route), {("cnn", "1", "INTERNAL"): histogram}, {("cnn", "ok"): 1}, {("hot", ""): 1})
    assert isinstance(histogram, BucketHistogram)
    return list(StateCollector(lambda: state).collect())


def _row(metric: Metric, watched: dict[str, str]) -> tuple[str, ...]:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    kind = "gauge" if name.endswith("pending_request_count") else _TYPES.get(metric.type, metric.type)
    labels = sorted({label for sample in metric.samples for label in sample.labels} - {"le"})
    alerts = [
        alert for alert, text in watched.items() if re.search(rf"\b{metric.name}(_total|_bucket|_count|_sum)?\b", text)
    ]
    return f"`{name}`", kind, ", ".join(labels), metric.documentation, ", ".join(alerts)
