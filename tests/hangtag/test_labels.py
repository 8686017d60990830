"""``hangtag labels``: how far apart labels are, from every kind of source."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from hangtag.training.data.fashion_mnist import LABELS
from hangtag.training.labels.distance import DEFAULT_PATH
from tests.kit import onnx_models
from tests.kit.command import invoke, refusal
from tests.kit.shipped import MODELS

SHIPPED: dict[str, Any] = json.loads(DEFAULT_PATH.read_text())
CNN = MODELS / SHIPPED["provenance"]["file"]
EMBEDDINGS = "network.embeddings.weight"


def printed(*arguments: object) -> list[str]:
    return invoke("labels", *arguments).stdout.splitlines()


def read(*source: object) -> Any:
    return json.loads(invoke("labels", *source, "--json", "-").stdout)


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
    weights = torch.load(trained / "best.pt", weights_only=True)["model"]["classifier.weight"].numpy()
    np.testing.assert_allclose(run["distances"], cosine_distances(weights), atol=1e-6)


def test_a_models_folder_is_its_latest_version(proven: Path, tmp_path: Path) -> None:
    (tmp_path / "lstm" / "9").mkdir(parents=True)
    (tmp_path / "lstm" / "9" / "model.onnx").symlink_to(CNN)
    (tmp_path / "lstm" / "10").symlink_to(proven / "lstm-56/1")
    (tmp_path / "lstm" / "old").symlink_to(CNN.parent)
    latest = printed(proven / "lstm-56/1/model.onnx")
    assert printed(tmp_path / "lstm") == printed(tmp_path / "lstm" / "10") == latest
    assert printed(tmp_path / "lstm" / "9") == printed(CNN) != latest


def test_the_colours_of_the_picture_span_the_distances_between_labels(tmp_path: Path) -> None:
    """The nearest pair has one end of the colours, the furthest the other; a label's distance to itself has none."""
    path = tmp_path / "new" / "labels.png"
    invoke("labels", CNN, "--picture", path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    purple, yellow = (68, 1, 84), (253, 231, 36)  # the ends of viridis
    near, far = (int((np.abs(colours - np.array(end)).max(axis=1) <= 2).sum()) for end in (purple, yellow))
    assert near > 0
    assert 0.5 < near / far < 2  # each pair has two cells


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


def embeddings(file: Path) -> np.ndarray[Any, Any]:
    """The embeddings of the labels, without the one that begins and ends a path."""
    return onnx.numpy_helper.to_array(onnx.load(file).graph.initializer[0])[:-1]


def test_a_cnn_rnns_file_has_embeddings_by_their_name(tmp_path: Path) -> None:
    file = with_weights(tmp_path, EMBEDDINGS, 11)
    distances = read(file)
    np.testing.assert_allclose(distances["distances"], cosine_distances(embeddings(file)), atol=1e-6)
    assert distances["provenance"]["from"] == "label embeddings"


def test_labels_of_another_data_set_are_its_own_and_measure_no_mistakes_of_this_one(tmp_path: Path) -> None:
    file = with_weights(tmp_path, EMBEDDINGS, 4, '["bird", "boat", "bus"]')
    json_file = tmp_path / "voc.json"
    result = invoke("labels", file, "--json", json_file, "--picture", tmp_path / "voc.png")
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["bird", "boat", "bus"]
    np.testing.assert_allclose(
        json.loads(json_file.read_text())["distances"], cosine_distances(embeddings(file)), atol=1e-6
    )
    assert printed(json_file) == result.stdout.splitlines()  # it can be read again
    for source in (file, json_file):
        refused = refusal("evaluate", CNN, "--limit", 5, "--distances", source)
        assert "(bird, boat, bus)" in refused
        assert "(T-shirt/top" in refused


def test_sources_without_distances_are_refused(tmp_path: Path) -> None:
    missing = refusal("labels", "gone", "--runs", tmp_path)
    assert "no finished run 'gone'" in missing
    assert "models/cnn" in missing
    assert "No such file or directory" in refusal("labels", tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    assert "is not a readable ONNX file" in refusal("labels", tmp_path / "text.onnx")
    no_weights = onnx_models.publish(tmp_path, "none", onnx_models.gather())
    for file in (with_weights(tmp_path, "weights", 7), no_weights):
        assert "each of the 10 labels" in refusal("labels", file)
    assert "each of the 2 labels" in refusal("labels", with_weights(tmp_path, "weights", 10, '["a", "b"]'))
    for garbled in ("no JSON", "10", "[1, 2]", '"ab"'):
        assert "is not a readable ONNX file" in refusal("labels", with_weights(tmp_path, "weights", 10, garbled))
    assert "--runs" in invoke("labels", CNN, "--runs", ".", exit_code=2).stderr


@pytest.mark.parametrize("option", ["--picture", "--json"])
def test_a_file_that_cannot_be_written_is_reported(tmp_path: Path, option: str) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write" in refusal("labels", CNN, option, tmp_path / "file" / "out")
