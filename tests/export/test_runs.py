"""Which runs can be exported, and in which precisions. For other runs, the command writes nothing and says why."""

import json
from pathlib import Path

import pytest

from hangtag.serving.client import Client
from hangtag.training.catalog import NETWORKS, build
from tests.kit import onnx_file, runs
from tests.kit.exported import Exported, Garments, publish, refused
from tests.kit.server import server

pytestmark = pytest.mark.slow


def test_each_precision_is_published_and_served_as_a_model_of_its_own(
    learned: Exported, few: Garments, tmp_path: Path
) -> None:
    published = [
        publish(learned.run, tmp_path, few, to=precision, graph=learned.graph)
        for precision in ("fp32", "fp16", "int8", "fp16")
    ]
    assert [each.folder for each in published] == [
        tmp_path / "lstm/1", tmp_path / "lstm-fp16/1", tmp_path / "lstm-int8/1", tmp_path / "lstm-fp16/2",
    ]  # fmt: skip
    for each, precision in zip(published[1:3], ("fp16", "int8"), strict=True):
        metadata = onnx_file.metadata(each.folder / "model.onnx")
        assert metadata == each.metadata
        assert metadata["precision"] == precision
        gate = json.loads(metadata["gate"])
        assert gate["precision"] == precision
        assert gate["agreement"]["agreement"] >= gate["agreement"]["least_agreement"]
        assert 1e-4 < max(gate["parity"]["max_logit_difference"]["test"].values()) <= gate["parity"]["limit"]
    with server(tmp_path, provider="cpu") as running, Client(running.address, timeout=60) as client:
        answers = {name: client.infer(name, {"image": few.images[:20]})["logits"] for name in client.models()}
    assert sorted(answers) == ["lstm", "lstm-fp16", "lstm-int8"]
    labels = {name: rows.argmax(axis=1).tolist() for name, rows in answers.items()}
    assert labels["lstm"] == labels["lstm-fp16"] == labels["lstm-int8"]


def test_a_network_with_logits_of_thousands_may_round_more(tmp_path: Path, few: Garments) -> None:
    state = build("lstm").state_dict()
    state["classifier.weight"] *= 20_000
    published = publish(runs.finished(tmp_path / "run", "lstm", state), tmp_path / "models", few)
    gate = json.loads(published.metadata["gate"])
    assert 1e-4 < max(gate["parity"]["max_logit_difference"]["test"].values()) <= gate["parity"]["limit"] < 0.1


@pytest.mark.parametrize("damage", ["another network's", "too few labels", "no weights", "weights under another name"])
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, few: Garments, damage: str) -> None:
    model, state = "lstm", build("lstm").state_dict()
    if damage == "another network's":
        state = build("cnn").state_dict()
    elif damage == "too few labels":
        model, state = "cnn_rnn", build("cnn_rnn", 20).state_dict()
    run = runs.finished_sets(tmp_path / "run", model, state)
    if damage in ("no weights", "weights under another name"):
        run.save("best.pt", {"model": None} if damage == "no weights" else {"weights": state})
    message = refused(run, tmp_path, few)
    assert message.startswith(f"the weights or thresholds in {run.folder} do not fit {model} (")
    assert message.endswith(f"Train it again with: hangtag train {model} --out FOLDER")
    assert len(message) < 600


@pytest.mark.parametrize("model", ["transformer", "../lstm", ""])
def test_a_model_that_is_not_known_is_refused(tmp_path: Path, few: Garments, model: str) -> None:
    """A run may have an unknown model if another version of hangtag wrote the run, or if a user edited its config."""
    run = runs.finished(tmp_path / "run", "lstm", {})
    (run.folder / "config.json").write_text(json.dumps(run.config | {"model": model}))
    message = refused(run, tmp_path, few)
    assert message.startswith(f"{run.folder} is a run of {model!r}, which cannot be built here: ")
    assert ", ".join(NETWORKS) in message


def test_a_run_without_thresholds_is_refused(few: Garments, tmp_path: Path) -> None:
    run = runs.finished_sets(tmp_path / "run", "sigmoids", build("sigmoids").state_dict())
    metrics = run.metrics
    del metrics["summary"]["thresholds"]
    run.write_json("metrics.json", metrics)
    message = refused(run, tmp_path, few)
    assert "do not fit sigmoids ('thresholds')" in message
    assert message.endswith("Train it again with: hangtag train sigmoids --out FOLDER")


@pytest.mark.parametrize("model", ["cnn_rnn", "sigmoids"])
def test_sets_of_labels_are_published_in_fp32_only_and_have_no_temperature(
    model: str, few: Garments, tmp_path: Path
) -> None:
    run = runs.finished_sets(tmp_path / "run", model, build(model).state_dict())
    for precision in ("fp16", "int8"):
        assert f"published in fp32 only, not in {precision}" in refused(run, tmp_path, few, to=precision)
    message = refused(run, tmp_path, few, calibrate_on=few)
    assert message.startswith(f"{model} answers with sets of labels, but a temperature can only be fitted to a")
