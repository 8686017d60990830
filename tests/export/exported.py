"""Runs and their exports that many test files read, each made once for a whole test run."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import nn

from hangtag.export import exporter
from hangtag.export.file import torch_export
from hangtag.export.gate.checks import batching
from hangtag.export.network import checkpoint
from hangtag.export.published import Published
from hangtag.training.catalog import build
from hangtag.training.data import fashion_mnist as data
from hangtag.training.data.fashion_mnist import Split
from hangtag.training.runs.run import Run
from tests.export import label_sets, runs
from tests.export.files import write
from tests.kit.once import once

GARMENTS = 300
"""As many test images as the four batches of 64 that are compared, and some more."""
BATCHED = 32
"""This many of them are run alone and in batches."""


@dataclass(frozen=True)
class Exported:
    """A run, its network in PyTorch, and what its export published into a repository of its own."""

    run: Run
    network: nn.Module
    models: Path
    published: Published

    @property
    def file(self) -> Path:
        return self.published.folder / "model.onnx"


def single_label(factory: pytest.TempPathFactory, model: str) -> Exported:
    """A network for one label, trained for two steps and exported by the real exporter."""

    def make(folder: Path) -> Exported:
        garments = data.load_test().first(GARMENTS)
        run = runs.train(folder / f"{model}-tiny", model, garments)
        network = build(model)
        network.load_state_dict(run.load("best.pt")["model"])
        return Exported(run, network.eval(), folder / "models", _export(run, folder / "models", garments))

    return once(factory, model, make)


def learned_lstm(factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """An LSTM that has learned 300 images, and its graph in FP32: its answers tell rounding from a fault."""

    def make(folder: Path) -> tuple[Run, Path]:
        garments = data.load_test().first(GARMENTS)
        run = runs.train(folder / "run", "lstm", garments, images=GARMENTS, epochs=12)
        return run, write(folder, torch_export.to_onnx(checkpoint.load(run), {}))

    return once(factory, "learned-lstm", make)


def label_paths(factory: pytest.TempPathFactory) -> Exported:
    """A CNN-RNN with random weights that give paths of every length, compared on 1,000 canvases."""

    def make(folder: Path) -> Exported:
        garments = data.load_test().first(GARMENTS)
        network = label_sets.decisive_cnn_rnn(garments)
        run = label_sets.finished(folder / "run", "cnn_rnn", network)
        return Exported(run, network, folder / "models", _export(run, folder / "models", garments))

    return once(factory, "cnn_rnn", make)


def label_scores(factory: pytest.TempPathFactory, model: str) -> Exported:
    """A baseline of the CNN-RNN with random weights that give sets of different sizes, compared on 300 canvases."""

    def make(folder: Path) -> Exported:
        garments = data.load_test().first(GARMENTS)
        network = label_sets.decisive_scores(model, garments)
        run = label_sets.finished(folder / "run", model, network)
        return Exported(run, network, folder / "models", _export(run, folder / "models", garments, canvases=300))

    return once(factory, model, make)


def _export(run: Run, models: Path, garments: Split, canvases: int = exporter.CANVASES) -> Published:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(exporter, "CANVASES", canvases)
        patched.setattr(batching, "IMAGES", BATCHED)
        return exporter.export(run, models, garments)
