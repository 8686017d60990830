"""`hangtag labels`: what is near to what, from every kind of source."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from hangtag.training.data.fashion_mnist import LABELS
from hangtag.training.labels import distance as label_distance
from hangtag.training.labels.distance import from_embeddings
from tests.hangtag.conftest import classifier_of, hangtag
from tests.kit import onnx_models
from tests.kit.exported import Exported
from tests.kit.shipped import MODELS

pytestmark = pytest.mark.slow

CNN = MODELS / str(label_distance.default().provenance["file"])


def test_the_shipped_distances_are_what_their_provenance_says(tmp_path: Path) -> None:
    """This command wrote them, from a shipped model."""
    result = hangtag("labels", CNN, "--json", tmp_path / "distances.json")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "distances.json").read_text() == label_distance.DEFAULT_PATH.read_text()


def test_each_label_with_its_nearest() -> None:
    lines = hangtag("labels", CNN, "--nearest", 2).stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == list(LABELS)
    assert lines[1].split() == ["T-shirt/top", "Shirt", "0.25", "Dress", "0.40"]


def test_all_distances_of_one_label() -> None:
    lines = hangtag("labels", CNN, "--label", "Shirt").stdout.splitlines()
    neighbours = label_distance.default().neighbours("Shirt")
    assert len(lines) == len(neighbours) + 1 == 10
    for line, neighbour in zip(lines[1:], neighbours, strict=True):
        assert line.startswith(neighbour.label)
        assert f" {neighbour.distance:.3f} " in line


def test_the_nearest_of_one_label() -> None:
    every_line = hangtag("labels", CNN, "--label", "Shirt").stdout.splitlines()
    few = hangtag("labels", CNN, "--label", "Shirt", "--nearest", 2).stdout.splitlines()
    assert [line.split() for line in few] == [line.split() for line in every_line[:3]]


def test_runs_of_a_file_are_refused() -> None:
    result = hangtag("labels", CNN, "--runs", ".")
    assert result.exit_code == 2
    assert "--runs: " in result.stderr


def test_a_run_and_its_export_have_the_same_distances(exported: Exported, tmp_path: Path) -> None:
    for name, source in (("run.json", exported.run.folder), ("file.json", exported.file)):
        result = hangtag("labels", source, "--json", tmp_path / name)
        assert result.exit_code == 0, result.output
    run, file = label_distance.read(tmp_path / "run.json"), label_distance.read(tmp_path / "file.json")
    assert run.digest == file.digest
    assert run.provenance["model"] == "lstm"
    assert file.provenance["file"] == "lstm/1/model.onnx"
    weights = exported.run.load("best.pt")["model"]["classifier.weight"].numpy()
    assert np.array_equal(run.matrix, from_embeddings(LABELS, weights, {}).matrix)


def test_a_models_folder_is_its_latest_version(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "lstm" / "9").mkdir(parents=True)
    (tmp_path / "lstm" / "9" / "model.onnx").symlink_to(CNN)
    (tmp_path / "lstm" / "10").symlink_to(exported.file.parent)
    (tmp_path / "lstm" / "old").symlink_to(CNN.parent)
    latest = hangtag("labels", exported.file).stdout
    assert hangtag("labels", tmp_path / "lstm").stdout == hangtag("labels", tmp_path / "lstm" / "10").stdout == latest
    assert hangtag("labels", tmp_path / "lstm" / "9").stdout == hangtag("labels", CNN).stdout != latest


def test_json_to_standard_output_is_all_there_is_and_can_be_read_again(tmp_path: Path) -> None:
    file = tmp_path / "distances.json"
    file.write_text(hangtag("labels", CNN, "--json", "-").stdout)
    assert hangtag("labels", file).stdout == hangtag("labels", CNN).stdout


def test_the_colours_of_the_picture_span_the_distances_between_labels(tmp_path: Path) -> None:
    """The nearest pair has one end of the colours, the furthest the other; a label's distance to itself has none."""
    path = tmp_path / "new" / "labels.png"
    result = hangtag("labels", CNN, "--picture", path)
    assert f"wrote {path}" in result.stderr
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    purple, yellow = (68, 1, 84), (253, 231, 36)  # the ends of viridis
    near, far = (int((np.abs(colours - np.array(end)).max(axis=1) <= 2).sum()) for end in (purple, yellow))
    assert near > 0
    assert 0.5 < near / far < 2  # Each pair has two cells.


def refused(*arguments: object) -> str:
    result = hangtag("labels", *arguments)
    assert result.exit_code == 1, result.output
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def embeddings_only(name: str, rows: int) -> onnx.ModelProto:
    """A model with one matrix of weights of this name."""
    return onnx_models.model(
        [helper.make_node("Gather", [name, "index"], ["row"])],
        {"index": (TensorProto.INT64, ["batch"])},
        {"row": (TensorProto.FLOAT, ["batch", 3])},
        {name: np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)},
    )


def test_a_cnn_rnns_file_has_embeddings_by_their_name(tmp_path: Path) -> None:
    model = embeddings_only("network.embeddings.weight", 11)
    file = onnx_models.publish(tmp_path, "cnn_rnn", model)
    result = hangtag("labels", file, "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    distances = label_distance.read(tmp_path / "out.json")
    embeddings = onnx.numpy_helper.to_array(model.graph.initializer[0])
    assert np.array_equal(distances.matrix, from_embeddings(LABELS, embeddings[:10], {}).matrix)
    assert distances.provenance["from"] == "label embeddings"


def test_labels_of_another_data_set_are_its_own_and_measure_no_mistakes_of_this_one(tmp_path: Path) -> None:
    model = embeddings_only("network.embeddings.weight", 4)
    onnx.helper.set_model_props(model, {"hangtag.labels": '["bird", "boat", "bus"]'})
    file, json_file = onnx_models.publish(tmp_path, "voc", model), tmp_path / "voc.json"
    result = hangtag("labels", file, "--json", json_file, "--picture", tmp_path / "voc.png")
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["bird", "boat", "bus"]
    embeddings = onnx.numpy_helper.to_array(model.graph.initializer[0])
    assert np.array_equal(label_distance.read(json_file).matrix, from_embeddings("abc", embeddings[:3], {}).matrix)
    assert hangtag("labels", json_file).stdout == result.stdout
    for source in (file, json_file):
        measured = hangtag("evaluate", CNN, "--limit", 5, "--distances", source)
        assert measured.exit_code == 1
        assert "the distances are of other labels (bird, boat, bus) than are needed (T-shirt/top" in measured.stderr


def test_sources_without_distances_are_refused(tmp_path: Path) -> None:
    missing = refused("gone", "--runs", tmp_path)
    assert "no finished run 'gone'" in missing
    assert "An exported model is named by its file or its folder, such as models/cnn." in missing
    assert "gone.onnx cannot be read (No such file or directory)" in refused(tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    assert "is not a readable ONNX file" in refused(tmp_path / "text.onnx")
    few = onnx_models.publish(tmp_path, "few", embeddings_only("weights", 7))
    assert "holds no weights with a row for each of the 10 labels" in refused(few)
    none = onnx_models.publish(tmp_path, "none", classifier_of())
    assert "holds no weights with a row for each of the 10 labels" in refused(none)
    named = embeddings_only("weights", 10)
    onnx.helper.set_model_props(named, {"hangtag.labels": '["a", "b"]'})
    assert "row for each of the 2 labels" in refused(onnx_models.publish(tmp_path, "others", named))
    for number, garbled in enumerate(("no JSON", "10", "[1, 2]", '"ab"')):
        onnx.helper.set_model_props(named, {"hangtag.labels": garbled})
        assert "is not a readable ONNX file" in refused(onnx_models.publish(tmp_path, f"garbled{number}", named))


def test_an_unknown_label_is_answered_with_the_labels() -> None:
    assert "there is no label 'Hat'; the labels are T-shirt/top, Trouser" in refused(CNN, "--label", "Hat")


@pytest.mark.parametrize("option", ["--picture", "--json"])
def test_a_file_that_cannot_be_written_is_reported(tmp_path: Path, option: str) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused(CNN, option, tmp_path / "file" / "out")
