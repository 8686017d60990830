"""Which answers count as wrong."""

import dataclasses

import numpy as np
import pytest

from hangtag.serving.client import Classification
from hangtag.serving.client.classification import Label
from studies.soak.answers import ROUTE, Answers, WrongAnswerError
from studies.soak.situation import Callers

RIGHT = np.random.default_rng(0).random((8, 10), np.float32)
ANSWERS = Answers(
    np.zeros((8, 28, 28), np.uint8), {"lstm": {"probabilities": RIGHT}, ROUTE: {"probabilities": RIGHT[::-1]}}
)


@pytest.mark.parametrize("rows", [0, 1, 3, 5])
def test_an_answer_with_fewer_or_more_rows_than_images_is_wrong(rows: int) -> None:
    ANSWERS.check("lstm", 2, 4, {"probabilities": RIGHT[2:6]})
    with pytest.raises(WrongAnswerError, match="instead of"):
        ANSWERS.check("lstm", 2, 4, {"probabilities": RIGHT[2 : 2 + rows]})


def test_an_answer_of_other_images_or_without_an_output_is_wrong() -> None:
    with pytest.raises(WrongAnswerError, match="instead of"):
        ANSWERS.check("lstm", 2, 4, {"probabilities": RIGHT[3:7]})
    with pytest.raises(WrongAnswerError, match="no output probabilities"):
        ANSWERS.check("lstm", 2, 4, {"logits": RIGHT[2:6]})


def classification(image: int, count: int) -> Classification:
    best = np.argsort(RIGHT[image])[::-1][:count]
    labels = tuple(Label(str(index), float(RIGHT[image, index]), int(index)) for index in best)
    return Classification("lstm", "1", labels, 0.0, 0.0, 0.0, 1)


@pytest.mark.parametrize("labels", [0, 1, 2, 4, 10])
def test_a_classification_with_fewer_or_more_labels_than_asked_for_is_wrong(labels: int) -> None:
    ANSWERS.check_classification("lstm", 5, 3, classification(5, 3))
    with pytest.raises(WrongAnswerError, match="image 5"):
        ANSWERS.check_classification("lstm", 5, 3, classification(5, labels))


def test_a_label_that_comes_twice_is_wrong() -> None:
    alike = Answers(ANSWERS.images, {"lstm": {"probabilities": np.full((8, 10), 0.1, np.float32)}})
    twice = dataclasses.replace(classification(0, 1), labels=(Label("Bag", 0.1, 8), Label("Bag", 0.1, 8)))
    with pytest.raises(WrongAnswerError, match="image 0"):
        alike.check_classification("lstm", 0, 2, twice)


def test_only_a_cascade_may_be_unsure() -> None:
    unsure = dataclasses.replace(classification(5, 3), unsure=True)
    ANSWERS.check_classification(ROUTE, 5, 3, unsure)  # the first member's labels
    others = Answers(ANSWERS.images, {**ANSWERS.outputs, "cnn": {"probabilities": RIGHT[::-1]}})
    with pytest.raises(WrongAnswerError, match="cnn, image 5"):
        others.check_classification("cnn", 5, 3, unsure)


def test_a_caller_of_the_split_must_always_get_the_same_member() -> None:
    callers = Callers()
    callers.check("anna", "lstm")
    callers.check("ben", "cnn")
    callers.check("anna", "lstm")
    with pytest.raises(WrongAnswerError, match="anna to lstm first, and to cnn now"):
        callers.check("anna", "cnn")
    with pytest.raises(WrongAnswerError, match="nobody answered"):
        callers.check("carl", "")
