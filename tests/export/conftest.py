from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import nn

from hangtag.export import exporter
from hangtag.export.gate import speed
from hangtag.training.catalog import build
from hangtag.training.data.fashion_mnist import Split
from hangtag.training.runs.run import Run
from tests.export import runs


@pytest.fixture(autouse=True)
def timed_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fewest rounds at each batch size: what is measured is no matter here."""
    monkeypatch.setattr(speed, "_SECONDS", 0.0)


@dataclass(frozen=True)
class Exported:
    """A run, its network in PyTorch, and what its export published into a repository of its own."""

    run: Run
    network: nn.Module
    models: Path
    published: exporter.Published

    @property
    def file(self) -> Path:
        return self.published.folder / "model.onnx"


@pytest.fixture(scope="session")
def garments(garments: Split) -> Split:
    """The first 300 real test images: as many as the four batches of 64 that are compared, and some more."""
    return garments.first(300)


@pytest.fixture(scope="session", params=["lstm", "lstm2", "cnn"])
def exported(request: pytest.FixtureRequest, garments: Split, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Each of the networks, exported by the real exporter."""
    if request.param == "lstm":
        same: Exported = request.getfixturevalue("lstm")
        return same
    return _export(request.param, garments, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def lstm(garments: Split, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The smallest of them, for what is the same with all."""
    return _export("lstm", garments, tmp_path_factory.mktemp("lstm"))


def _export(model: str, garments: Split, folder: Path) -> Exported:
    run = runs.train(folder / "run", model, garments)
    network = build(model)
    network.load_state_dict(run.load("best.pt")["model"])
    published = exporter.export(run, folder / "models", garments)
    return Exported(run, network.eval(), folder / "models", published)
