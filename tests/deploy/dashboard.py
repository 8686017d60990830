"""Reads the PromQL queries that Grafana sends for the dashboard, and the metrics that these queries name."""

import json
import re
from pathlib import Path

# The names of the server's metrics begin with hangtag_, or with nv_ like Triton's.
METRIC = re.compile(r"\b(?:hangtag|nv)_[a-z0-9_]+")


def expressions(file: Path, *, model: str = "$model", rate_interval: str = "$__rate_interval") -> list[tuple[str, str]]:
    """Returns the panel title and the PromQL text of every query, with values in place of the dashboard's variables."""
    panels = json.loads(file.read_text())["panels"]
    return [
        (panel["title"], target["expr"].replace("$model", model).replace("$__rate_interval", rate_interval))
        for panel in panels
        for target in panel["targets"]
    ]


def metrics(text: str) -> set[str]:
    """Returns the names of the server's metrics in a PromQL text."""
    return set(METRIC.findall(text))
