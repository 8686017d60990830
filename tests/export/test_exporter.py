"""Which runs can be exported. For any other run nothing is written, and the error says what to do."""

import json
from pathlib import Path

import onnx
import pytest
import torch

from hangtag.export import exporter
from hangtag.export.errors import ExportError
from hangtag.export.file import onnx_model, torch_export
from hangtag.serving.client import Client
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from hangtag.training.catalog import NETWORKS, build
from hangtag.training.data.fashion_mnist import Split
from hangtag.training.errors import RunMismatchError
from hangtag.training.networks.inference import predict
from hangtag.training.runs.run import Run
from tests.export import runs
from tests.export.exported import Exported
from tests.export.files import exported_as

pytestmark = pytest.mark.slow


def finish(run: Run) -> Run:
    """Mark a run as finished, whatever its weights are."""
    epoch = {"epoch": 1, "validation_accuracy": 0.5}
    summary = {"parameters": 0, "best_epoch": 1, "validation": {"accuracy": 0.5}, "test": {"accuracy": 0.5}}
    run.write_metrics({"epochs": [epoch], "summary": summary})
    return run


def refusal(run: Run, tmp_path: Path, garments: Split) -> str:
    """The message about a refused run; nothing is written."""
    before = runs.contents(tmp_path)
    with pytest.raises(ExportError) as refused:
        exporter.export(run, tmp_path / "models", garments)
    assert runs.contents(tmp_path) == before
    return str(refused.value)


def test_the_epoch_that_was_best_is_exported(exported: Exported, garments: Split) -> None:
    """The server gives the classes that PyTorch gives with the weights of best.pt."""
    config = ServerConfig(models=exported.models, port=0, http_port=-1, provider="cpu")
    with Server(config) as server, Client(server.address, timeout=60) as client:
        answers = [
            client.infer(exported.run.model, {"image": garments.images[start : start + 50]})["logits"]
            for start in range(0, len(garments), 50)
        ]
    served = [int(index) for logits in answers for index in logits.argmax(axis=1)]
    assert served == predict(exported.network, garments.images).argmax(axis=1).tolist()


def test_each_export_is_the_next_version(
    lstm: Exported, garments: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_export, "to_onnx", exported_as(lstm.file))
    folders = [exporter.export(lstm.run, tmp_path, garments).folder for _ in range(2)]
    assert folders == [tmp_path / "lstm/1", tmp_path / "lstm/2"]


def test_the_graph_is_never_parsed_again(
    lstm: Exported, garments: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checks, the digest and the metadata take the model that the exporter holds in memory."""
    monkeypatch.setattr(torch_export, "to_onnx", exported_as(lstm.file))
    monkeypatch.setattr(onnx, "load", lambda *arguments, **options: pytest.fail("the file was parsed again"))
    published = exporter.export(lstm.run, tmp_path, garments)
    monkeypatch.undo()
    file = onnx.load(published.folder / "model.onnx")
    assert onnx_model.metadata(file) == published.metadata
    assert onnx_model.digest(file) == published.metadata["graph_digest"]
    summary = lstm.run.read_metrics()["summary"]
    del summary["worst"]  # a list of images, of no use in the file
    assert json.loads(published.metadata["training"])["metrics"]["summary"] == summary


def test_a_run_that_is_not_finished_is_refused_with_how_to_go_on(tmp_path: Path, garments: Split) -> None:
    run = runs.start(tmp_path / "run", "lstm")
    run.save("best.pt", {"model": build("lstm").state_dict(), "epoch": 1})
    run.write_metrics({"epochs": [{"epoch": 1}]})
    with pytest.raises(
        RunMismatchError, match=r"run is not finished \(1 epoch so far\)\. Continue with: hangtag train lstm "
    ):
        exporter.export(run, tmp_path / "models", garments)
    assert not (tmp_path / "models").exists()


def test_weights_of_another_network_are_refused(tmp_path: Path, garments: Split) -> None:
    run = finish(runs.start(tmp_path / "run", "lstm"))
    run.save("best.pt", {"model": build("cnn").state_dict(), "epoch": 1})
    message = refusal(run, tmp_path, garments)
    assert message.startswith(
        f"the weights in {run.folder / 'best.pt'} do not fit lstm (Error(s) in loading state_dict"
    )
    assert message.endswith("Train anew with: hangtag train lstm --out FOLDER")
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize(
    "state",
    [{}, {"model": None}, {"model": {"classifier.bias": torch.zeros(11)}}, {"weights": build("lstm").state_dict()}],
)
def test_weights_of_no_network_are_refused(tmp_path: Path, garments: Split, state: dict[str, object]) -> None:
    run = finish(runs.start(tmp_path / "run", "lstm"))
    run.save("best.pt", state)
    assert "best.pt do not fit lstm (" in refusal(run, tmp_path, garments)


def test_a_lost_or_damaged_checkpoint_is_refused(tmp_path: Path, garments: Split) -> None:
    run = finish(runs.start(tmp_path / "run", "lstm"))
    for contents in (None, b"", b"not a checkpoint"):
        if contents is not None:
            (run.folder / "best.pt").write_bytes(contents)
        with pytest.raises(RunMismatchError, match=r"best\.pt cannot be read"):
            exporter.export(run, tmp_path / "models", garments)
        assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("model", ["transformer", "../lstm", ""])
def test_a_model_that_is_not_known_is_refused(tmp_path: Path, garments: Split, model: str) -> None:
    """As in a run of another version of hangtag, or one with an edited config."""
    run = finish(runs.start(tmp_path / "run", "lstm"))
    config = run.read_config() | {"model": model}
    (run.folder / "config.json").write_text(json.dumps(config))
    assert refusal(run, tmp_path, garments) == (
        f"{run.folder} is a run of {model!r}; the models known here: {', '.join(NETWORKS)}"
    )


def test_a_network_that_diverged_is_refused(
    lstm: Exported, tmp_path: Path, garments: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_export, "to_onnx", exported_as(lstm.file))
    run = finish(runs.start(tmp_path / "run", "lstm"))
    network = build("lstm")
    network.get_parameter("classifier.weight").data.fill_(torch.nan)
    run.save("best.pt", {"model": network.state_dict(), "epoch": 1})
    assert "own outputs are not finite for 300 of 300 test images" in refusal(run, tmp_path, garments)
