"""The answers of multi-label models, and the distances between labels in the answers of single-label models."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest

from hangtag.protos import classifier_pb2 as pb
from hangtag.serving.server.errors import ModelLoadError
from tests.kit import onnx_label_sets, onnx_models
from tests.kit.live import LiveServer, failure
from tests.kit.onnx_label_sets import DISTANCES, image
from tests.kit.over_http import HTTP, live_server
from tests.kit.picture_files import encoded
from tests.kit.waiting import TIMEOUT

pytestmark = pytest.mark.quick

Pixels = npt.NDArray[np.uint8]
PROBABILITIES = [10, 250, 20, 30, 200, 40, 50, 240, 60, 70]  # in units of 1/255


@pytest.fixture(scope="module", params=["native", "grpc", HTTP])
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    models = tmp_path_factory.mktemp("sets")
    onnx_label_sets.publish_all(models)
    onnx_models.publish(models, "low", onnx_label_sets.label_threshold(threshold="0.15", min_labels="1"))
    onnx_models.publish(models, "path-far", onnx_label_sets.label_path(label_distances=json.dumps(DISTANCES)))
    with live_server(request.param, models) as server:
        yield server


def classify(live: LiveServer, model: str, pixels: Pixels | None = None, **fields: Any) -> pb.ClassifyResponse:
    if pixels is not None:
        fields["raw"] = pb.RawImage(height=64, width=64, pixels=pixels.tobytes())
    response: pb.ClassifyResponse = live.classifier.Classify(
        pb.ClassifyRequest(model_name=model, **fields), timeout=TIMEOUT
    )
    return response


def indices(response: pb.ClassifyResponse) -> list[int]:
    assert [score.label for score in response.labels] == [onnx_models.LABELS[score.index] for score in response.labels]
    return [score.index for score in response.labels]


@pytest.mark.parametrize("path", [[4, 1, 7], [1, 4, 7], [9], [0, 2, 4, 6, 8], []])
def test_a_path_is_answered_in_the_order_predicted_and_top_k_alone_cuts_it(live: LiveServer, path: list[int]) -> None:
    for top_k in (0, 2, 5, 99):
        response = classify(live, "path", image(PROBABILITIES, path, path_probability=51), top_k=top_k)
        shown = path[:top_k] if top_k else path
        assert indices(response) == shown
        probabilities = [score.probability for score in response.labels]
        assert probabilities == pytest.approx([PROBABILITIES[index] / 255 for index in shown])
        assert response.task == pb.TASK_MULTI_LABEL
        assert response.path_probability == pytest.approx(0.2)  # the probability of the whole set


@pytest.mark.parametrize(
    ("model", "top_k", "expected"),
    [
        ("half", 0, [1, 7, 4]),
        ("half", 2, [1, 7]),
        ("low", 0, [1, 7, 4, 9, 8, 6, 5]),
        ("low", 99, [1, 7, 4, 9, 8, 6, 5]),
    ],
)
def test_without_a_path_the_threshold_decides(live: LiveServer, model: str, top_k: int, expected: list[int]) -> None:
    response = classify(live, model, image(PROBABILITIES), top_k=top_k)
    assert indices(response) == expected
    assert response.task == pb.TASK_MULTI_LABEL
    assert not response.HasField("path_probability")


@pytest.mark.parametrize(("model", "expected"), [("half", []), ("low", [3])])
def test_where_no_label_reaches_the_threshold(live: LiveServer, model: str, expected: list[int]) -> None:
    """The set is empty unless the model's file requires a minimum number of labels."""
    assert indices(classify(live, model, image([1, 1, 1, 5, 1, 1, 1, 1, 1, 1]))) == expected


def test_a_path_with_an_unknown_label_is_an_internal_error(live: LiveServer) -> None:
    code, message = failure(lambda: classify(live, "path", image(PROBABILITIES, [3, 10])))
    assert code is grpc.StatusCode.INTERNAL
    assert message == "the model predicted the label index 10, but the last index is 9"


def test_runners_up_carry_their_distance_from_the_first(live: LiveServer) -> None:
    response = classify(live, "rivals", image(PROBABILITIES))
    assert response.task == pb.TASK_SINGLE_LABEL
    assert indices(response) == [1, 7, 4]
    assert [score.distance for score in response.labels] == pytest.approx([0, 0.6, 0.3])
    assert all(score.HasField("distance") for score in response.labels)


@pytest.mark.parametrize("model", ["half", "path", "path-far"])
def test_without_distances_or_rivals_there_are_none(live: LiveServer, model: str) -> None:
    """A multi-label answer states no distances between its labels, because all of them can be correct."""
    response = classify(live, model, image(PROBABILITIES, [1, 7]))
    assert len(response.labels) >= 2
    assert not any(score.HasField("distance") for score in response.labels)


def test_a_file_of_the_models_size_is_not_converted_and_another_is_scaled_down_as_a_whole(live: LiveServer) -> None:
    """The second picture repeats each pixel. Trimming it, or scaling it differently, would change the answer."""
    pixels = image(PROBABILITIES, path=[4, 1, 7])
    assert indices(classify(live, "path", encoded=encoded(pixels))) == [4, 1, 7]
    twice = np.repeat(np.repeat(pixels, 2, axis=0), 2, axis=1)
    assert {1, 7} <= set(indices(classify(live, "half", encoded=encoded(twice))))


def test_distances_that_do_not_fit_the_labels_stop_the_start(tmp_path: Path) -> None:
    file = onnx_models.publish(tmp_path, "m", onnx_label_sets.label_threshold(label_distances="[[0, 1], [1, 0]]"))
    with pytest.raises(ModelLoadError) as refused, live_server("auto", tmp_path):
        pass
    assert str(refused.value).startswith(
        f"{file}: hangtag.label_distances is not a JSON matrix with a row and a column for each of the 10 labels. "
    )
