"""Label distances: the formula, the file, and the matrix that ships."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hangtag.training.errors import LabelDistanceError
from hangtag.training.labels import distance as label_distance
from hangtag.training.labels.distance import LabelDistances, from_embeddings

ABC = ("a", "b", "c")
DISTANCES = np.array([[0, 0.5, 1], [0.5, 0, 0.25], [1, 0.25, 0]])


def make(matrix: npt.NDArray[np.float64] = DISTANCES, labels: tuple[str, ...] = ABC) -> LabelDistances:
    return LabelDistances(labels, matrix, {"from": "a test"})


def test_the_formula_by_hand() -> None:
    # Cosines: a and b 0, a and c -1, b and c 0. One minus them: 1, 2, 1; the largest is 2.
    measured = from_embeddings(ABC, [[2, 0], [0, 5], [-1, 0]], {})
    assert measured.matrix.tolist() == [[0, 0.5, 1], [0.5, 0, 0.5], [1, 0.5, 0]]


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        ([[1, 2], [3, 4]], r"have \[2, 2\] for 3 labels"),
        ([[1, 0], [0, 0], [0, 1]], "zero or not finite"),
        ([[1, 1], [2, 2], [3, 3]], "are parallel"),
    ],
)
def test_embeddings_that_define_no_distances_are_refused(embeddings: list[Any], message: str) -> None:
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
        (np.zeros((1, 1)), ("a",), "at least two different labels"),
    ],
)
def test_another_matrix_than_one_of_distances_is_refused(
    matrix: npt.NDArray[np.float64], labels: tuple[str, ...], message: str
) -> None:
    with pytest.raises(LabelDistanceError, match=message):
        make(matrix, labels)


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "distances.json"
    path.write_text(make().text())
    back = label_distance.read(path)
    assert (back.labels, back.provenance) == (ABC, {"from": "a test"})
    assert np.array_equal(back.matrix, DISTANCES)
    assert back.digest == make().digest  # which depends on labels and numbers alone
    assert LabelDistances(ABC, DISTANCES, {"from": "elsewhere"}).digest == back.digest
    assert len({make(labels=("a", "c", "b")).digest, make(DISTANCES**2).digest, back.digest}) == 3
    assert "[0.0, 0.5, 1.0]," in path.read_text()  # a row a line


DOCUMENT = json.loads(make().text())


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("no JSON", "holds no distances"),
        ("{}", "it has no 'schema'"),
        (json.dumps(DOCUMENT | {"schema": "else/1"}), "its schema is 'else/1'"),
        (json.dumps(DOCUMENT | {"labels": "abc"}), "not a list of names"),
        (json.dumps(DOCUMENT | {"distances": [[0, 1], [1]]}), "holds no distances"),
        (json.dumps(DOCUMENT | {"distances": (DISTANCES + 1).tolist()}), "from 0 to 1"),
        (json.dumps(DOCUMENT | {"provenance": 5}), "holds no distances"),
    ],
)
def test_another_file_is_refused_by_name(tmp_path: Path, contents: str, message: str) -> None:
    path = tmp_path / "distances.json"
    path.write_text(contents)
    with pytest.raises(LabelDistanceError, match=message) as caught:
        label_distance.read(path)
    assert str(path) in str(caught.value)
    assert "hangtag labels RUN --json=FILE" in str(caught.value)
