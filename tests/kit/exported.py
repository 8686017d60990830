"""Training runs and exports for many test files. A test run creates each export only once."""

from collections.abc import Callable, Mapping
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
from hangtag.training.catalog import build
from hangtag.training.data import fashion_mnist as data
from hangtag.training.data.dataset import Split
from hangtag.training.runs.run import Run
from tests.kit import garments, onnx_file, runs
from tests.kit.command import contents, invoke, refusal
from tests.kit.once import once

Garments = Split
"""The type of the fixture ``garments``: images [n, 28, 28] with their classes."""
FEW = 300
"""The number of test images, which is more than the four batches of 64 whose logits the export gate compares."""
CANVASES = 100
"""The number of test images for networks with label sets, which are slower than other networks."""
_SOURCES = ("training", "export", "hangtag", "serving/server/runtime", "tests/kit/runs.py")
"""The sources that determine what is trained and exported, for tests/kit/once.py."""


@dataclass(frozen=True)
class Published:
    """A published version: its folder, and the summaries of the checks that it passed."""

    folder: Path
    summaries: Mapping[str, str]

    @property
    def metadata(self) -> dict[str, str]:
        """The properties under ``hangtag.`` in the file, without that prefix."""
        return onnx_file.metadata(self.folder / "model.onnx")


@dataclass(frozen=True)
class Exported:
    """A run, its network in PyTorch, and the repository into which it was exported."""

    run: Run
    network: nn.Module
    models: Path
    published: Published

    @property
    def file(self) -> Path:
        return self.published.folder / "model.onnx"

    @property
    def graph(self) -> onnx.ModelProto:
        """A copy of the published graph, with which a test can export the run again without converting the network."""
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
    """Export a run as ``hangtag export RUN`` does, but with few test images. ``options`` are those of
    `exporter.export`.

    Args:
        calibrate_on: The validation images on which a temperature is fitted; None for no temperature.
    """
    data = garments.of(test, calibrate_on or test, test)
    fit = calibrate_on is not None
    folder, summaries = exporter.export(
        run, data, models, to, graph=graph, canvases=canvases, fit_temperature=fit, **options
    )
    return Published(folder, summaries)


def refused(run: Run, folder: Path, test: Garments, error: type[UserError] = UserError, **options: Any) -> str:
    """Require that the export of a run is refused and leaves the folder unchanged, and return the message."""
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
    """Require that the export gate refuses a copy of the graph that ``change`` modified, and return its message."""
    graph = exported.graph
    change(graph)
    message = refused(exported.run, folder, test, GateError, graph=graph, **options)
    assert message.endswith("Nothing was published.")
    return message


def single_label(factory: pytest.TempPathFactory, model: str) -> Exported:
    """A single-label network, trained for two steps and exported by the real exporter."""
    return _once(factory, model, lambda folder, few: runs.train(folder / f"{model}-tiny", model, few))


def learned_lstm(factory: pytest.TempPathFactory) -> Exported:
    """An LSTM trained on 300 images for 12 epochs. Injected faults change its answers more than rounding does."""
    return _once(
        factory, "learned-lstm", lambda folder, few: runs.train(folder / "run", "lstm", few, images=FEW, epochs=12)
    )


def label_sets(factory: pytest.TempPathFactory, model: str) -> Exported:
    """A CNN-RNN or a baseline with random weights, whose answers contain label sets of every size."""

    def make(folder: Path, few: Garments) -> Run:
        network = runs.decisive_cnn_rnn(few) if model == "cnn_rnn" else runs.decisive_scores(model, few)
        return runs.finished_sets(folder / "run", model, network.state_dict())

    return _once(factory, model, make)


def _once(factory: pytest.TempPathFactory, name: str, train: Callable[[Path, Garments], Run]) -> Exported:
    """Create a run with ``train`` on the first test images, and export the run."""

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
    """The folder in which ``hangtag export`` ran, which contains models/, and the command's output."""

    folder: Path
    stdout: str
    stderr: str


def published_in(folder: Path, *arguments: object) -> Export:
    """Run ``hangtag export`` in this folder, with the command's default folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = invoke("export", *arguments)
    return Export(folder, result.stdout, result.stderr)


def importing(folder: Path, model: onnx.ModelProto | bytes, *more: object) -> list[object]:
    """Write a model's file into a folder, and return the command that imports it as ``theirs`` into models/."""
    file = folder / "theirs.onnx"
    file.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return ["import", file, "--name", "theirs", "--models", folder / "models", *more]


def imported(folder: Path, model: onnx.ModelProto | bytes, *more: object) -> Result:
    """Import this model as ``theirs``."""
    return invoke(*importing(folder, model, *more))


def import_refused(folder: Path, model: onnx.ModelProto | bytes, *more: object) -> str:
    """Require that an import of this model is refused and writes nothing, and return the message."""
    return refusal(*importing(folder, model, *more), unchanged=folder)
