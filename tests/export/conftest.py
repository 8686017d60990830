from pathlib import Path

import pytest

from hangtag.export import child_process
from hangtag.export.file import torch_export
from hangtag.export.gate import speed
from hangtag.export.gate.checks import batching
from hangtag.training.data.fashion_mnist import Split
from hangtag.training.runs.run import Run
from tests.export.exported import BATCHED, GARMENTS, Exported, label_paths, learned_lstm, single_label
from tests.export.files import exported_as
from tests.export.foreign import forked
from tests.kit import forkserver

_START = child_process.run
forkserver.preload_training()


@pytest.fixture(autouse=True)
def timed_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fewest rounds at each batch size: what is measured is no matter here."""
    monkeypatch.setattr(speed, "_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def few_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few images are run alone and in batches of every size."""
    monkeypatch.setattr(batching, "IMAGES", BATCHED)


@pytest.fixture(autouse=True)
def forked_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run files in forked child processes, which do not start Python anew."""
    monkeypatch.setattr(child_process, "run", forked.run)


@pytest.fixture
def started_children(forked_children: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the child processes of this test as users do."""
    monkeypatch.setattr(child_process, "run", _START)


@pytest.fixture(scope="session")
def garments(garments: Split) -> Split:
    """The first 300 real test images, with which all is exported here."""
    return garments.first(GARMENTS)


@pytest.fixture(scope="session", params=["lstm", "lstm2", "cnn"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Each of the networks, exported by the real exporter."""
    return single_label(tmp_path_factory, request.param)


@pytest.fixture(scope="session")
def lstm(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The smallest of them, for what is the same with all."""
    return single_label(tmp_path_factory, "lstm")


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A run whose network has learned something, and its graph in FP32."""
    return learned_lstm(tmp_path_factory)


@pytest.fixture
def run(learned: tuple[Run, Path], monkeypatch: pytest.MonkeyPatch) -> Run:
    """An LSTM that has learned these garments; the exporter takes the graph that was made of its weights before."""
    run, fp32 = learned
    monkeypatch.setattr(torch_export, "to_onnx", exported_as(fp32))
    return run


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """An exported CNN-RNN, which answers with paths of labels."""
    return label_paths(tmp_path_factory)
