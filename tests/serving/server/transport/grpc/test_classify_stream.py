"""ClassifyStream and Compare: a stream of images, and one image for several models."""

import json
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag.protos import classifier_pb2 as pb
from tests.kit import onnx_label_sets, onnx_models
from tests.kit.conversation import Conversation
from tests.kit.live import LiveServer, failure, index, request
from tests.kit.over_http import live_server
from tests.kit.picture_files import encoded
from tests.kit.waiting import TIMEOUT

pytestmark = pytest.mark.slow

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
PIXELS = np.random.default_rng(7).integers(0, 256, (6, 28, 28), dtype=np.uint8)


def raw(pixels: Any) -> pb.RawImage:
    height, width = pixels.shape
    return pb.RawImage(height=height, width=width, pixels=pixels.tobytes())


def image(place: int, **fields: Any) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(
        **{"model_name": "classifier", "raw": raw(PIXELS[place]), "id": f"number {place}", **fields}
    )


def alone(live: LiveServer, sent: pb.ClassifyRequest) -> pb.ClassifyResponse:
    response: pb.ClassifyResponse = live.classifier.Classify(sent, timeout=TIMEOUT)
    return response


def assert_same(one: pb.ClassifyResponse, other: pb.ClassifyResponse) -> None:
    """But for the time that it took, and for rounding."""
    assert (one.model_name, one.model_version, one.task) == (other.model_name, other.model_version, other.task)
    assert [score.label for score in one.labels] == [score.label for score in other.labels]
    np.testing.assert_allclose([s.probability for s in one.labels], [s.probability for s in other.labels], rtol=1e-4)


def test_a_stream_of_images_is_answered_in_order_as_each_alone(live: LiveServer) -> None:
    sent = [image(place, top_k=place + 1) for place in range(6)]
    answers = Conversation(live.classifier.ClassifyStream, *sent).finish()
    assert [answer.id for answer in answers] == [f"number {place}" for place in range(6)]
    for answer, one in zip(answers, sent, strict=True):
        assert_same(answer.answer, alone(live, one))
        assert answer.answer.timings.batch_size >= 1
        assert answer.answer.timings.compute_ns > 0


def test_an_image_that_fails_is_answered_in_its_place(live: LiveServer) -> None:
    broken = pb.ClassifyRequest(model_name="classifier", encoded=b"GIF89a", id="broken")
    unknown = image(1, model_name="nobody", id="unknown")
    no_classifier = image(1, model_name="gather", id="gather")
    answers = Conversation(live.classifier.ClassifyStream, image(0), broken, unknown, no_classifier, image(2)).finish()
    assert [answer.WhichOneof("outcome") for answer in answers] == ["answer", *["failure"] * 3, "answer"]
    failures = [(answer.id, answer.failure.code, answer.failure.message) for answer in answers[1:4]]
    codes = [(name, code) for name, code, _ in failures]
    assert codes == [("broken", INVALID.value[0]), ("unknown", NOT_FOUND.value[0]), ("gather", INVALID.value[0])]
    assert failures[0][2].startswith("the image is not a PNG, JPEG or WebP file")
    assert failures[1][2].startswith("no model 'nobody' is served here")
    assert failures[2][2].startswith("'gather' is not a classifier of images")


def test_images_of_a_stream_share_a_batch(own: LiveServer) -> None:
    with own.gates.closed("classifier") as gate:
        talk = Conversation(own.classifier.ClassifyStream, image(0))
        gate.wait_until_computing()
        talk.send(image(1), image(2), image(3))
        own.wait_until_queued("classifier", 3)
        gate.open()
        answers = talk.finish()
    assert [answer.answer.timings.batch_size for answer in answers] == [1, 3, 3, 3]


def test_images_of_a_cancelled_stream_are_not_computed(own: LiveServer) -> None:
    with own.gates.closed("classifier") as gate:
        call = own.classifier.Classify.future(image(0), timeout=TIMEOUT)
        gate.wait_until_computing()
        talk = Conversation(own.classifier.ClassifyStream, image(1), image(2))
        own.wait_until_queued("classifier", 2)
        talk.call.cancel()
        own.wait_until_queued("classifier", 0)
        gate.open()
        assert call.result()
        assert gate.batch_sizes == [1]


def compare(live: LiveServer, *models: str, timeout: float = TIMEOUT, **fields: Any) -> pb.CompareResponse:
    sent = pb.CompareRequest(
        models=[pb.ModelChoice(name=name) for name in models], **{"raw": raw(PIXELS[0]), "top_k": 5, **fields}
    )
    response: pb.CompareResponse = live.classifier.Compare(sent, timeout=timeout)
    return response


def test_a_comparison_answers_in_the_order_of_its_models(live: LiveServer) -> None:
    for names in (("lstm", "classifier"), ("classifier", "lstm")):
        outcomes = compare(live, *names).outcomes
        assert [outcome.model_name for outcome in outcomes] == list(names)
        for name, outcome in zip(names, outcomes, strict=True):
            assert_same(outcome.answer, alone(live, image(0, model_name=name, top_k=5)))
            assert len(outcome.answer.labels) == 5


def test_a_comparison_without_names_has_every_classifier(live: LiveServer) -> None:
    outcomes = compare(live).outcomes
    assert [(outcome.model_name, outcome.WhichOneof("outcome")) for outcome in outcomes] == [
        ("classifier", "answer"),
        ("lstm", "answer"),
    ]


def test_a_model_that_fails_does_not_hide_the_others(live: LiveServer) -> None:
    outcomes = compare(live, "nobody", "classifier", "gather").outcomes
    assert [outcome.WhichOneof("outcome") for outcome in outcomes] == ["failure", "answer", "failure"]
    assert [outcome.model_name for outcome in outcomes] == ["nobody", "classifier", "gather"]
    assert [outcomes[place].failure.code for place in (0, 2)] == [NOT_FOUND.value[0], INVALID.value[0]]
    assert outcomes[0].failure.message.startswith("no model 'nobody' is served here")


def test_a_version_may_be_chosen(live: LiveServer) -> None:
    models = [pb.ModelChoice(name="classifier", version=version) for version in ("12", "7", "")]
    sent = pb.CompareRequest(models=models, raw=raw(PIXELS[0]))
    outcomes = live.classifier.Compare(sent, timeout=TIMEOUT).outcomes
    assert [outcome.answer.model_version for outcome in outcomes] == ["12", "", "12"]
    assert outcomes[1].failure.message.startswith("version '7' of 'classifier' is not served here")


@pytest.fixture
def sizes(tmp_path: Path) -> Any:
    """Classifiers of 28 and of 64 pixels."""
    onnx_models.publish(tmp_path, "small", onnx_models.classifier())
    onnx_models.publish(tmp_path, "twin", onnx_models.classifier())
    onnx_models.publish(tmp_path, "large", onnx_label_sets.label_threshold(labels=json.dumps(onnx_models.LABELS)))
    with live_server("auto", tmp_path) as server:
        yield server


def test_a_file_is_converted_for_each_model(sizes: LiveServer) -> None:
    photo = encoded(np.kron(PIXELS[1], np.ones((4, 4), np.uint8)))
    outcomes = compare(sizes, "small", "large", "twin", raw=None, encoded=photo).outcomes
    for name, outcome in zip(("small", "large", "twin"), outcomes, strict=True):
        single = pb.ClassifyRequest(model_name=name, encoded=photo, top_k=5)
        assert_same(outcome.answer, alone(sizes, single))


def test_pixels_fit_the_models_of_their_size_only(sizes: LiveServer) -> None:
    outcomes = compare(sizes).outcomes
    assert {outcome.model_name: outcome.WhichOneof("outcome") for outcome in outcomes} == {
        "small": "answer",
        "twin": "answer",
        "large": "failure",
    }
    assert outcomes[0].failure.message.startswith("raw pixels must be 64 x 64")


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (["classifier", "lstm", "classifier"], "model 'classifier' is given twice; name each one once"),
        ([f"m{place}" for place in range(33)], "33 models; at most 32 can be compared on one image"),
    ],
)
def test_repeated_and_too_many_models_are_refused(live: LiveServer, models: list[str], message: str) -> None:
    code, details = failure(lambda: compare(live, *models))
    assert (code, details) == (INVALID, message)


def test_a_request_without_an_image_fails_for_every_model(live: LiveServer) -> None:
    sent = pb.CompareRequest(models=[pb.ModelChoice(name="classifier"), pb.ModelChoice(name="lstm")])
    outcomes = live.classifier.Compare(sent, timeout=TIMEOUT).outcomes
    assert [outcome.failure.message.split(";")[0] for outcome in outcomes] == ["no image in the request"] * 2


def test_a_server_without_classifiers_says_so(tmp_path: Path) -> None:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    with live_server("auto", tmp_path) as server:
        assert failure(lambda: compare(server)) == (
            NOT_FOUND,
            "no served model classifies pictures; call them for inference instead",
        )


def test_a_comparison_queries_its_models_at_once_and_is_dropped_when_cancelled(own_whole: LiveServer) -> None:
    with own_whole.gates.closed("classifier") as one, own_whole.gates.closed("lstm") as other:
        calls = [own_whole.classifier.Classify.future(image(0, model_name=name)) for name in ("classifier", "lstm")]
        one.wait_until_computing()
        other.wait_until_computing()
        sent = pb.CompareRequest(raw=raw(PIXELS[0]))
        comparison = own_whole.classifier.Compare.future(sent, timeout=TIMEOUT)
        own_whole.wait_until_queued("classifier", 1)
        own_whole.wait_until_queued("lstm", 1)  # before the first has answered
        comparison.cancel()
        own_whole.wait_until_queued("classifier", 0)
        own_whole.wait_until_queued("lstm", 0)
        one.open()
        other.open()
        assert all(call.result() for call in calls)
        assert (one.batch_sizes, other.batch_sizes) == ([1], [1])
    assert own_whole.infer(request("gather", index=index(1)))["value"].tolist() == [10]


def test_the_deadline_of_a_comparison_holds_for_every_model(own: LiveServer) -> None:
    with own.gates.closed("classifier") as gate:
        call = own.classifier.Classify.future(image(0))
        gate.wait_until_computing()
        assert failure(lambda: compare(own, timeout=0.5))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        own.wait_until_queued("classifier", 0)
        gate.open()
        assert call.result()
        assert gate.batch_sizes == [1]
