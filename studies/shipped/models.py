"""Reads the trained models of a repository: the figures and the provenance that their files carry."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hangtag.export.repository import inventory
from hangtag.export.repository.inventory import Entry


@dataclass(frozen=True)
class ShippedModel:
    """A version of a model and the metadata in its file."""

    name: str
    version: int
    megabytes: float
    labels: Sequence[str]
    metadata: dict[str, str]
    epochs: list[dict[str, float]]
    summary: dict[str, Any]

    @property
    def precision(self) -> str:
        return self.metadata.get("precision", "fp32")  # files of the first exports lack the key

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads(self.metadata["training"])["config"]
        return config


def read_all(models: Path, task: str = "single_label") -> list[ShippedModel]:
    """The latest version of every network of a task that was trained here, in FP32, smallest first."""
    return [model for model in _trained(inventory.serving(models), task) if model.precision == "fp32"]


def read_earlier(models: Path, task: str = "single_label") -> list[ShippedModel]:
    """All versions but the latest of the same networks."""
    others = [entry for entry in inventory.versions(models) if not entry.serves]
    return [model for model in _trained(others, task) if model.precision == "fp32"]


def read_precisions(models: Path, task: str = "single_label") -> list[ShippedModel]:
    """The same networks in their other precisions, each under its own name."""
    return [model for model in _trained(inventory.serving(models), task) if model.precision != "fp32"]


def _trained(entries: Sequence[Entry], task: str) -> list[ShippedModel]:
    trained_here = [entry for entry in entries if "training" in entry.metadata]
    shipped = [_shipped(entry) for entry in trained_here if entry.metadata["task"] == task]
    return sorted(shipped, key=lambda model: (int(model.metadata["parameters"]), model.name))


def _shipped(entry: Entry) -> ShippedModel:
    assert entry.signature is not None  # it has metadata
    metrics = json.loads(entry.metadata["training"])["metrics"]
    return ShippedModel(
        name=entry.name,
        version=entry.version,
        megabytes=entry.megabytes,
        labels=entry.signature.labels,
        metadata=dict(entry.metadata),
        epochs=metrics["epochs"],
        summary=metrics["summary"],
    )
