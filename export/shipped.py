"""What a model repository holds, as the files themselves tell it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.repository import MODEL_FILE, next_version
from serving.server.runtime import Runtime


@dataclass(frozen=True)
class ShippedModel:
    """The latest version of a model and what its file says about itself."""

    name: str
    version: int
    megabytes: float
    labels: Sequence[str]
    metadata: dict[str, str]
    epochs: list[dict[str, float]]
    summary: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads(self.metadata["training"])["config"]
        return config


def read_all(models: Path, task: str = "single_label") -> list[ShippedModel]:
    """The latest version of every model of a task, smallest network first."""
    shipped = [_read(models, folder.name) for folder in models.iterdir() if folder.is_dir()]
    fitting = [model for model in shipped if model.metadata["task"] == task]
    return sorted(fitting, key=lambda model: int(model.metadata["parameters"]))


def _read(models: Path, name: str) -> ShippedModel:
    version = next_version(models, name) - 1
    path = models / name / str(version) / MODEL_FILE
    signature = Runtime(path, provider="cpu").signature
    metrics = json.loads(signature.metadata["training"])["metrics"]
    return ShippedModel(
        name=name,
        version=version,
        megabytes=path.stat().st_size / 1e6,
        labels=signature.labels,
        metadata=dict(signature.metadata),
        epochs=metrics["epochs"],
        summary=metrics["summary"],
    )
