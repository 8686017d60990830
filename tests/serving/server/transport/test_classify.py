"""Classify, ClassifyStream and Compare answer pictures with the labels of one or several models."""

import json
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
import structlog.testing

from hangtag.protos import classifier_pb2 as pb
from tests.kit import onnx_label_sets, onnx_models
from tests.kit.conversation import Conversation
from tests.kit.live import Array, LiveServer, failure, index, request
from tests.kit.over_http import HTTP, OVER_GRPC, live_server
from tests.kit.picture_files import encoded
from tests.kit.waiting import TIMEOUT

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
FULL, LATE = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED
PIXELS = np.random.default_rng(7).integers(0, 256, (6, 28, 28), dtype=np.uint8)


def raw(pixels: Array) -> pb.RawImage:
    height, width = pixels.shape
    return pb.RawImage(height=height, width=width, pixels=pixels.tobytes())


RAW = raw(PIXELS[0])


def image(place: int, **fields: Any) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(**{"model_name": "classifier", "raw": raw(PIXELS[place]), "id": f"{place}", **fields})


def classify(live: LiveServer, **fields: Any) -> pb.ClassifyResponse:
    sent = pb.ClassifyRequest(**{"model_name": "classifier", **fields})
    response: pb.ClassifyResponse = live.classifier.Classify(sent, timeout=TIMEOUT)
    return response


def compare(live: LiveServer, *models: str, timeout: float = TIMEOUT, **fields: Any) -> Any:
    """Compare these models, named NAME or NAME@VERSION, and return their outcomes."""
    choices = [
        pb.ModelChoice(name=name, version=version) for name, _, version in (one.partition("@") for one in models)
    ]
    sent = pb.CompareRequest(models=choices, **{"raw": RAW, "top_k": 5, **fields})
    return live.classifier.Compare(sent, timeout=timeout).outcomes


def assert_same(one: pb.ClassifyResponse, other: pb.ClassifyResponse) -> None:
    """Compare two answers, except for their timings, and allow for rounding."""
    assert (one.model_name, one.model_version, one.task) == (other.model_name, other.model_version, other.task)
    assert [score.label for score in one.labels] == [score.label for score in other.labels]
    np.testing.assert_allclose([s.probability for s in one.labels], [s.probability for s in other.labels], rtol=1e-4)


def assert_is_the_best_of(response: pb.ClassifyResponse, pixels: Array) -> None:
    logits = onnx_models.logits_of(pixels[np.newaxis])[0]
    exponents = np.exp(logits - logits.max())
    best = np.argsort(-logits)[: len(response.labels)]
    assert [score.index for score in response.labels] == best.tolist()
    assert [score.label for score in response.labels] == [onnx_models.LABELS[place] for place in best]
    expected = (exponents / exponents.sum())[best]
    np.testing.assert_allclose([score.probability for score in response.labels], expected, rtol=1e-3)


def test_the_log_names_the_model_that_could_not_classify(own: LiveServer) -> None:
    with structlog.testing.capture_logs() as log, own.gates.failing("classifier"):
        assert failure(lambda: classify(own, raw=RAW))[0] is grpc.StatusCode.INTERNAL
    (line,) = [line for line in log if line["event"] == "request failed"]
    assert line["model"] == "classifier"


def test_the_most_probable_labels_come_first_as_many_as_requested(live: LiveServer) -> None:
    for picture in ({"raw": RAW}, {"encoded": encoded(PIXELS[0])}):
        for top_k, count in ((0, 3), (1, 1), (10, 10), (11, 10), (2**32 - 1, 10)):
            response = classify(live, top_k=top_k, **picture)
            assert (response.model_name, response.model_version) == ("classifier", "12")
            assert len(response.labels) == count
            assert_is_the_best_of(response, PIXELS[0])
    assert response.timings.preprocess_ns > 0
    assert response.timings.compute_ns > 0
    assert response.timings.batch_size == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoded": b""}, "the image is empty (0 bytes)"),
        ({"encoded": b"GIF89a"}, "the image is not a PNG, JPEG or WebP file"),
        ({"encoded": encoded(PIXELS[0])[:200]}, "the image cannot be decoded and seems damaged: "),
        ({"encoded": b"\x89PNG\r\n\x1a\n"}, "the image cannot be decoded and seems damaged: its header is wrong"),
        ({"raw": pb.RawImage()}, "raw pixels must be 28 x 28, 784 bytes; the request has 0 x 0 and 0 bytes"),
        ({"raw": pb.RawImage(height=28, width=28, pixels=bytes(783))}, "the request has 28 x 28 and 783 bytes"),
        ({"raw": pb.RawImage(height=14, width=56, pixels=bytes(784))}, "the request has 14 x 56 and 784 bytes"),
        (
            {"raw": pb.RawImage(height=2**32 - 1, width=2**32 - 1)},
            "the request has 4294967295 x 4294967295 and 0 bytes",
        ),
    ],
)
def test_an_unusable_image_is_refused(live: LiveServer, fields: dict[str, Any], message: str) -> None:
    code, details = failure(lambda: classify(live, **fields))
    assert (code, message in details) == (INVALID, True), details


def test_a_model_that_is_unknown_or_not_a_classifier_is_refused(live: LiveServer) -> None:
    for fields in ({"model_name": "nobody"}, {"model_version": "1"}):
        assert failure(lambda f=fields: classify(live, raw=RAW, **f))[0] is NOT_FOUND  # type: ignore[misc]
    for model in ("two_inputs", "text", "unbatched", "gather"):
        code, message = failure(lambda name=model: classify(live, model_name=name, raw=RAW))  # type: ignore[misc]
        assert code is INVALID
        assert message.startswith(f"'{model}' does not classify images")
        assert message.endswith("call it for inference instead")


def test_a_classifier_has_labels_that_match_and_probabilities_of_any_precision(tmp_path: Path) -> None:
    halves = onnx_models.model(
        [
            onnx.helper.make_node("Cast", ["image"], ["halves"], to=onnx.TensorProto.FLOAT16),
            onnx.helper.make_node("Reshape", ["halves", "shape"], ["probabilities"]),
        ],
        {"image": (onnx.TensorProto.UINT8, ["batch", 1, 2])},
        {"probabilities": (onnx.TensorProto.FLOAT16, ["batch", 2])},
        {"shape": np.array([-1, 2], np.int64)},
        {"hangtag.labels": '["no", "yes"]'},
    )
    onnx_models.publish(tmp_path, "halves", halves)
    for name, labels in {"none": "[]", "few": '["too", "few"]'}.items():
        onnx_models.publish(tmp_path, name, onnx_models.classifier(labels=labels))
    with live_server("auto", tmp_path) as live:
        response = classify(live, model_name="halves", raw=pb.RawImage(height=1, width=2, pixels=b"\1\3"))
        assert [(score.label, score.probability) for score in response.labels] == [("yes", 3), ("no", 1)]
        for name in ("none", "few"):
            code, message = failure(lambda name=name: classify(live, model_name=name, raw=RAW))  # type: ignore[misc]
            assert (code, "does not classify images" in message) == (INVALID, True)


def test_a_classification_shares_a_batch_with_inferences_and_is_refused_by_a_full_queue(own: LiveServer) -> None:
    with own.gates.closed("classifier") as gate:
        calls = own.occupy(gate, request("classifier", image=PIXELS[:1]))
        classified = own.classifier.Classify.future(image(0), timeout=TIMEOUT)
        own.wait_until_queued("classifier", 1)
        calls += [own.begin(request("classifier", image=PIXELS[1:2])) for _ in range(3)]
        own.wait_until_queued("classifier", 4)
        assert failure(lambda: classify(own, raw=RAW))[0] is FULL
        assert failure(lambda: classify(own, model_name="gather", raw=RAW))[0] is INVALID
        gate.open()
        assert all(call.result() for call in calls)
        assert classified.result().timings.batch_size == 4
        assert_is_the_best_of(classified.result(), PIXELS[0])


@OVER_GRPC
def test_a_stream_of_images_is_answered_in_order_as_each_alone(live: LiveServer) -> None:
    sent = [image(place, top_k=place + 1) for place in range(6)]
    answers = Conversation(live.classifier.ClassifyStream, *sent).finish()
    assert [answer.id for answer in answers] == ["0", "1", "2", "3", "4", "5"]
    for answer, one in zip(answers, sent, strict=True):
        assert_same(answer.answer, live.classifier.Classify(one, timeout=TIMEOUT))
        assert answer.answer.timings.batch_size >= 1
        assert answer.answer.timings.compute_ns > 0


def test_a_comparison_answers_in_the_order_of_its_models_as_each_alone(live: LiveServer) -> None:
    """A comparison without names asks every classifier."""
    for names in (("lstm", "classifier"), ("classifier", "lstm"), ()):
        outcomes = compare(live, *names)
        assert [outcome.model_name for outcome in outcomes] == list(names or ("classifier", "lstm"))
        for outcome in outcomes:
            assert_same(outcome.answer, classify(live, raw=RAW, model_name=outcome.model_name, top_k=5))
            assert len(outcome.answer.labels) == 5


def test_a_file_is_converted_for_each_model_and_pixels_fit_those_of_their_size_only(tmp_path: Path) -> None:
    onnx_models.publish(tmp_path, "small", onnx_models.classifier())
    onnx_models.publish(tmp_path, "twin", onnx_models.classifier())
    onnx_models.publish(tmp_path, "large", onnx_label_sets.label_threshold(labels=json.dumps(onnx_models.LABELS)))
    photo = encoded(np.kron(PIXELS[1], np.ones((4, 4), np.uint8)))
    with live_server("auto", tmp_path) as live:
        for name, outcome in zip(("large", "small", "twin"), compare(live, raw=None, encoded=photo), strict=True):
            assert_same(outcome.answer, classify(live, model_name=name, encoded=photo, top_k=5))
        large, small, twin = compare(live)
        assert small.answer.labels
        assert twin.answer.labels
        assert large.failure.message.startswith("raw pixels must be 64 x 64")


def test_what_cannot_be_compared(live: LiveServer, transport: str) -> None:
    repeated = failure(lambda: compare(live, "classifier", "lstm", "classifier"))
    assert repeated == (INVALID, "model 'classifier' is given twice; name each model once")
    if transport != HTTP:  # over HTTP, the body of every request is an image
        outcomes = compare(live, "classifier", "lstm", raw=None)
        assert [outcome.failure.message.split(";")[0] for outcome in outcomes] == ["no image in the request"] * 2


def test_a_server_without_classifiers_says_so(tmp_path: Path, transport: str) -> None:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    with live_server(transport, tmp_path) as live:
        message = "no served model classifies pictures; use ModelInfer instead"
        assert failure(lambda: compare(live)) == (NOT_FOUND, message)


def test_a_comparison_queries_its_models_at_once_and_is_dropped_when_cancelled_or_late(own_whole: LiveServer) -> None:
    with own_whole.gates.closed("classifier") as one, own_whole.gates.closed("lstm") as other:
        calls = [own_whole.classifier.Classify.future(image(0, model_name=name)) for name in ("classifier", "lstm")]
        one.wait_until_computing()
        other.wait_until_computing()
        comparison = own_whole.classifier.Compare.future(pb.CompareRequest(raw=RAW), timeout=TIMEOUT)
        own_whole.wait_until_queued("classifier", 1)
        own_whole.wait_until_queued("lstm", 1)  # both models are called before either has answered
        comparison.cancel()
        own_whole.wait_until_queued("classifier", 0)
        own_whole.wait_until_queued("lstm", 0)
        assert failure(lambda: compare(own_whole, timeout=0.5))[0] is LATE
        own_whole.wait_until_queued("classifier", 0)
        own_whole.wait_until_queued("lstm", 0)
        one.open()
        other.open()
        assert all(call.result() for call in calls)
        assert (one.batch_sizes, other.batch_sizes) == ([1], [1])
    assert own_whole.infer(request("gather", index=index(1)))["value"].tolist() == [10]
