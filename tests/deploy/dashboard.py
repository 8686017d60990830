"""The questions that Grafana asks for the dashboard."""

import json
import re
from pathlib import Path

# Every metric of the server has one of these prefixes; Triton's names begin with nv_.
METRIC = re.compile(r"\b(?:hangtag|nv)_[a-z0-9_]+")


def expressions(file: Path, *, model: str = "$model", rate_interval: str = "$__rate_interval") -> list[tuple[str, str]]:
    """(panel's title, PromQL) of every panel, with the dashboard's variables filled in."""
    panels = json.loads(file.read_text())["panels"]
    found = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
    return [(title, text.replace("$model", model).replace("$__rate_interval", rate_interval)) for title, text in found]


def metrics(text: str) -> set[str]:
    """The server's time series that some PromQL speaks of."""
    return set(METRIC.findall(text))
