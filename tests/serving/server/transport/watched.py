"""A live server and its metrics port, for tests."""

import urllib.error
import urllib.request
from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from hangtag.serving.server.telemetry.http_endpoint import MetricsServer
from hangtag.serving.server.telemetry.prometheus import StateCollector
from hangtag.serving.server.telemetry.server_state import ServerState, Workers
from tests.kit.live import TIMEOUT, LiveServer

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Watched:
    """A live server and its metrics port."""

    def __init__(self, live: LiveServer) -> None:
        self.live = live
        config = live.server.config

        def state() -> ServerState:
            return replace(live.server.state(), workers=Workers(2, 1, 3))

        collector = StateCollector(state)
        self.http = MetricsServer(config, collector, lambda: live.server.ready)

    def get(self, path: str) -> str:
        url = f"http://{self.live.server.config.address(self.http.port)}{path}"
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            return str(response.read().decode())

    def samples(self) -> Samples:
        families = text_string_to_metric_families(self.get("/metrics"))
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }
