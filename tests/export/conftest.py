import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hangtag.export import child_process
from tests.kit import forkserver, runs
from tests.kit.colour_networks import COLOURS
from tests.kit.exported import FEW, Export, Exported, Garments, label_sets, learned_lstm, published_in, single_label
from tests.kit.once import once

forkserver.preload_training()


@pytest.fixture(scope="package", autouse=True)
def forked_children() -> Iterator[None]:
    """Fork the child processes that run ONNX files, so that Python need not start for each file."""
    with forkserver.forked_children():
        yield


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """A labels file for the networks in colour_networks.py."""
    (tmp_path / "labels.txt").write_text("\n".join(COLOURS))
    return tmp_path / "labels.txt"


@pytest.fixture
def started_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start this test's child processes as the product does, without forking."""
    monkeypatch.setattr(child_process, "CONTEXT", multiprocessing.get_context("spawn"))


@pytest.fixture(scope="session")
def few(garments: Garments) -> Garments:
    """The first 300 real test images, for the exports in this folder's tests."""
    return garments.first(FEW)


@pytest.fixture(scope="session", params=["lstm", "lstm2", "cnn"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Each of the single-label networks, exported by the real exporter."""
    return single_label(tmp_path_factory, request.param)


@pytest.fixture(scope="session")
def lstm(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The smallest of the exported networks, for behaviour that all networks share."""
    return single_label(tmp_path_factory, "lstm")


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A trained LSTM."""
    return learned_lstm(tmp_path_factory)


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """An exported CNN-RNN, which answers with paths of labels."""
    return label_sets(tmp_path_factory, "cnn_rnn")


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory: pytest.TempPathFactory, few: Garments) -> Path:
    """A folder with two finished runs of lstm, `older` and `newer`, an lstm2 run without an epoch, and an empty
    folder."""

    def make(folder: Path) -> Path:
        for seconds, name in enumerate(["older", "newer"]):
            runs.train(folder / name, "lstm", few)
            os.utime(folder / name / "metrics.json", (1_000 + seconds, 1_000 + seconds))
        runs.start(folder / "begun", "lstm2")
        (folder / "stray").mkdir()
        return folder

    return once(tmp_path_factory, "runs", make)


@pytest.fixture(scope="session")
def of_run(runs_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The folder and the output of ``hangtag export RUN``."""
    return once(tmp_path_factory, "export-run", lambda folder: published_in(folder, "older", "--runs", runs_dir))
