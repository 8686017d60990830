"""Runs and their exports that many test files read, each made once for a whole test run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
from torch import nn

from hangtag.errors import UserError
from hangtag.export import exporter, run_source
from hangtag.export.errors import GateError
from hangtag.export.exporter import Published
from hangtag.training.catalog import build
from hangtag.training.data import fashion_mnist as data
from hangtag.training.data.dataset import Split
from hangtag.training.runs.run import Run
from tests.kit import garments, runs
from tests.kit.command import contents, invoke, refusal
from tests.kit.once import once

Garments = Split
"""The type of the fixture ``garments``: images [n, 28, 28] with their classes."""
FEW = 300
"""As many test images as the four batches of 64 that are compared, and some more; and as many canvases."""
_SOURCES = ("training", "export", "hangtag", "serving/server/runtime", "tests/kit/runs.py")
"""What decides what is trained and exported, for tests/kit/once.py."""


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

    @property
    def graph(self) -> onnx.ModelProto:
        """A copy of the published graph, which another export of the run may take instead of exporting the network."""
        return onnx.load(self.file)


def publish(
    run: Run,
    models: Path,
    test: Garments,
    *,
    to: str = "fp32",
    calibrate_on: Garments | None = None,
    graph: onnx.ModelProto | None = None,
    canvases: int = run_source.CANVASES,
    **options: Any,
) -> Published:
    """Export a run by the function behind ``hangtag export RUN``, on few test images; options as it has them.

    Args:
        calibrate_on: The images that validate, on which a temperature is fitted; None for no temperature.
    """
    data = garments.of(test, calibrate_on or test, test)
    source = run_source.of_run(run, data, to, graph=graph, canvases=canvases)
    return exporter.export(source, models, calibrate=calibrate_on is not None, **options)


def refused(run: Run, folder: Path, test: Garments, error: type[UserError] = UserError, **options: Any) -> str:
    """The reason, in one line, why the folder's models/ gets no export of this run; the folder is left as it was."""
    before = contents(folder)
    with pytest.raises(error) as caught:
        publish(run, folder / "models", test, **options)
    assert contents(folder) == before
    message = str(caught.value)
    assert "\n" not in message
    return message


def fault(
    exported: Exported, folder: Path, test: Garments, change: Callable[[onnx.ModelProto], object] = str, **options: Any
) -> str:
    """What the gate says of the graph after ``change``, which gets a copy and changes it. Nothing is published."""
    graph = exported.graph
    change(graph)
    message = refused(exported.run, folder, test, GateError, graph=graph, **options)
    assert message.endswith("Nothing was published.")
    return message


def single_label(factory: pytest.TempPathFactory, model: str) -> Exported:
    """A network for one label, trained for two steps and exported by the real exporter."""

    def make(folder: Path) -> Exported:
        run = runs.train(folder / f"{model}-tiny", model, data.load_test().first(FEW))
        return _export(run, folder / "models")

    return once(factory, f"exported-{model}", make, sources=_SOURCES)


def learned_lstm(factory: pytest.TempPathFactory) -> Exported:
    """An LSTM that has learned 300 images: its answers tell rounding from a fault."""

    def make(folder: Path) -> Exported:
        run = runs.train(folder / "run", "lstm", data.load_test().first(FEW), images=FEW, epochs=12)
        return _export(run, folder / "models")

    return once(factory, "exported-learned-lstm", make, sources=_SOURCES)


def label_paths(factory: pytest.TempPathFactory) -> Exported:
    """A CNN-RNN with random weights that give paths of every length."""

    def make(folder: Path) -> Exported:
        network = runs.decisive_cnn_rnn(data.load_test().first(FEW))
        return _export(runs.finished_network(folder / "run", "cnn_rnn", network), folder / "models")

    return once(factory, "exported-cnn_rnn", make, sources=_SOURCES)


def label_scores(factory: pytest.TempPathFactory, model: str) -> Exported:
    """A baseline of the CNN-RNN with random weights that give sets of different sizes."""

    def make(folder: Path) -> Exported:
        network = runs.decisive_scores(model, data.load_test().first(FEW))
        return _export(runs.finished_network(folder / "run", model, network), folder / "models")

    return once(factory, f"exported-{model}", make, sources=_SOURCES)


@dataclass(frozen=True)
class Export:
    """What ``hangtag export``, or ``import``, did in a folder of its own, with models/ in it, and its output."""

    folder: Path
    stdout: str
    stderr: str


def published_in(folder: Path, *arguments: object, command: str = "export", **variables: str) -> Export:
    """Export, or import, with the command's default folders in this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in variables.items():
            patch.setenv(name, value)
        result = invoke(command, *arguments)
    return Export(folder, result.stdout, result.stderr)


def importing(folder: Path, model: onnx.ModelProto | bytes, *more: object) -> list[object]:
    """The command that publishes this file, which it writes, as ``theirs`` into the folder's models/."""
    file = folder / "theirs.onnx"
    file.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return ["import", file, "--name", "theirs", "--models", folder / "models", *more]


def import_refused(folder: Path, model: onnx.ModelProto | bytes, *more: object) -> str:
    """The message about such a file; nothing is written, not even the repository's folder."""
    command = importing(folder, model, *more)
    return refusal(*command, unchanged=folder)


def _export(run: Run, models: Path) -> Exported:
    published = publish(run, models, data.load_test().first(FEW), canvases=FEW)
    network = build(run.model)
    network.load_state_dict(run.load("best.pt")["model"])
    return Exported(run, network.eval(), models, published)
