"""``hangtag labels``: how far apart labels are, from every kind of source."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from hangtag.training.catalog import build
from hangtag.training.data.fashion_mnist import LABELS
from hangtag.training.labels.distance import DEFAULT_PATH
from tests.kit import onnx_models
from tests.kit.command import invoke, refusal
from tests.kit.shipped import MODELS
from tests.kit.voc_files import BARS

SHIPPED: dict[str, Any] = json.loads(DEFAULT_PATH.read_text())
CNN = MODELS / SHIPPED["provenance"]["file"]
EMBEDDINGS = "network.embeddings.weight"


def printed(*arguments: object) -> list[str]:
    return invoke("labels", *arguments).stdout.splitlines()


def read(*source: object) -> Any:
    return json.loads(invoke("labels", "--json", *source).stdout)


def cosine_distances(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """One less the cosine of every two rows, as a share of the largest."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    distances = 1 - unit @ unit.T
    shares: np.ndarray[Any, Any] = distances / distances.max()
    return shares


def test_the_shipped_distances_are_what_their_provenance_says() -> None:
    """This command wrote them, from a shipped model."""
    assert read(CNN) == SHIPPED


def test_it_prints_each_label_with_its_nearest_or_one_label_with_all() -> None:
    lines = printed(CNN, "--nearest", 2)
    assert [line.split("  ")[0] for line in lines[1:]] == list(LABELS)
    assert lines[1].split() == ["T-shirt/top", "Shirt", "0.25", "Dress", "0.40"]
    distances = SHIPPED["distances"][LABELS.index("Shirt")]
    others = sorted((label for label in LABELS if label != "Shirt"), key=lambda label: distances[LABELS.index(label)])
    every_line = printed(CNN, "--label", "Shirt")
    for line, label in zip(every_line[1:], others, strict=True):
        assert line.startswith(label)
        assert f" {distances[LABELS.index(label)]:.3f} " in line
    few = printed(CNN, "--label", "Shirt", "--nearest", 2)
    assert [line.split() for line in few] == [line.split() for line in every_line[:3]]
    assert "T-shirt/top, Trouser" in refusal("labels", CNN, "--label", "Hat")


def test_a_run_and_its_export_have_the_same_distances(trained: Path, proven: Path) -> None:
    run, file = read(trained), read(proven / "lstm-56/1/model.onnx")
    assert run["distances"] == file["distances"]
    assert run["provenance"]["model"] == "lstm-56"
    assert file["provenance"]["file"] == "lstm-56/1/model.onnx"


def with_weights(folder: Path, name: str, rows: int, labels: str | None = None) -> Path:
    """A file with one matrix of weights of this name, and labels in its metadata."""
    model = onnx_models.model(
        [helper.make_node("Gather", [name, "index"], ["row"])],
        {"index": (TensorProto.INT64, ["batch"])},
        {"row": (TensorProto.FLOAT, ["batch", 3])},
        {name: np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)},
    )
    if labels is not None:
        onnx.helper.set_model_props(model, {"hangtag.labels": labels})
    return onnx_models.publish(folder, f"{len(list(folder.iterdir()))}", model)


def test_labels_of_another_data_set_are_its_own_and_measure_no_mistakes_of_this_one(tmp_path: Path) -> None:
    """The file has a cnn_rnn's embeddings, the last of which begins and ends a path and is no label's."""
    file = with_weights(tmp_path, EMBEDDINGS, 4, '["bird", "boat", "bus"]')
    json_file = tmp_path / "voc.json"
    result = invoke("labels", file, "--json", json_file, "--picture", tmp_path / "voc.png")
    assert f"write --json={json_file}." in result.stderr  # as 0.2.1 took it
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["bird", "boat", "bus"]
    document = json.loads(json_file.read_text())
    embeddings = onnx.numpy_helper.to_array(onnx.load(file).graph.initializer[0])[:-1]
    np.testing.assert_allclose(document["distances"], cosine_distances(embeddings), atol=1e-6)
    assert document["provenance"]["from"] == "label embeddings"
    assert printed(json_file) == result.stdout.splitlines()  # it can be read again
    for source in (file, json_file):
        refused = refusal("evaluate", CNN, "--limit", 5, "--distances", source)
        assert "(bird, boat, bus)" in refused
        assert "(T-shirt/top" in refused


def test_sources_without_distances_are_refused(tmp_path: Path) -> None:
    assert "No such file or directory" in refusal("labels", tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    assert "is not a readable ONNX file" in refusal("labels", tmp_path / "text.onnx")
    no_weights = onnx_models.publish(tmp_path, "none", onnx_models.gather())
    for file in (with_weights(tmp_path, "weights", 7), no_weights):
        assert "each of the 10 labels" in refusal("labels", file)
    assert "each of the 2 labels" in refusal("labels", with_weights(tmp_path, "weights", 10, '["a", "b"]'))
    for garbled in ("no JSON", "10", "[1, 2]", '"ab"'):
        assert "is not a readable ONNX file" in refusal("labels", with_weights(tmp_path, "weights", 10, garbled))
    make(tmp_path / "run", "lstm", summary={}, weights={"quantized.weight": torch.ones(10, 4, dtype=torch.int8)})
    assert "best.pt holds no weights with a row for each of the 10 labels" in refusal("labels", tmp_path / "run")
    assert "--runs" in invoke("labels", CNN, "--runs", ".", exit_code=2).stderr


# Runs.


def make(folder: Path, model: str = "lstm-56", *, summary: dict[str, Any] | None, weights: object = None) -> None:
    """Write a run that counts as finished if it has a summary."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"model": model, "recipe": {"name": "study", "epochs": 10}, "seed": 4})
    )
    metrics = {"epochs": [{}, {}], **({} if summary is None else {"summary": summary})}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    torch.save({"model": build(model).state_dict() if weights is None else weights, "epoch": 1}, folder / "best.pt")


def test_a_run_is_found_by_its_folder_a_file_in_it_its_name_or_its_model(tmp_path: Path) -> None:
    for at, (name, model, done) in enumerate(
        [("old", "lstm-56", True), ("new", "lstm-56", True), ("unfinished", "lstm-56", False), ("other", "cnn", True)]
    ):
        make(tmp_path / name, model, summary={} if done else None)
        os.utime(tmp_path / name / "metrics.json", (at, at))
    matrices = {name: read(tmp_path / name, "--runs", "elsewhere")["distances"] for name in ("old", "new", "other")}
    at_file = str(tmp_path / "old" / "best.pt")
    for asked, expected in (
        (at_file, "old"),
        ("old", "old"),
        ("old/best.pt", "old"),
        ("lstm-56", "new"),
        ("cnn", "other"),
    ):
        assert read(asked, "--runs", tmp_path)["distances"] == matrices[expected]
    for name in ("best.pt", "lstm"):
        message = refusal("labels", name, "--runs", tmp_path)
        assert f"no finished run '{name}'" in message
        assert "runs there: new, old, other, unfinished" in message
        assert "models/cnn" in message
        assert "Train one with: hangtag train MODEL." in message
    assert "runs there: none" in refusal("labels", "lstm", "--runs", tmp_path / "none")
    message = refusal("labels", "unfinished", "--runs", tmp_path)
    assert "is not finished (2 epochs so far). Continue with: hangtag train lstm-56 " in message
    (tmp_path / "new" / "config.json").write_text('{"seed": 0}')
    assert "config.json names no model" in refusal("labels", tmp_path / "new")


@pytest.mark.parametrize(
    ("model", "parameter", "labels"),
    [
        *((model, "classifier.weight", LABELS) for model in ("lstm", "lstm2", "resnet")),
        ("cnn", "classifier.6.weight", LABELS),
        *(
            (model, parameter, labels)
            for model, parameter in (("cnn_rnn", "embeddings.weight"), ("cnn_embedding", "score.weight"))
            for labels in (LABELS, BARS)
        ),
    ],
)
def test_a_networks_embeddings_are_the_rows_of_one_of_its_weights(
    tmp_path: Path, model: str, parameter: str, labels: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    state = build(model, len(labels)).state_dict()
    make(tmp_path / "run", model, summary={"labels": list(labels)}, weights=state)
    measured = read("run", "--runs", tmp_path)
    assert tuple(measured["labels"]) == labels
    embeddings = state[parameter][: len(labels)].numpy()  # not a row for END
    np.testing.assert_allclose(measured["distances"], cosine_distances(embeddings), atol=1e-6)
    kind = "label embeddings" if model == "cnn_rnn" else "weights of the last layer"
    assert measured["provenance"]["from"] == kind
    assert (measured["provenance"]["model"], measured["provenance"]["seed"]) == (model, 4)
