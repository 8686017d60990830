"""Prometheus finds every replica, its rules do what they say, and the dashboard's questions have answers."""

import json
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import yaml

from hangtag.serving.client import Client, ClientError
from tests.deploy.dashboard import expressions
from tests.deploy.engine.stack import ROOT, Stack, docker
from tests.deploy.engine.steady_load import IN_FLIGHT, SteadyLoad

MONITORING = ROOT / "deploy/monitoring"
SECONDS = 90


def until(condition: Callable[[], bool], what: str) -> None:
    """Prometheus tells nobody when it has scraped, so ask until it has."""
    pause, end = threading.Event(), time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"not within {SECONDS} s: {what}"
        pause.wait(0.5)


class Prometheus:
    def __init__(self, address: str) -> None:
        self._address = address

    def __call__(self, expression: str) -> list[dict[str, Any]]:
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://{self._address}/api/v1/query?{query}", timeout=10) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result

    def value(self, expression: str) -> float:
        found = self(expression)
        return float(found[0]["value"][1]) if found else 0.0


@pytest.fixture
def prometheus(scaled: Stack) -> Prometheus:
    return Prometheus(scaled.address("prometheus", 9090))


@pytest.fixture
def load(scaled: Stack) -> Iterator[SteadyLoad]:
    with SteadyLoad(scaled.address("proxy", 8000)) as load:
        yield load


def test_every_replica_is_scraped(scaled: Stack, prometheus: Prometheus) -> None:
    until(lambda: prometheus.value('sum(up{job="hangtag"})') == 2, "two replicas up")


def test_every_question_of_the_dashboard_has_an_answer(scaled: Stack, prometheus: Prometheus, load: SteadyLoad) -> None:
    def refused() -> None:  # so that the panel of errors has something to show
        with Client(scaled.address("proxy", 8000)) as client, pytest.raises(ClientError):
            client.infer("lstm", {"image": np.zeros((1, 2, 2), np.uint8)})

    for title, expression in expressions(MONITORING / "grafana/hangtag.json", model=".*", rate_interval="30s"):

        def answered(expression: str = expression) -> bool:
            refused()
            return bool(prometheus(expression))

        until(answered, f"{title}: {expression}")
    assert load.failures == []


def test_the_autoscaler_s_metric_has_a_value(prometheus: Prometheus, load: SteadyLoad) -> None:
    """By replica here, as by pod in Kubernetes: some calls are in flight, no more than were sent."""
    (rule,) = yaml.safe_load((ROOT / "deploy/kubernetes/prometheus-adapter.yaml").read_text())["rules"]["custom"]
    query = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'job="hangtag"').replace("<<.GroupBy>>", "instance")
    until(lambda: [float(found["value"][1]) > 0 for found in prometheus(query)] == [True, True], query)
    assert prometheus.value(f"sum({query})") < 2 * IN_FLIGHT


def test_the_rules_are_valid_and_fire_when_they_should() -> None:
    checks = "promtool check rules rules.yml && promtool test rules rules.test.yml"
    mount = f"{MONITORING}:/rules:ro"
    docker("run", "--rm", "--volume", mount, "--workdir", "/rules", "hangtag:stand-ins", "sh", "-c", checks)
