"""Distances of labels: the formula, the file, the ones that ship, and where a run keeps them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hangtag.training.catalog import MULTI_LABEL_NETWORKS, NETWORKS, build
from hangtag.training.data import voc
from hangtag.training.data.fashion_mnist import LABELS
from hangtag.training.errors import LabelDistanceError, RunMismatchError
from hangtag.training.labels import distance as label_distance
from hangtag.training.labels.distance import LabelDistances, from_embeddings
from hangtag.training.networks.cnn_rnn import CnnRnn
from hangtag.training.networks.multi_label import CnnEmbedding
from hangtag.training.runs.label_distances import run_distances
from hangtag.training.runs.run import Run
from tests.training.configs import make_config

ABC = ("a", "b", "c")
DISTANCES = np.array([[0, 0.5, 1], [0.5, 0, 0.25], [1, 0.25, 0]])


def make(matrix: npt.NDArray[np.float64] = DISTANCES, labels: tuple[str, ...] = ABC) -> LabelDistances:
    return LabelDistances(labels, matrix, {"from": "a test"})


def test_the_formula_by_hand() -> None:
    # Cosines: a and b 0, a and c -1, b and c 0. One minus them: 1, 2, 1; the largest is 2.
    told = from_embeddings(ABC, [[2, 0], [0, 5], [-1, 0]], {})
    assert told.matrix.tolist() == [[0, 0.5, 1], [0.5, 0, 0.5], [1, 0.5, 0]]


@given(hnp.arrays(np.float64, (4, 3), elements=st.floats(-10, 10).filter(lambda value: abs(value) > 1e-3)))
def test_distances_are_distances_and_know_directions_only(embeddings: npt.NDArray[np.float64]) -> None:
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    assume((units @ units.T).min() < 1 - 1e-6)
    told = from_embeddings("abcd", embeddings, {})
    assert told.matrix.max() == 1
    assert not told.matrix.diagonal().any()
    assert np.array_equal(told.matrix, told.matrix.T)
    stretched = from_embeddings("abcd", embeddings * [[1], [2], [3], [4]], {})
    np.testing.assert_allclose(stretched.matrix, told.matrix, atol=1e-5)


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        ([[1, 2], [3, 4]], r"have \[2, 2\] for 3 labels"),
        ([1, 2, 3], r"these have \[3\]"),
        ([[1, 0], [0, 0], [0, 1]], "zero or not finite"),
        ([[1, 0], [np.nan, 1], [0, 1]], "zero or not finite"),
        ([[1, 1], [2, 2], [3, 3]], "are parallel"),
    ],
)
def test_embeddings_that_tell_nothing_are_refused(embeddings: list[Any], message: str) -> None:
    with pytest.raises(LabelDistanceError, match=message):
        from_embeddings(ABC, embeddings, {})


@pytest.mark.parametrize(
    ("matrix", "labels", "message"),
    [
        (DISTANCES[:2], ABC, r"shape \[2, 3\]"),
        (DISTANCES * 2, ABC, "from 0 to 1"),
        (np.where(DISTANCES == 1, np.nan, DISTANCES), ABC, "from 0 to 1"),
        (DISTANCES + np.eye(3), ABC, "symmetric, with 0"),
        (np.triu(DISTANCES), ABC, "symmetric, with 0"),
        (DISTANCES, ("a", "b", "a"), "different labels"),
        (np.zeros((1, 1)), ("a",), "two different labels or more"),
    ],
)
def test_a_matrix_that_is_none_of_distances_is_refused(
    matrix: npt.NDArray[np.float64], labels: tuple[str, ...], message: str
) -> None:
    with pytest.raises(LabelDistanceError, match=message):
        make(matrix, labels)


def test_neighbours_come_nearest_first_and_leave_the_label_out() -> None:
    assert make().neighbours("b") == [("c", 0.25), ("a", 0.5)]
    with pytest.raises(LabelDistanceError, match="no label 'd'; the labels are a, b, c"):
        make().neighbours("d")


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "distances.json"
    path.write_text(make().text())
    back = label_distance.read(path)
    assert (back.labels, back.provenance) == (ABC, {"from": "a test"})
    assert np.array_equal(back.matrix, DISTANCES)
    assert back.digest == make().digest
    assert "[0.0, 0.5, 1.0]," in path.read_text()  # a row a line


def test_the_digest_tells_labels_and_numbers_apart_and_nothing_else() -> None:
    one = make().digest
    assert LabelDistances(ABC, DISTANCES, {"from": "elsewhere"}).digest == one
    assert make(labels=("a", "c", "b")).digest != one
    assert make(DISTANCES**2).digest != one


DOCUMENT = json.loads(make().text())


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("no JSON", "holds no distances"),
        ("[]", "holds no distances"),
        ("{}", "it has no 'schema'"),
        (json.dumps(DOCUMENT | {"schema": "else/1"}), "its schema is 'else/1'"),
        (json.dumps(DOCUMENT | {"labels": "abc"}), "not a list of names"),
        (json.dumps(DOCUMENT | {"distances": [[0, 1], [1]]}), "holds no distances"),
        (json.dumps(DOCUMENT | {"distances": [["x"]]}), "holds no distances"),
        (json.dumps(DOCUMENT | {"distances": (DISTANCES + 1).tolist()}), "from 0 to 1"),
        (json.dumps(DOCUMENT | {"provenance": 5}), "holds no distances"),
    ],
)
def test_a_file_of_something_else_is_refused_by_name(tmp_path: Path, contents: str, message: str) -> None:
    path = tmp_path / "distances.json"
    path.write_text(contents)
    with pytest.raises(LabelDistanceError, match=message) as caught:
        label_distance.read(path)
    assert str(path) in str(caught.value)
    assert "hangtag labels RUN --json FILE" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LabelDistanceError, match="cannot be read"):
        label_distance.read(tmp_path / "gone.json")


def test_the_distances_that_ship_are_sensible_and_say_where_they_are_from() -> None:
    shipped = label_distance.default()
    shipped.require(LABELS)
    assert shipped.provenance["from"] in ("weights of the last layer", "label embeddings")
    assert shipped.neighbours("Shirt")[0].label in ("T-shirt/top", "Pullover", "Coat")
    shoes = {"Sandal", "Sneaker", "Ankle boot"}
    for shoe in shoes:
        assert {neighbour.label for neighbour in shipped.neighbours(shoe)[:2]} == shoes - {shoe}


def test_other_labels_are_noticed() -> None:
    with pytest.raises(LabelDistanceError, match=r"of other labels \(a, b, c\) than are needed \(c, b, a\)"):
        make().require(("c", "b", "a"))


# Where a run keeps its embeddings.


def finished(folder: Path, model: str, state: dict[str, torch.Tensor], **summary: object) -> Run:
    """A run that counts as finished, with these weights."""
    folder.mkdir()
    run = Run(folder)
    run.start(make_config(model, seed=4))
    run.save("best.pt", {"model": state, "epoch": 1})
    run.write_metrics({"epochs": [], "summary": summary})
    return run


@pytest.mark.parametrize("model", [name for name in NETWORKS if name not in MULTI_LABEL_NETWORKS])
def test_a_classifiers_embeddings_are_its_last_layers_rows(tmp_path: Path, model: str) -> None:
    torch.manual_seed(0)
    network = build(model)
    (last, *_) = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][::-1]
    told = run_distances(finished(tmp_path / "run", model, network.state_dict()))
    assert np.array_equal(told.matrix, from_embeddings(LABELS, last.weight.detach().numpy(), {}).matrix)
    assert told.provenance["from"] == "weights of the last layer"
    assert (told.provenance["model"], told.provenance["seed"]) == (model, 4)


def test_a_cnn_rnn_has_embeddings_and_its_marks_is_left_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = CnnRnn()
    told = run_distances(finished(tmp_path / "run", "cnn_rnn", network.state_dict()))
    embeddings = network.embeddings.weight.detach().numpy()
    assert len(embeddings) == len(LABELS) + 1
    assert np.array_equal(told.matrix, from_embeddings(LABELS, embeddings[:-1], {}).matrix)
    assert told.provenance["from"] == "label embeddings"


@pytest.mark.parametrize("build_one", [CnnRnn, CnnEmbedding])
def test_a_run_on_another_data_set_tells_the_distances_of_its_own_labels(
    tmp_path: Path, build_one: type[CnnRnn] | type[CnnEmbedding]
) -> None:
    torch.manual_seed(0)
    state = build_one(20).state_dict()
    told = run_distances(finished(tmp_path / "run", "cnn_rnn", state, labels=list(voc.LABELS)))
    rows = state["embeddings.weight" if build_one is CnnRnn else "score.weight"][:20]
    assert told.labels == voc.LABELS
    assert np.array_equal(told.matrix, from_embeddings(voc.LABELS, rows.numpy(), {}).matrix)


@pytest.mark.parametrize(
    "state",
    [
        {"features.weight": torch.ones(3, 3), "bias": torch.ones(10)},
        {"embeddings.weight": torch.ones(7, 4)},
        {"quantized.weight": torch.ones(10, 4, dtype=torch.int8)},
    ],
)
def test_weights_without_embeddings_are_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(RunMismatchError, match=r"best\.pt holds no weights with a row for each of the 10 labels"):
        run_distances(finished(tmp_path / "run", "lstm", state))


def test_a_run_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", "lstm", {})
    run.write_metrics({"epochs": [{}, {}]})
    with pytest.raises(RunMismatchError, match=r"is not finished \(2 epochs so far\)"):
        run_distances(run)
