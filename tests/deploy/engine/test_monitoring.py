"""Prometheus scrapes every replica, the alert rules fire as specified, and the dashboard's queries return data."""

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


def wait_until(condition: Callable[[], bool], description: str) -> None:
    """Polls the condition every 0.5 s, because Prometheus sends no event after a scrape."""
    pause, deadline = threading.Event(), time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {SECONDS} s: {description}"
        pause.wait(0.5)


class Prometheus:
    """Sends PromQL queries to Prometheus' HTTP API."""

    def __init__(self, address: str) -> None:
        self._address = address

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Returns the instant vector's samples."""
        parameters = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://{self._address}/api/v1/query?{parameters}", timeout=10) as response:
            samples: list[dict[str, Any]] = json.load(response)["data"]["result"]
        return samples

    def value(self, expression: str) -> float:
        """Returns the first sample's value, or 0 without a sample."""
        samples = self.query(expression)
        return float(samples[0]["value"][1]) if samples else 0.0


@pytest.fixture
def prometheus(scaled: Stack) -> Prometheus:
    return Prometheus(scaled.address("prometheus", 9090))


@pytest.fixture
def load(scaled: Stack) -> Iterator[SteadyLoad]:
    with SteadyLoad(scaled.address("proxy", 8080)) as load:
        yield load


def test_every_replica_is_scraped(scaled: Stack, prometheus: Prometheus) -> None:
    wait_until(lambda: prometheus.value('sum(up{job="hangtag"})') == 2, "two replicas up")


def test_every_query_of_the_dashboard_returns_data(scaled: Stack, prometheus: Prometheus, load: SteadyLoad) -> None:
    def send_invalid_call() -> None:  # so that the error panel's query returns data
        with Client(scaled.address("proxy", 8080)) as client, pytest.raises(ClientError):
            client.infer("lstm", {"image": np.zeros((1, 2, 2), np.uint8)})

    for title, expression in expressions(MONITORING / "grafana/hangtag.json", model=".*", rate_interval="30s"):
        if "_shadow_" in expression:  # no route that is shipped has a shadow
            continue

        def has_data(expression: str = expression) -> bool:
            send_invalid_call()
            return bool(prometheus.query(expression))

        wait_until(has_data, f"{title}: {expression}")
    assert load.failures == []


def test_the_autoscaler_s_metric_has_a_value(prometheus: Prometheus, load: SteadyLoad) -> None:
    """Grouped by replica here, by pod in Kubernetes: each has calls in flight, and not more than the load keeps."""
    (rule,) = yaml.safe_load((ROOT / "deploy/kubernetes/prometheus-adapter.yaml").read_text())["rules"]["custom"]
    query = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'job="hangtag"').replace("<<.GroupBy>>", "instance")
    wait_until(lambda: [float(sample["value"][1]) > 0 for sample in prometheus.query(query)] == [True, True], query)
    assert prometheus.value(f"sum({query})") < 2 * IN_FLIGHT


def test_promtool_accepts_the_rules_and_their_tests() -> None:
    checks = "promtool check rules rules.yml && promtool test rules rules.test.yml"
    mount = f"{MONITORING}:/rules:ro"
    docker("run", "--rm", "--volume", mount, "--workdir", "/rules", "hangtag:stand-ins", "sh", "-c", checks)
