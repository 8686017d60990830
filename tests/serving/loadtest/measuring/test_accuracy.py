"""With --accuracy, a load test compares the server's accuracy with the accuracy that the model's file records."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.image_spec import ImageSpec
from hangtag.training.data.pictures import held_out
from tests.kit.fake_server import FakeServer
from tests.serving.loadtest.command import LOOP, Loadtest


def answer(
    request: pb.ModelInferRequest, *, logits_alone: bool = False, typed: bool = False, cut: int = 0
) -> pb.ModelInferResponse:
    """The class in the first pixel gets the highest probability and the lowest logit. Omit the last ``cut`` bytes."""
    pixels = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(list(request.inputs[0].shape))[:, 0, 0]
    highest = np.eye(10, dtype=np.float32)[pixels % 10]
    response = pb.ModelInferResponse(model_name=request.model_name)
    outputs = {"logits": -highest} | ({} if logits_alone else {"probabilities": highest})
    for name, values in outputs.items():
        output = response.outputs.add(name=name, datatype="FP32", shape=values.shape)
        if typed:
            output.contents.fp32_contents.extend(values.ravel().tolist())
        else:
            response.raw_output_contents.append(values.tobytes())
    if cut:
        response.raw_output_contents[-1] = response.raw_output_contents[-1][:-cut]
    return response


def labelled(folder: Path, correct: int, total: int) -> tuple[str, Path]:
    """Option --samples with a file of images. In exactly ``correct`` images, the first pixel's value is the label."""
    labels = np.arange(total) % 10
    images = np.zeros((total, 28, 28), np.uint8)
    images[:, 0, 0] = (labels + (np.arange(total) >= correct)) % 10
    np.savez(folder / "labelled.npz", image=images, labels=labels)
    return "--samples", folder / "labelled.npz"


@pytest.mark.parametrize("way", ["probabilities", "logits alone", "typed"])
def test_every_labelled_sample_is_sent_once_and_counted(
    server: FakeServer, loadtest: Loadtest, tmp_path: Path, way: str
) -> None:
    """A batch has 50 samples, unless the model accepts only smaller batches."""
    server.answer = lambda request: answer(request, logits_alone=way == "logits alone", typed=way == "typed")
    server.configs = {"slow": pb.ModelConfig(max_batch_size=64)}
    samples = labelled(tmp_path, 108, 120)
    measured = loadtest("fast", "slow", *LOOP, *samples, "--accuracy")
    one_by_one, in_batches = (target["accuracy"] for target in measured.document["targets"])
    # One logit is lower than the others, which are equal. The answer is the first of these, so class 0 or 1. Only
    # image 110 is classified correctly.
    expected = 1 if way == "logits alone" else 108
    assert one_by_one == in_batches
    assert (in_batches["correct"], in_batches["total"], in_batches["expected"]) == (expected, 120, None)
    theirs = binomtest(expected, 120).proportion_ci(method="wilson")
    assert (in_batches["low"], in_batches["high"]) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert f"slow classifies {expected / 120:.2%} of 120 samples (95 %: {theirs.low:.2%} to" in measured.text
    sizes = Counter(request.inputs[0].shape[0] for request in server.requests if request.model_name == "slow")
    assert (sizes[50], sizes[20]) == (2, 1)
    counted = Counter(request.raw_input_contents[0] for request in server.requests if request.model_name == "fast")
    assert counted.total() == 120 + 1 + measured.run("fast")["total"]["queries"]


LABELS = [*"0123456789"]


def photos(folder: Path, correct: int, total: int) -> tuple[str, Path]:
    """Option --samples with a folder per label. The first pixel is the label in the first ``correct`` pictures only."""
    for number in range(total):
        picture = np.full((28, 28), number, np.uint8)
        picture[0, 0] = (number + (number >= correct)) % 10
        (folder / LABELS[number % 10]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / LABELS[number % 10] / f"{number}.png")
    return "--samples", folder


def test_an_accuracy_below_99_percent_of_the_files_makes_the_test_invalid_where_the_samples_are_the_same(
    server: FakeServer, loadtest: Loadtest, tmp_path: Path
) -> None:
    """If the true accuracy is 95 %, chance explains 9 right answers out of 10, but not 160 out of 200."""
    few, many = photos(tmp_path / "few", 9, 10), photos(tmp_path / "many" / "test", 160, 200)
    photos(tmp_path / "many" / "train", 0, 1)
    digests = [held_out(f"folder:{folder}", ImageSpec(28, 28), LABELS).digest for folder in (few[1], many[1].parent)]

    def config(accuracy: str, digest: str) -> pb.ModelConfig:
        values = {"labels": json.dumps(LABELS), "test_accuracy": accuracy, "data_digest": digest}
        parameters = {f"hangtag.{key}": pb.ModelParameter(string_value=value) for key, value in values.items()}
        return pb.ModelConfig(max_batch_size=1000, parameters=parameters)

    server.answer = answer
    server.inputs["harder"] = server.inputs["fast"]
    server.configs = {"slow": config("0.95", digests[0])}
    assert loadtest("slow", *LOOP, "--accuracy", *few).document["problems"] == []
    server.configs = {
        "fast": config("0.8", digests[1]), "slow": config("0.95", digests[1]), "harder": config("0.95", digests[0])
    }  # fmt: skip
    measured = loadtest("fast", "slow", "harder", *LOOP, "--accuracy", *many)
    (problem,) = measured.document["problems"]
    assert problem.startswith("slow: ")
    assert all(figure in problem for figure in ("80.00%", "95.00%"))
    assert f"INVALID {problem}" in measured.text
    accuracies = [target["accuracy"] for target in measured.document["targets"]]
    assert [(each["expected"], each["comparable"]) for each in accuracies] == [(0.8, True), (0.95, True), (0.95, False)]
    notes = re.findall(
        r"(\w+) classifies [^.]*\.[^.]*\.[^.]*\.[^.]*\. The model's file records 95.00% for other", measured.text
    )
    assert notes == ["harder"]


@pytest.mark.parametrize(
    ("case", "facts"),
    [
        ("no labels", "no labels --samples"),
        ("several labels", "fast set of labels"),
        ("no scores", "fast no output"),
        ("cut", "fast Open Inference Protocol"),
        ("one too few", "fast Open Inference Protocol"),
        ("failing", "INTERNAL broken"),
    ],
)
def test_accuracy_that_cannot_be_measured_exits_with_1_and_why(
    server: FakeServer, loadtest: Loadtest, tmp_path: Path, case: str, facts: str
) -> None:
    def one_too_few(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        response = answer(request, cut=40)
        response.outputs[1].shape[0] -= 1
        return response

    answers: dict[str, Callable[[pb.ModelInferRequest], pb.ModelInferResponse]] = {
        "no scores": lambda request: pb.ModelInferResponse(),
        "cut": lambda request: answer(request, cut=1),
        "one too few": one_too_few,
    }
    server.answer = answers.get(case, answer)
    if case == "several labels":
        task = {"hangtag.task": pb.ModelParameter(string_value="multi_label")}
        server.configs = {"fast": pb.ModelConfig(max_batch_size=64, parameters=task)}
    if case == "failing":
        internal = grpc.StatusCode.INTERNAL
        server.behaviour = lambda number, context: context.abort(internal, "broken") if number == 3 else None
    samples = () if case == "no labels" else labelled(tmp_path, 10, 10)
    loadtest.refused(facts, "fast", *LOOP, "--accuracy", *samples)
