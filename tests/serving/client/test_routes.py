"""A route's answer names the models that computed it. A multi-label model's answer describes the labels."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hangtag import Classification, Client, InferenceStage, Outputs
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_label_sets, onnx_models
from tests.kit.command import invoke
from tests.kit.kinds import Kind, http_kinds
from tests.kit.other_servers import web_server
from tests.kit.server import server as running_server

PROBABILITIES = [10, 255, 20, 30, 204, 40, 50, 102, 60, 70]  # in units of 1/255


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with routes and multi-label models. Only one of the two cascades accepts its first model's answer."""
    models = tmp_path_factory.mktemp("routed")
    for name in ("first", "second"):
        onnx_models.publish(models, name, onnx_models.classifier())
    cascade = 'cascade = ["first", "second"]\naccept = {output = "probabilities", at_least = %s}'
    for name, text in {"sure": cascade % 0, "unsure": cascade % 1, "split": 'split = {"second@1" = 100}'}.items():
        onnx_models.publish_route(models, name, text)
    onnx_label_sets.publish_all(models)
    with running_server(models) as running:
        yield running


def zeros(count: int) -> dict[str, Any]:
    return {"image": np.zeros((count, 28, 28), np.uint8)}


def test_every_way_to_classify_says_which_members_computed(client: Client, garment: Path) -> None:
    image = garment.read_bytes()
    alone, compared = client.classify(image, "unsure"), client.compare(image, ["sure", "unsure", "split", "first"])
    (streamed,) = client.classify_stream([image], "unsure")
    for answer in (alone, compared["unsure"], streamed):
        assert isinstance(answer, Classification)
        assert [stage.model for stage in answer.stages] == ["first", "second"]
        assert (answer.answered_by, answer.unsure) == ("second", False)
        assert answer.queue_ms == pytest.approx(sum(stage.queue_ms for stage in answer.stages))
        assert answer.compute_ms == pytest.approx(sum(stage.compute_ms for stage in answer.stages))
        assert all(stage.compute_ms > 0 and stage.batch_size >= 1 for stage in answer.stages)
    members = {}
    for name in ("sure", "split", "first"):
        other = compared[name]
        assert isinstance(other, Classification)
        members[name] = (other.answered_by, len(other.stages))
    assert members == {"sure": ("first", 1), "split": ("second@1", 1), "first": ("first", 0)}


def test_an_inference_says_which_members_computed(client: Client) -> None:
    outputs = client.infer("unsure", zeros(3))
    assert outputs["logits"].shape == (3, 10)
    assert (outputs.model, outputs.version, outputs.answered_by) == ("unsure", "1", ("second",))
    assert [(stage.model, stage.samples) for stage in outputs.stages] == [("first", 3), ("second", 3)]
    assert all(stage.compute_ms > 0 and stage.queue_ms >= 0 and stage.batch_size >= 3 for stage in outputs.stages)
    assert (outputs.sample_stages, outputs.unsure) == ((2,), 0)
    assert outputs.queue_ms == pytest.approx(sum(stage.queue_ms for stage in outputs.stages))
    assert outputs.compute_ms == pytest.approx(sum(stage.compute_ms for stage in outputs.stages))
    split = client.infer("split", zeros(1))
    assert (split.answered_by, split.sample_stages) == (("second@1",), (1,))
    for number, streamed in enumerate(client.infer_stream("unsure", [zeros(1), zeros(2)]), start=1):
        assert isinstance(streamed, Outputs)
        assert (streamed.model, streamed.answered_by, streamed.sample_stages) == ("unsure", ("second",), (2,))
        assert [(stage.model, stage.samples) for stage in streamed.stages] == [("first", number), ("second", number)]


@http_kinds
def test_samples_that_different_members_answered_are_told_apart(kind: Kind) -> None:
    headers = {
        "hangtag-model": "first,second",
        "hangtag-stage": "1,2,1",
        "hangtag-stages": "a,b;samples=3;queue-ns=1000000;compute-ns=2500000;batch-size=8,"
        "second@1;samples=1;queue-ns=0;compute-ns=1;batch-size=1",
        "hangtag-unsure": "1",
    }
    body = json.dumps({"model_name": "both", "model_version": "1", "outputs": []}).encode()
    with web_server(lambda _: (200, headers, body)) as address, kind.open(address) as client:
        outputs = client.infer("both", zeros(3))
    assert (outputs.answered_by, outputs.sample_stages, outputs.unsure) == (("first", "second"), (1, 2, 1), 1)
    assert outputs.stages[0] == InferenceStage("a,b", 3, 1.0, 2.5, 8)
    assert outputs.stages[1].model == "second@1"
    assert (outputs.queue_ms, outputs.compute_ms, outputs.batch_size) == (None, None, None)


def test_a_classification_may_be_a_set_of_labels_or_have_distances(client: Client) -> None:
    answer = client.classify(onnx_label_sets.image(PROBABILITIES, [4, 1, 7, 0], 255), "path")
    assert (answer.task, answer.path_probability) == ("multi_label", 1.0)
    assert [label.index for label in answer.labels] == [4, 1, 7, 0]
    assert {label.distance for label in answer.labels} == {None}
    assert client.classify(onnx_label_sets.image(PROBABILITIES), "half").path_probability is None
    rivals = client.classify(onnx_label_sets.image(PROBABILITIES), "rivals")
    assert rivals.task == "single_label"
    assert [label.distance for label in rivals.labels] == pytest.approx([0, 0.3, 0.6])


def classify(address: str, image: Path, model: str, *options: str) -> str:
    result = invoke("classify", "--server", address, image, "--model", model, *options, columns=120)
    assert "Error" not in result.stderr  # the server in this process also logs to stderr
    return result.stdout


def test_the_command_says_who_answered(server: Server, garment: Path) -> None:
    shown = classify(server.address, garment, "unsure")
    assert all(fact in shown for fact in ("unsure version 1", "answered by second", "first: ", "second: ")), shown
    assert "answered by first" in classify(server.address, garment, "sure")
    assert "answered by" not in classify(server.address, garment, "first")
    compared = classify(server.address, garment, "unsure", "--model", "first")
    assert compared.count("answered by") == compared.count("answered by second") == 1
    answer = json.loads(classify(server.address, garment, "unsure", "--json"))
    assert (answer["answered_by"], answer["unsure"]) == ("second", False)
    assert [set(stage) for stage in answer["stages"]] == [
        {"model", "samples", "queue_ms", "compute_ms", "batch_size"}
    ] * 2
    of_a_model = json.loads(classify(server.address, garment, "first", "--json"))
    assert not {"answered_by", "unsure", "stages"} & of_a_model.keys()


def test_the_command_marks_an_answer_for_want_of_time(garment: Path) -> None:
    timings = {"stages": [{"model": "first", "queue_ns": "250000", "compute_ns": "1000000", "batch_size": 4}]}
    labels = [{"label": "Bag", "probability": 0.5, "index": 8}]
    answer = {"model_name": "route", "model_version": "1", "unsure": True, "labels": labels, "timings": timings}
    with web_server(lambda _: (200, {}, json.dumps(answer).encode())) as address:
        assert "answered by first, which was not sure" in classify(f"http://{address}", garment, "route")


@pytest.mark.parametrize(
    ("model", "path", "options", "title", "rows"),
    [
        (
            "path",
            [4, 1, 7],
            (),
            "outfit.png: 3 labels; 20.00% for the whole set",
            ["80.00% label 4", "100.00% label 1", "40.00% label 7"],
        ),
        (
            "path",
            [4, 1, 7],
            ("--top-k", "1"),
            "outfit.png: 1 label; 20.00% for the whole set",
            ["80.00% label 4"],
        ),
        ("path", [], (), "outfit.png: 0 labels; 20.00% for the whole set", []),
        ("half", [], (), "outfit.png: 2 labels", ["100.00% label 1", "80.00% label 4"]),
        (
            "rivals",
            [],
            (),
            "outfit.png",
            ["100.00% label 1", "80.00% label 4 distance 0.30", "40.00% label 7 distance 0.60"],
        ),
    ],
    ids=["a set", "a set that is cut", "an empty set", "a set by threshold", "distances"],
)
def test_the_command_shows_sets_and_distances(
    server: Server, tmp_path: Path, model: str, path: list[int], options: tuple[str, ...], title: str, rows: list[str]
) -> None:
    file = tmp_path / "outfit.png"
    Image.fromarray(onnx_label_sets.image(PROBABILITIES, path, path_probability=51)).save(file)
    shown = classify(server.address, file, model, *options)
    lines = [" ".join(line.split()) for line in shown.splitlines() if line.strip()]
    assert lines[:-1] == [title, f"{model} version 1", *rows]


def test_the_commands_json_names_the_task(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "outfit.png"
    Image.fromarray(onnx_label_sets.image(PROBABILITIES, [4, 1], path_probability=51)).save(file)
    path = json.loads(classify(server.address, file, "path", "--json"))
    assert (path["task"], path["path_probability"]) == ("multi_label", pytest.approx(0.2))
    assert path["labels"] == [
        {"name": "label 4", "probability": pytest.approx(0.8), "index": 4},
        {"name": "label 1", "probability": 1.0, "index": 1},
    ]
    rivals = json.loads(classify(server.address, file, "rivals", "--json", "--top-k", "2"))
    assert rivals["task"] == "single_label"
    assert "path_probability" not in rivals
    assert [label["distance"] for label in rivals["labels"]] == pytest.approx([0, 0.3])
