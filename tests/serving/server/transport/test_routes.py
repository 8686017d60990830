"""A cascade and a split of the shipped models over every transport, and routes that change under load."""

import random
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hangtag.protos import classifier_pb2
from hangtag.protos import inference_pb2 as pb
from tests.kit import onnx_models, shipped
from tests.kit.live import Array, LiveServer, outputs, request
from tests.kit.over_http import OVER_GRPC, inference_over_http, live_server
from tests.kit.picture_files import encoded
from tests.kit.rest import Rest, metrics
from tests.kit.shipped import latest
from tests.kit.waiting import TIMEOUT

AT_LEAST = 0.9
Images = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the models lstm and cnn, two cascades of both, and a route that splits calls between both."""
    models = tmp_path_factory.mktemp("routes")
    for name in ("lstm", "cnn"):
        (models / name).symlink_to(shipped.MODELS / name)
    for name, text in {
        "both": f'cascade = ["lstm", "cnn"]\naccept = {{output = "probabilities", at_least = {AT_LEAST}}}\n'
        'expected_sent_on = 0.25\nshadow = {model = "lstm", share = 0.01}',
        "plain": f'cascade = ["lstm", "cnn"]\naccept = {{output = "probabilities", at_least = {AT_LEAST}}}',
        "canary": 'split = {cnn = 75, lstm = 25}\nsticky = "x-user-id"\ndescription = "Chosen by hand."',
    }.items():
        onnx_models.publish_route(models, name, text)
    return models


@pytest.fixture(scope="module")
def routed(models: Path, transport: str) -> Iterator[LiveServer]:
    with live_server(transport, models, http_port=0) as live:
        yield live


@pytest.fixture(scope="module")
def images() -> Images:
    """Images of noise. A cascade accepts lstm's answer for some of them."""
    generator = np.random.default_rng(5)
    return (generator.random((16, 28, 28)) ** generator.uniform(1, 30, (16, 1, 1)) * 255).astype(np.uint8)


def member_of(live: LiveServer, sent: pb.ModelInferRequest, user: str = "") -> str:
    """Make a call, and return the names of the members that answered."""
    _, call = live.inference.ModelInfer.with_call(sent, timeout=TIMEOUT, metadata=(("x-user-id", user),))
    return str(dict(call.trailing_metadata())["hangtag-model"])


def test_each_sample_has_the_answer_of_the_member_that_the_rule_chooses(routed: LiveServer, images: Images) -> None:
    lstm, cnn = (routed.infer(request(name, image=images)) for name in ("lstm", "cnn"))
    response, call = routed.inference.ModelInfer.with_call(request("both", image=images), timeout=TIMEOUT)
    assert (response.model_name, response.model_version) == ("both", "1")
    answers = outputs(response)
    sure = lstm["probabilities"].max(axis=1) >= AT_LEAST
    assert 0 < sure.sum() < len(images), "the images are to have both kinds"
    for name in ("logits", "probabilities"):
        # Even without a route, the last bits of cnn's answers depend on the batch.
        assert (answers[name][sure] == lstm[name][sure]).all()
        np.testing.assert_allclose(answers[name][~sure], cnn[name][~sure], rtol=1e-4, atol=1e-5)
    metadata = dict(call.trailing_metadata())
    assert metadata["hangtag-model"] == "lstm,cnn"
    assert metadata["hangtag-stage"] == ",".join("1" if each else "2" for each in sure)
    assert re.fullmatch(
        rf"lstm;samples=16;queue-ns=\d+;compute-ns=\d+;batch-size=16,cnn;samples={(~sure).sum()};.*",
        metadata["hangtag-stages"],
    )
    surest = int(lstm["probabilities"].max(axis=1).argmax())
    assert member_of(routed, request("both", image=images[surest : surest + 1])) == "lstm"


def test_calls_that_share_a_batch_have_their_own_rows_and_members(models: Path, transport: str, images: Images) -> None:
    with live_server(transport, models, instances=1) as live:
        lstm, cnn = (live.infer(request(name, image=images))["probabilities"] for name in ("lstm", "cnn"))
        live.infer(request("plain", image=images[:1]))  # the server remembers how to read such a request
        with live.gates.closed("lstm") as gate:
            live.occupy(gate, request("lstm", image=images[:1]))
            calls = [live.begin(request("plain", image=image[np.newaxis])) for image in images]
            live.wait_until_queued("lstm", len(images))
            gate.open()
            answers = [outputs(call.result())["probabilities"][0] for call in calls]
        for call, answer, first, second in zip(calls, answers, lstm, cnn, strict=True):
            metadata, cost = dict(call.trailing_metadata()), r"samples=1;queue-ns=\d+;compute-ns=\d+;batch-size="
            sure = first.max() >= AT_LEAST
            assert metadata["hangtag-model"] == ("lstm" if sure else "cnn")
            assert re.fullmatch(f"lstm;{cost}16" + ("" if sure else rf",cnn;{cost}\d+"), metadata["hangtag-stages"])
            np.testing.assert_allclose(answer, first if sure else second, rtol=1e-4, atol=1e-5)
        counted = live.statistics("plain")
        assert (counted.inference_count, counted.inference_stats.success.count) == (17, 17)


def test_a_route_is_described_listed_and_ready_as_a_model_is(routed: LiveServer) -> None:
    def parameters(name: str) -> dict[str, str]:
        config = routed.inference.ModelConfig(pb.ModelConfigRequest(name=name), timeout=TIMEOUT).config
        return {key: value.string_value for key, value in config.parameters.items()}

    index = routed.inference.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=TIMEOUT)
    assert {(model.name, model.version, model.state) for model in index.models} >= {("both", "1", "READY")}
    metadata = routed.inference.ModelMetadata(pb.ModelMetadataRequest(name="both"), timeout=TIMEOUT)
    assert [output.name for output in metadata.outputs] == ["logits", "probabilities"]
    both = parameters("both")
    assert {key: both[key] for key in both if key.startswith("route")} == {
        "route": "cascade",
        "route_members": "lstm, cnn",
        "route_accept": "probabilities at_least 0.9",
        "route_on_overload": "answer",
        "route_expected_sent_on": "0.25",
        "route_shadow": "lstm 0.01",
    }
    assert both["file_bytes"] == str(sum(latest(name).stat().st_size for name in ("lstm", "cnn")))
    assert not {"hangtag.accuracy", "hangtag.test_accuracy"} & both.keys(), "that is the first member's"
    assert both["hangtag.image"] == parameters("lstm")["hangtag.image"]
    photo = classifier_pb2.ClassifyRequest(model_name="both", encoded=encoded(np.zeros((40, 30), np.uint8)))
    assert routed.classifier.Classify(photo, timeout=TIMEOUT).labels
    assert parameters("canary")["route_description"] == "Chosen by hand."
    assert routed.ready("both")
    assert routed.statistics("both").name == "both"


def test_an_answer_says_that_its_member_was_not_sure_where_the_next_one_is_busy(
    models: Path, transport: str, images: Images
) -> None:
    with live_server(transport, models, max_batch_size=1, max_queue_size=1, instances=1) as live:
        alone = [live.infer(request("lstm", image=image[np.newaxis]))["probabilities"].max() for image in images]
        doubtful = images[int(np.argmin(alone))]
        raw = classifier_pb2.RawImage(height=28, width=28, pixels=doubtful.tobytes())
        sent = classifier_pb2.ClassifyRequest(model_name="both", raw=raw)
        answer = live.classifier.Classify(sent, timeout=TIMEOUT)
        assert (answer.unsure, [stage.model for stage in answer.timings.stages]) == (False, ["lstm", "cnn"])
        with live.gates.closed("cnn") as gate:
            busy = live.occupy(gate, *[request("cnn", image=images[:1])] * 2)
            answer = live.classifier.Classify(sent, timeout=TIMEOUT)
            assert (answer.unsure, [stage.model for stage in answer.timings.stages]) == (True, ["lstm"])
            gate.open()
            assert all(call.result() for call in busy)


def test_calls_with_one_key_go_to_one_member_and_others_by_their_shares(routed: LiveServer, images: Images) -> None:
    sent = request("canary", image=images[:1])
    users = {user: member_of(routed, sent, user) for user in map(str, range(40))}
    assert set(users.values()) == {"lstm", "cnn"}
    assert {user: member_of(routed, sent, user) for user in users} == users
    with Rest(routed.server.http_address) as rest:  # over HTTP too, a user always reaches the same member
        assert {user: rest.infer(sent, x_user_id=user).headers["hangtag-model"] for user in users} == users
    counts = Counter(member_of(routed, sent) for _ in range(60))
    assert 25 < counts["cnn"] < 60  # the probability of any other count is 1 in 100,000,000


def test_metrics_count_samples_by_member_and_stage_and_the_queues_of_models_alone(
    routed: LiveServer, images: Images
) -> None:
    def numbers(pattern: str) -> list[Any]:
        return re.findall(pattern, metrics(routed.server.http_address))

    def samples() -> dict[tuple[str, str], float]:
        pattern = r'hangtag_route_samples_total\{member="(\w+)",model="both",stage="(\d)",version="1"\} ([\d.]+)'
        return {(member, stage): float(value) for member, stage, value in numbers(pattern)}

    before = samples()
    routed.infer(request("both", image=images))
    after = samples()
    assert after["lstm", "1"] - before.get(("lstm", "1"), 0) == 16
    assert 0 < after["cnn", "2"] - before.get(("cnn", "2"), 0) < 16
    assert set(numbers(r'hangtag_max_queue_size\{model="([\w-]+)"')) == {"lstm", "cnn"}


MARKS = {"fast": -10.0, "slow": -20.0, "other": -30.0}
"""For each model, the second column of its answers. The first column repeats the sample."""
FILES = (
    'cascade = ["fast", "slow"]\naccept = {output = "y", at_least = 0.5}',
    'cascade = ["fast", "slow"]\naccept = {output = "y", at_least = 0.9}\non_overload = "refuse"',
    'cascade = ["fast", "other", "slow"]\naccept = {output = "y", at_least = 0.7}',
    'cascade = ["fast", "slow"]\naccept = {output = "y", margin_at_least = 0.9}\nshadow = {model = "other", share = 1}',
    'split = {slow = 50, other = 50}\nsticky = "x-user-id"',
    'split = {fast = 90, slow = 10}\nshadow = {model = "other", share = 0.5}',
    "split = {fast = 90}",
)
"""The file route.toml gets these contents one after another. The server ignores the last, which has a mistake."""
RELOADS = 60
IN_FLIGHT = 12


def publish(models: Path, name: str, version: int) -> None:
    """Publish a model x FP32 [batch, 2] -> y FP32 [batch, 2] that adds MARKS[name] to the second column."""
    text = "(float[batch, 2] x) => (float[batch, 2] y) { y = Add(x, mark) }"
    model = onnx_models.from_text(text, mark=np.array([0, MARKS[name]], np.float32))
    onnx_models.publish(models, name, model, version)


@pytest.fixture
def changing(tmp_path: Path, transport: str) -> Iterator[LiveServer]:
    for name in MARKS:
        publish(tmp_path, name, 1)
    onnx_models.publish_route(tmp_path, "route", FILES[0])
    polling: dict[str, Any] = {"http_port": 0, "model_control": "poll", "poll_seconds": 3600}
    with live_server(transport, tmp_path, max_batch_size=4, max_queue_size=4, instances=1, **polling) as live:
        yield live


def call_until(stop: threading.Event, seed: int, inference: Any) -> Counter[str]:
    """Call the route until ``stop`` is set, and check each answer. Return how many calls ended with each status."""
    draw, ends = random.Random(seed), Counter[str]()
    while not stop.is_set():
        sent = [samples(draw) for _ in range(IN_FLIGHT)]
        metadata = [(("x-user-id", draw.choice("abc")),) if draw.random() < 0.5 else () for _ in sent]
        futures = [
            inference.ModelInfer.future(request("route", x=x), timeout=TIMEOUT, metadata=each)
            for x, each in zip(sent, metadata, strict=True)
        ]
        cancelled = [future for future in futures if draw.random() < 0.1]
        for future in cancelled:
            future.cancel()
        for x, future in zip(sent, futures, strict=True):
            if future in cancelled:
                ends["CANCELLED"] += 1
            elif (error := future.exception()) is not None:
                ends[error.code().name] += 1
            else:
                ends["OK"] += 1
                check(x, outputs(future.result())["y"], dict(future.trailing_metadata()))
    return ends


def check(x: Array, y: Array, metadata: Mapping[str, str]) -> None:
    """Require that each sample has the answer of the member that the metadata names for it."""
    stages = [cost.split(";")[0] for cost in metadata["hangtag-stages"].split(",")]
    numbers = [int(number) for number in metadata["hangtag-stage"].split(",")]
    members = [stages[number - 1] for number in (numbers * len(x) if len(numbers) == 1 else numbers)]
    expected = np.stack([x[:, 0], [MARKS[member] for member in members]], axis=1)
    np.testing.assert_array_equal(y, expected.astype(np.float32), str(metadata))


def samples(draw: random.Random) -> Array:
    confidences = [draw.choice([0.1, 0.6, 0.8, 0.95]) + draw.random() / 1000 for _ in range(draw.randint(1, 4))]
    return np.array([[confidence, 0] for confidence in confidences], np.float32)


@OVER_GRPC
def test_reloads_under_load_lose_and_double_no_call(changing: LiveServer, tmp_path: Path) -> None:
    """The test calls the route over gRPC and over HTTP at the same time, so it need not run for HTTP alone."""
    draw = random.Random(0)
    versions = dict.fromkeys(MARKS, 1)
    file = tmp_path / "route/route.toml"
    over_http = inference_over_http(changing.server.http_address)
    stop = threading.Event()
    with ThreadPoolExecutor() as pool:
        stubs = (changing.inference, changing.inference, over_http, over_http)
        callers = [pool.submit(call_until, stop, seed, stub) for seed, stub in enumerate(stubs)]
        for number in range(RELOADS):
            file.unlink()
            file.write_text(FILES[number % len(FILES)])
            if number % 5 == 0:
                name = draw.choice(list(MARKS))
                versions[name] += 1
                publish(tmp_path, name, versions[name])
            changing.server.control.poll()
        stop.set()
        ends = sum((caller.result() for caller in callers), Counter[str]())
    assert set(ends) == {"OK", "RESOURCE_EXHAUSTED", "CANCELLED"}, ends
    statistics = changing.statistics("route").inference_stats
    assert ends["OK"] <= statistics.success.count <= ends["OK"] + ends["CANCELLED"]
    ended = statistics.success.count + statistics.fail.count
    assert ends["OK"] + ends["RESOURCE_EXHAUSTED"] <= ended <= ends.total()
