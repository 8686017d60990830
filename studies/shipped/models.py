"""Read a repository's trained networks, whose files have the figures and the provenance."""

from hangtag.export.repository import inventory
from hangtag.export.repository.inventory import Entry
from studies.page import ROOT


def read() -> list[Entry]:
    """Return all versions of the networks in all precisions, smallest network first, and latest version first."""
    trained = [entry for entry in inventory.versions(ROOT / "models") if "training" in entry.metadata]
    return sorted(trained, key=lambda entry: (parameters(entry), entry.name, -entry.version))


def serving(*, fp32: bool = True) -> list[Entry]:
    """Return the serving version of each network in FP32 or, if ``fp32`` is False, in every other precision."""
    return [entry for entry in read() if entry.serves and (entry.precision == "fp32") is fp32]


def parameters(entry: Entry) -> int:
    return int(entry.metadata["parameters"])


def accuracy(entry: Entry) -> float:
    return float(entry.metadata["test_accuracy"])
