"""Runs and their exports that many test files read, each made once for a whole test run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import Result
from torch import nn

from hangtag.errors import UserError
from hangtag.export import exporter
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
"""As many test images as the four batches of 64 that are compared, and some more."""
CANVASES = 100
"""Of networks that answer with label sets, which are slower."""
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
    canvases: int = exporter.CANVASES,
    **options: Any,
) -> Published:
    """Export a run by the function behind ``hangtag export RUN``, on few test images; options as it has them.

    Args:
        calibrate_on: The images that validate, on which a temperature is fitted; None for no temperature.
    """
    data = garments.of(test, calibrate_on or test, test)
    fit = calibrate_on is not None
    return exporter.export(run, data, models, to, graph=graph, canvases=canvases, fit_temperature=fit, **options)


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
    return _once(factory, model, lambda folder, few: runs.train(folder / f"{model}-tiny", model, few))


def learned_lstm(factory: pytest.TempPathFactory) -> Exported:
    """An LSTM that has learned 300 images: its answers tell rounding from a fault."""
    return _once(
        factory, "learned-lstm", lambda folder, few: runs.train(folder / "run", "lstm", few, images=FEW, epochs=12)
    )


def label_sets(factory: pytest.TempPathFactory, model: str) -> Exported:
    """A network with random weights that give label sets of every size: a CNN-RNN by paths, its baselines by scores."""

    def make(folder: Path, few: Garments) -> Run:
        network = runs.decisive_cnn_rnn(few) if model == "cnn_rnn" else runs.decisive_scores(model, few)
        return runs.finished_sets(folder / "run", model, network.state_dict())

    return _once(factory, model, make)


def _once(factory: pytest.TempPathFactory, name: str, train: Callable[[Path, Garments], Run]) -> Exported:
    """What the export of a run publishes, which ``train`` makes with a folder and the first test images."""

    def make(folder: Path) -> Exported:
        test = data.load_test().first(FEW)
        run = train(folder, test)
        published = publish(run, folder / "models", test, canvases=CANVASES)
        network = build(run.model)
        network.load_state_dict(run.load("best.pt")["model"])
        return Exported(run, network.eval(), folder / "models", published)

    return once(factory, f"exported-{name}", make, sources=_SOURCES)


@dataclass(frozen=True)
class Export:
    """What ``hangtag export`` did in a folder of its own, with models/ in it, and its output."""

    folder: Path
    stdout: str
    stderr: str


def published_in(folder: Path, *arguments: object) -> Export:
    """Export with the command's default folders in this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = invoke("export", *arguments)
    return Export(folder, result.stdout, result.stderr)


def importing(folder: Path, model: onnx.ModelProto | bytes, *more: object) -> list[object]:
    """The command that publishes this file, which it writes, as ``theirs`` into the folder's models/."""
    file = folder / "theirs.onnx"
    file.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return ["import", file, "--name", "theirs", "--models", folder / "models", *more]


def imported(folder: Path, model: onnx.ModelProto | bytes, *more: object) -> Result:
    """Publish such a file."""
    return invoke(*importing(folder, model, *more))


def import_refused(folder: Path, model: onnx.ModelProto | bytes, *more: object) -> str:
    """The message about such a file; nothing is written, not even the repository's folder."""
    return refusal(*importing(folder, model, *more), unchanged=folder)
