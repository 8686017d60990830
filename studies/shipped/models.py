"""Read a repository's trained networks, with the figures and the provenance in the networks' files."""

import json
from dataclasses import dataclass
from typing import Any

from hangtag.export.repository import inventory
from hangtag.export.repository.inventory import Entry
from studies.page import ROOT


@dataclass(frozen=True)
class ShippedModel:
    """A version of a network that hangtag trained, as described by its file."""

    entry: Entry

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def title(self) -> str:
        return f"`{self.name}` version {self.entry.version}"

    @property
    def metadata(self) -> dict[str, str]:
        return dict(self.entry.metadata)

    @property
    def precision(self) -> str:
        return self.metadata.get("precision", "fp32")  # the oldest files lack the key

    @property
    def parameters(self) -> int:
        return int(self.metadata["parameters"])

    @property
    def accuracy(self) -> float:
        """The accuracy on the test images."""
        return float(self.metadata["test_accuracy"])

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads(self.metadata["training"])["config"]
        return config

    @property
    def metrics(self) -> dict[str, Any]:
        """The training run's figures for each epoch, and its summary."""
        metrics: dict[str, Any] = json.loads(self.metadata["training"])["metrics"]
        return metrics


def read() -> list[ShippedModel]:
    """Return all versions of the networks in all precisions, the smallest and latest first."""
    trained = [ShippedModel(entry) for entry in inventory.versions(ROOT / "models") if "training" in entry.metadata]
    return sorted(trained, key=lambda model: (model.parameters, model.name, -model.entry.version))


def serving(*, fp32: bool = True) -> list[ShippedModel]:
    """Return the serving version of each network in FP32 or, if ``fp32`` is False, in every other precision."""
    return [model for model in read() if model.entry.serves and (model.precision == "fp32") is fp32]
