import json
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from PIL import Image

from hangtag.protos import classifier_pb2 as pb
from tests.kit import onnx_models, shipped
from tests.kit.live import LiveServer, failure, index, request
from tests.kit.over_http import live_server
from tests.kit.picture_files import encoded
from tests.kit.waiting import TIMEOUT

pytestmark = pytest.mark.slow

GARMENTS = Path(__file__).parents[5] / "examples/garments"
PIXELS = np.random.default_rng(5).integers(0, 256, (28, 28), dtype=np.uint8)
RAW = pb.RawImage(height=28, width=28, pixels=PIXELS.tobytes())


def classify(live: LiveServer, **fields: Any) -> pb.ClassifyResponse:
    sent = pb.ClassifyRequest(**{"model_name": "classifier", **fields})
    response: pb.ClassifyResponse = live.classifier.Classify(sent, timeout=TIMEOUT)
    return response


def probabilities(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    logits = onnx_models.logits_of(pixels[np.newaxis])[0]
    exponents = np.exp(logits - logits.max())
    result: np.ndarray[Any, np.dtype[np.float32]] = exponents / exponents.sum()
    return result


def assert_is_the_best_of(response: pb.ClassifyResponse, expected: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    best = np.argsort(-expected)[: len(response.labels)]
    assert [score.index for score in response.labels] == best.tolist()
    assert [score.label for score in response.labels] == [onnx_models.LABELS[place] for place in best]
    np.testing.assert_allclose([score.probability for score in response.labels], expected[best], rtol=1e-3)


@pytest.mark.parametrize("image", [{"raw": RAW}, {"encoded": encoded(PIXELS)}], ids=["raw", "encoded"])
def test_the_most_probable_labels_come_first(live: LiveServer, image: dict[str, Any]) -> None:
    response = classify(live, **image)
    assert (response.model_name, response.model_version) == ("classifier", "12")
    assert len(response.labels) == 3
    assert_is_the_best_of(response, probabilities(PIXELS))


def test_the_answer_says_what_it_cost(live: LiveServer) -> None:
    timings = classify(live, encoded=encoded(PIXELS)).timings
    assert timings.preprocess_ns > 0
    assert timings.compute_ns > 0
    assert timings.batch_size == 1


@pytest.mark.parametrize(("top_k", "count"), [(0, 3), (1, 1), (10, 10), (11, 10), (2**32 - 1, 10)])
def test_top_k(live: LiveServer, top_k: int, count: int) -> None:
    response = classify(live, raw=RAW, top_k=top_k)
    assert len(response.labels) == count
    assert_is_the_best_of(response, probabilities(PIXELS))


@pytest.mark.parametrize("path", sorted(GARMENTS.glob("*-1.png")), ids=lambda path: path.stem)
def test_the_shipped_model_on_the_shipped_garments(live: LiveServer, path: Path) -> None:
    response = classify(live, model_name="lstm", encoded=path.read_bytes(), top_k=10)
    metadata = {entry.key: entry.value for entry in onnx.load(shipped.latest("lstm")).metadata_props}
    labels = json.loads(metadata["hangtag.labels"])
    pixels = np.asarray(Image.open(path))[np.newaxis]
    expected = live.infer(request("lstm", image=pixels))["probabilities"][0]
    assert {score.label: score.probability for score in response.labels} == pytest.approx(
        dict(zip(labels, expected.tolist(), strict=True)), rel=1e-4
    )


def test_a_photo_is_converted(live: LiveServer) -> None:
    photo = Image.new("RGB", (300, 400), "white")
    photo.paste("black", (100, 100, 200, 300))
    shirt = np.zeros((28, 28), np.uint8)
    response = classify(live, encoded=encoded(photo))
    assert response.timings.preprocess_ns > 0
    assert [score.index for score in response.labels] != np.argsort(-probabilities(shirt))[:3].tolist()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no image in the request; set `encoded` (a PNG, JPEG or WebP file) or `raw`"),
        ({"encoded": b""}, "the image is empty (0 bytes)"),
        ({"encoded": b"GIF89a"}, "the image is not a PNG, JPEG or WebP file"),
        ({"encoded": encoded(PIXELS)[:200]}, "the image cannot be decoded and seems damaged: "),
        ({"encoded": b"\x89PNG\r\n\x1a\n"}, "the image cannot be decoded and seems damaged: its header is wrong"),
        ({"raw": pb.RawImage()}, "raw pixels must be 28 x 28, 784 bytes; got 0 x 0 and 0 bytes"),
        ({"raw": pb.RawImage(height=28, width=28, pixels=bytes(783))}, "got 28 x 28 and 783 bytes"),
        ({"raw": pb.RawImage(height=14, width=56, pixels=bytes(784))}, "got 14 x 56 and 784 bytes"),
        ({"raw": pb.RawImage(height=2**32 - 1, width=2**32 - 1)}, "got 4294967295 x 4294967295 and 0 bytes"),
    ],
)
def test_an_unusable_image_is_refused(live: LiveServer, fields: dict[str, Any], message: str) -> None:
    code, details = failure(lambda: classify(live, **fields))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message in details


@pytest.mark.parametrize("model", ["two_inputs", "text", "unbatched", "gather"])
def test_the_error_for_a_model_that_is_not_a_classifier_says_what_to_call(live: LiveServer, model: str) -> None:
    code, message = failure(lambda: classify(live, model_name=model, raw=RAW))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith(f"'{model}' is not a classifier of images")
    assert message.endswith("call it for inference instead")


@pytest.mark.parametrize("labels", ["[]", '["too", "few"]'])
def test_a_model_whose_labels_do_not_match_is_not_a_classifier(tmp_path: Path, labels: str) -> None:
    onnx_models.publish(tmp_path, "m", onnx_models.classifier(labels=labels))
    with live_server("auto", tmp_path) as live:
        code, message = failure(lambda: classify(live, model_name="m", raw=RAW))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "is not a classifier of images" in message


def test_half_precision_probabilities_are_accepted(tmp_path: Path) -> None:
    network = onnx_models.model(
        [
            onnx.helper.make_node("Cast", ["image"], ["halves"], to=onnx.TensorProto.FLOAT16),
            onnx.helper.make_node("Reshape", ["halves", "shape"], ["probabilities"]),
        ],
        {"image": (onnx.TensorProto.UINT8, ["batch", 1, 2])},
        {"probabilities": (onnx.TensorProto.FLOAT16, ["batch", 2])},
        {"shape": np.array([-1, 2], np.int64)},
        {"hangtag.labels": '["no", "yes"]'},
    )
    onnx_models.publish(tmp_path, "m", network)
    with live_server("auto", tmp_path) as live:
        response = classify(live, model_name="m", raw=pb.RawImage(height=1, width=2, pixels=b"\1\3"))
        assert [(score.label, score.probability) for score in response.labels] == [("yes", 3), ("no", 1)]


def test_unknown_models_and_versions_are_not_found(live: LiveServer) -> None:
    for fields in ({"model_name": "nobody"}, {"model_version": "1"}):
        assert failure(lambda f=fields: classify(live, raw=RAW, **f))[0] is grpc.StatusCode.NOT_FOUND  # type: ignore[misc]


def test_a_classification_shares_a_batch_with_inferences(own: LiveServer) -> None:
    with own.gates.closed("classifier") as gate:
        images = PIXELS[np.newaxis]
        first = own.inference.ModelInfer.future(request("classifier", image=images), timeout=TIMEOUT)
        gate.wait_until_computing()
        joined = own.inference.ModelInfer.future(request("classifier", image=255 - images), timeout=TIMEOUT)
        sent = pb.ClassifyRequest(model_name="classifier", raw=RAW)
        classified = own.classifier.Classify.future(sent, timeout=TIMEOUT)
        own.wait_until_queued("classifier", 2)
        gate.open()
        assert first.result()
        assert joined.result()
        assert classified.result().timings.batch_size == 2
        assert_is_the_best_of(classified.result(), probabilities(PIXELS))


def test_a_full_queue_has_the_same_status_as_for_model_infer(own: LiveServer) -> None:
    with own.gates.closed("classifier") as gate:
        sent = request("classifier", image=PIXELS[np.newaxis])
        calls = [own.inference.ModelInfer.future(sent, timeout=TIMEOUT)]
        gate.wait_until_computing()
        calls += [own.inference.ModelInfer.future(sent, timeout=TIMEOUT) for _ in range(4)]
        own.wait_until_queued("classifier", 4)
        assert failure(lambda: classify(own, raw=RAW))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert failure(lambda: classify(own, model_name="gather", raw=RAW))[0] is grpc.StatusCode.INVALID_ARGUMENT
        gate.open()
        assert all(call.result() for call in calls)
    assert own.infer(request("gather", index=index(1)))["value"].tolist() == [10]
