"""Classifies test images over gRPC: each shipped model reaches the accuracy that its file states.

`hangtag models verify`, which tests/hangtag/commands runs, finds the stated accuracy on the whole test set.
"""

import math

import numpy as np
import pytest

from hangtag.serving.client import Client
from hangtag.serving.model_repository import ModelFile, serving_versions
from hangtag.serving.server.engine.routes import route_file
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.data.fashion_mnist import LABELS, Split
from tests.e2e.processes import ROOT, ServerProcess

pytestmark = pytest.mark.slow

MODELS = serving_versions(ROOT / "models")
BATCH_SIZE = 64
IMAGES = 512
"""The first images of the test set; their accuracy differs by chance from that of all, which the file states."""


@pytest.fixture(scope="module", params=MODELS, ids=lambda model: model.name)
def model(request: pytest.FixtureRequest) -> ModelFile:
    model: ModelFile = request.param
    return model


@pytest.fixture(scope="module")
def runtime(model: ModelFile) -> Runtime:
    """The model file in ONNX Runtime, without a server."""
    return Runtime(model.path, provider="cpu", threads=2)


def test_served_accuracy_is_that_of_the_file(
    model: ModelFile, runtime: Runtime, server: ServerProcess, garments: Split
) -> None:
    few = garments.first(IMAGES)
    batches = [{"image": few.images[start : start + BATCH_SIZE]} for start in range(0, len(few), BATCH_SIZE)]
    with Client(server.address, timeout=60) as client:
        served = np.concatenate([client.infer(model.name, batch)["probabilities"].argmax(axis=1) for batch in batches])
    assert len(served) == len(few)
    accuracy, stated = float((served == few.classes).mean()), float(runtime.signature.metadata["test_accuracy"])
    standard_error = math.sqrt(stated * (1 - stated) / len(few))
    assert accuracy == pytest.approx(stated, abs=3 * standard_error)
    local = np.concatenate([runtime.run(batch)["probabilities"].argmax(axis=1) for batch in batches])
    assert np.flatnonzero(served != local).tolist() == []


def test_the_shipped_route_takes_lstm_s_answer_where_it_is_sure_and_else_cnn_s(
    server: ServerProcess, garments: Split
) -> None:
    settings = route_file.read(ROOT / "models/fast-and-accurate/route.toml")
    assert isinstance(settings, route_file.CascadeSettings)
    images = garments.images[:BATCH_SIZE]
    with Client(server.address, timeout=60) as client:
        lstm, cnn, both = (
            client.infer(name, {"image": images})["probabilities"] for name in ("lstm", "cnn", "fast-and-accurate")
        )
    sure = lstm.max(axis=1) >= settings.acceptance.bound
    assert 0.7 < sure.mean() < 1, "about a fifth of the images goes on"
    np.testing.assert_allclose(both, np.where(sure[:, np.newaxis], lstm, cnn), rtol=1e-4, atol=1e-5)


def test_classify_gives_the_same_labels(
    model: ModelFile, runtime: Runtime, server: ServerProcess, garments: Split
) -> None:
    """One image per call: the first and the last 30 of the test set."""
    images = np.concatenate([garments.images[:30], garments.images[-30:]])
    expected = runtime.run({"image": images})["probabilities"]
    with Client(server.address, timeout=60) as client:
        answers = [client.classify(image, model.name, top_k=10) for image in images]
    for answer, probabilities in zip(answers, expected, strict=True):
        assert (answer.model, answer.version) == (model.name, str(model.version))
        assert answer.labels[0].name == LABELS[probabilities.argmax()]
        served = np.zeros(10)
        for label in answer.labels:
            assert LABELS[label.index] == label.name
            served[label.index] = label.probability
        np.testing.assert_allclose(served, probabilities, atol=1e-5)


def test_every_shipped_file_states_its_accuracy_and_labels(runtime: Runtime) -> None:
    metadata = runtime.signature.metadata
    assert float(metadata["validation_accuracy"]) > 0.89
    assert runtime.signature.labels == LABELS
