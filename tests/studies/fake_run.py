"""A finished training run with a given config and metrics."""

from pathlib import Path
from typing import Any

from hangtag.training.runs.run import Run


class FakeRun(Run):
    def __init__(self, config: dict[str, Any], metrics: dict[str, Any]) -> None:
        super().__init__(Path("none"))
        self._config, self._metrics = config, metrics

    def read_config(self) -> dict[str, Any]:
        return self._config

    def read_metrics(self) -> dict[str, Any]:
        return self._metrics
