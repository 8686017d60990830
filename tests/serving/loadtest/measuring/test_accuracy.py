"""--accuracy and --check-caching: whether the server computes the answers that the model's file promises."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from scipy.stats import binomtest

from hangtag.protos import inference_pb2 as pb
from tests.kit.fake_server import FakeServer, Tensor
from tests.kit.waiting import pass_time
from tests.serving.loadtest.command import LOOP, Loadtest


def answer(
    request: pb.ModelInferRequest, *, logits_alone: bool = False, typed: bool = False, cut: int = 0
) -> pb.ModelInferResponse:
    """Probabilities, highest at the first pixel's value, and logits that are lowest there.

    ``cut`` bytes are missing at the end of the last.
    """
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
    """Option --samples with images whose first pixel is their label, but for all after the first ``correct``."""
    labels = np.arange(total) % 10
    images = np.zeros((total, 28, 28), np.uint8)
    images[:, 0, 0] = (labels + (np.arange(total) >= correct)) % 10
    np.savez(folder / "labelled.npz", image=images, labels=labels)
    return "--samples", folder / "labelled.npz"


@pytest.mark.parametrize("way", ["probabilities", "logits alone", "typed"])
def test_every_labelled_sample_is_sent_once_and_counted(
    server: FakeServer, loadtest: Loadtest, tmp_path: Path, way: str
) -> None:
    """In batches of 50, or as large as the model takes."""
    server.answer = lambda request: answer(request, logits_alone=way == "logits alone", typed=way == "typed")
    server.configs = {"slow": pb.ModelConfig(max_batch_size=64)}
    samples = labelled(tmp_path, 108, 120)
    measured = loadtest("fast", "slow", *LOOP, *samples, "--accuracy")
    one_by_one, in_batches = (target["accuracy"] for target in measured.document["targets"])
    # The highest logit is the first class but where that is the lowest: right for image 110 alone.
    expected = 1 if way == "logits alone" else 108
    assert one_by_one == in_batches
    assert (in_batches["correct"], in_batches["total"], in_batches["expected"]) == (expected, 120, None)
    theirs = binomtest(expected, 120).proportion_ci(method="wilson")
    assert (in_batches["low"], in_batches["high"]) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert f"slow is right on {expected / 120:.2%} of 120 samples (95 %: {theirs.low:.2%} to" in measured.text
    sizes = Counter(request.inputs[0].shape[0] for request in server.requests if request.model_name == "slow")
    assert (sizes[50], sizes[20]) == (2, 1)
    counted = Counter(request.raw_input_contents[0] for request in server.requests if request.model_name == "fast")
    assert counted.total() == 120 + 1 + measured.run("fast")["total"]["queries"]


def test_an_accuracy_below_99_percent_of_the_files_makes_the_test_invalid(
    server: FakeServer, loadtest: Loadtest, tmp_path: Path
) -> None:
    """And not by chance: 9 of 10 right answers may come of 95 %, and 891 of 1,000 do not."""
    recorded = {"fast": "0.9", "slow": "0.95"}
    server.configs = {
        name: pb.ModelConfig(
            max_batch_size=1000, parameters={"hangtag.test_accuracy": pb.ModelParameter(string_value=value)}
        )
        for name, value in recorded.items()
    }
    server.answer = answer
    assert loadtest("slow", *LOOP, "--accuracy", *labelled(tmp_path, 9, 10)).document["problems"] == []
    measured = loadtest("fast", "slow", *LOOP, "--accuracy", *labelled(tmp_path, 891, 1_000))
    (problem,) = measured.document["problems"]
    assert problem.startswith("slow: ")
    assert all(figure in problem for figure in ("89.10%", "95.00%"))
    assert f"INVALID {problem}" in measured.text
    assert [target["accuracy"]["expected"] for target in measured.document["targets"]] == [0.9, 0.95]


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


def test_cached_answers_are_recognised(server: FakeServer, loadtest: Loadtest, tmp_path: Path) -> None:
    """`slow` computes each answer, and `fast` remembers those that it has given."""
    known: set[bytes] = set()

    def behaviour(number: int, context: grpc.ServicerContext) -> None:
        request = server.requests[number]
        image = request.raw_input_contents[0]
        if request.model_name == "slow" or image not in known:
            known.add(image)
            pass_time(0.02)  # the time to compute an answer

    server.behaviour = behaviour
    limits = ("--concurrency", 1, "--min-duration", "300ms", "--min-query-count", 60, "--blocks", 1, "--warm-up", 0)
    page = tmp_path / "page.html"
    measured = loadtest("fast", "slow", *limits, "--check-caching", "--html", page)
    fast, slow = measured.document["caching"]
    assert (fast["target"], slow["target"]) == ("fast", "slow")
    assert fast["problem"] is not None
    assert fast["speedup"]["low"] > 1.1
    assert fast["problem"] in measured.text
    assert measured.document["problems"] == [f"fast: {fast['problem']}"]
    assert slow["problem"] is None
    sentence = f"slow shows no sign of cached answers: one sample over and over is {slow['speedup']['ratio']:.2f}"
    for text in (measured.text, page.read_text()):
        assert sentence in text
        assert f"fast: {fast['problem']}." in text
    for model in ("fast", "slow"):
        calls = [request for request in server.requests if request.model_name == model]
        counts = Counter(request.raw_input_contents[0] for request in calls[: -measured.run(model)["total"]["queries"]])
        (_, most), (_, second) = counts.most_common(2)
        assert most > 20
        assert second == 1  # no cache, however large, can hold these


def test_whether_answers_are_cached_is_unknown_without_answers_or_enough_different_requests(
    server: FakeServer, loadtest: Loadtest
) -> None:
    code = grpc.StatusCode.INVALID_ARGUMENT
    server.behaviour = lambda number, context: context.abort(code, "not such values") if number else None
    measured = loadtest("fast", *LOOP, "--check-caching")
    assert "fast: whether its answers are computed is not known" in measured.document["problems"][0]
    server.behaviour = lambda number, context: None
    server.inputs["slow"] = [Tensor(name="flag", datatype="BOOL", shape=[-1, 1])]
    assert "only 1 different" in loadtest.refused("slow 96", "slow", *LOOP, "--check-caching")
