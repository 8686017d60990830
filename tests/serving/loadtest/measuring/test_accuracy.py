"""Accuracy through the server."""

import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
from scipy.stats import binomtest

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.client import ClientError
from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.errors import SampleError, TargetError
from hangtag.serving.loadtest.measuring import accuracy
from hangtag.serving.loadtest.samples import SampleLibrary, load
from hangtag.serving.loadtest.sut.probe import Probe
from tests.serving.loadtest.builders import description, targets
from tests.serving.loadtest.fake_server import FakeServer, metadata


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """120 images whose first pixel is their label, except in every tenth image."""
    labels = np.arange(120) % 10
    images = np.zeros((120, 28, 28), np.uint8)
    images[:, 0, 0] = labels
    images[::10, 0, 0] = 9
    np.savez(tmp_path / "labelled.npz", image=images, labels=labels)
    return tmp_path / "labelled.npz"


def by_first_pixel(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """Probabilities, highest at the first pixel's value, and logits that are lowest there."""
    shape = list(request.inputs[0].shape)
    pixels = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(shape)[:, 0, 0]
    scores = np.eye(10, dtype=np.float32)[pixels]
    response = pb.ModelInferResponse(model_name=request.model_name)
    for name, values in (("logits", -scores), ("probabilities", scores)):
        response.outputs.add(name=name, datatype="FP32", shape=scores.shape)
        response.raw_output_contents.append(values.tobytes())
    return response


def measure(
    server: FakeServer, path: Path | None, seen: list[accuracy.AccuracyProgress] | None = None, **parameters: str
) -> accuracy.Accuracy | None:
    (target,) = targets("fast", address=server.address)
    library: SampleLibrary = load(target, metadata("fast"), 1, 0, path)
    with Probe(server.address, Credentials()) as probe:
        described = description(target, **parameters)
        return accuracy.measure(
            library, described, probe, 5.0, threading.Event(), (seen if seen is not None else []).append
        )


def test_every_sample_is_sent_once_and_counted(server: FakeServer, labelled: Path) -> None:
    server.answer = by_first_pixel
    seen: list[accuracy.AccuracyProgress] = []
    result = measure(server, labelled, seen)
    assert result == accuracy.Accuracy(108, 120)
    assert [(at.done, at.total) for at in seen] == [(50, 120), (100, 120), (120, 120)]
    assert seen[-1] == accuracy.AccuracyProgress("fast", 108, 120, 120)
    assert sum(request.inputs[0].shape[0] for request in server.requests) == 120
    assert max(request.inputs[0].shape[0] for request in server.requests) == accuracy.BATCH_SIZE


def test_typed_contents_are_read_too(server: FakeServer, labelled: Path) -> None:
    def typed(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        response = by_first_pixel(request)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
            output.contents.fp32_contents.extend(np.frombuffer(raw, np.float32).tolist())
        del response.raw_output_contents[:]
        return response

    server.answer = typed
    assert measure(server, labelled) == accuracy.Accuracy(108, 120)


def test_accuracy_needs_labels_and_one_answer(server: FakeServer, labelled: Path) -> None:
    with pytest.raises(SampleError, match="have no labels: accuracy needs --samples with an"):
        measure(server, None)
    with pytest.raises(SampleError, match="gives a set of labels, not one"):
        measure(server, labelled, None, **{"hangtag.task": "multi_label"})
    with pytest.raises(SampleError, match="has no output with one score a class"):
        measure(server, labelled)  # The server answers without any output.


def test_answers_that_are_not_of_the_protocol_end_the_accuracy_pass(server: FakeServer, labelled: Path) -> None:
    def cut(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        response = by_first_pixel(request)
        response.raw_output_contents[1] = response.raw_output_contents[1][:-1]
        return response

    def one_too_few(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        response = by_first_pixel(request)
        response.outputs[1].shape[0] -= 1
        response.raw_output_contents[1] = response.raw_output_contents[1][:-40]
        return response

    for server.answer in (cut, one_too_few):
        with pytest.raises(ClientError, match="the answer of fast is not of the Open Inference Protocol"):
            measure(server, labelled)


def test_a_failed_call_ends_the_accuracy_pass(server: FakeServer, labelled: Path) -> None:
    server.behaviour = lambda number, context: context.abort(grpc.StatusCode.INTERNAL, "broken")
    with pytest.raises(TargetError, match=r"INTERNAL \(broken\)"):
        measure(server, labelled)


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (9117, 10_000), (50, 50), (1, 3)])
def test_the_interval_is_wilsons(correct: int, total: int) -> None:
    low, high = accuracy.Accuracy(correct, total).interval
    theirs = binomtest(correct, total).proportion_ci(method="wilson")
    assert low == pytest.approx(theirs.low, abs=1e-12)
    assert high == pytest.approx(theirs.high, abs=1e-12)


@pytest.mark.parametrize(("correct", "off"), [(9009, False), (8999, False), (8909, True), (0, True)])
def test_an_accuracy_below_99_percent_of_the_files_is_off(correct: int, off: bool) -> None:
    assert (accuracy.Accuracy(correct, 10_000, expected=0.9).problem is not None) is off
    assert accuracy.Accuracy(correct, 10_000).problem is None
