"""What a classification by a route says about the members that computed: in the clients and in ``hangtag classify``."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from hangtag import InferenceStage, Outputs
from hangtag.cli import main
from hangtag.protos import inference_pb2
from hangtag.serving.client import Client
from hangtag.serving.client.classification import Classification, Label, Stage
from hangtag.serving.client.classify import cost_line
from hangtag.serving.client.top.activity import Activity, Metrics, Snapshot
from hangtag.serving.client.top.routes import callers
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.kinds import Kind


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A cascade that always accepts its first member's answer, one that never does, and a split."""
    models = tmp_path_factory.mktemp("routed")
    for name in ("first", "second"):
        onnx_models.publish(models, name, onnx_models.classifier())
    cascade = 'cascade = ["first", "second"]\naccept = {output = "probabilities", at_least = %s}'
    for name, text in {"sure": cascade % 0, "unsure": cascade % 1, "split": 'split = {"second@1" = 100}'}.items():
        (models / name).mkdir()
        (models / name / "route.toml").write_text(text)
    with Server(ServerConfig(models=models, port=0, http_port=0)) as running:
        yield running


@pytest.fixture
def client(kind: Kind, routed: Server) -> Iterator[Client]:
    with kind.open(kind.of(routed)) as opened:
        yield opened


def classify(server: Server, *arguments: object) -> Result:
    command = ["classify", "--server", server.address, *map(str, arguments)]
    return CliRunner().invoke(main, command, env={"COLUMNS": "120"})


def test_every_way_to_classify_says_which_members_computed(client: Client, garment: Path) -> None:
    image = garment.read_bytes()
    alone, compared = client.classify(image, "unsure"), client.compare(image, ["sure", "unsure", "split", "first"])
    (streamed,) = client.classify_stream([image], "unsure")
    for answer in (alone, compared["unsure"], streamed):
        assert isinstance(answer, Classification)
        assert [stage.model for stage in answer.stages] == ["first", "second"]
        assert answer.answered_by == "second"
        assert not answer.unsure
        assert answer.queue_ms == pytest.approx(sum(stage.queue_ms for stage in answer.stages))
        assert answer.compute_ms == pytest.approx(sum(stage.compute_ms for stage in answer.stages))
        assert all(stage.compute_ms > 0 and stage.batch_size >= 1 for stage in answer.stages)
    members = {}
    for name in ("sure", "split", "first"):
        other = compared[name]
        assert isinstance(other, Classification)
        members[name] = (other.answered_by, len(other.stages))
    assert members == {"sure": ("first", 1), "split": ("second@1", 1), "first": ("first", 0)}


def infer(client: Client, model: str, images: int) -> Outputs:
    return client.infer(model, {"image": np.zeros((images, 28, 28), np.uint8)})


def test_an_inference_says_which_members_computed(client: Client) -> None:
    outputs = infer(client, "unsure", 3)
    assert outputs["logits"].shape == (3, 10)
    assert (outputs.model, outputs.version, outputs.answered_by) == ("unsure", "1", ("second",))
    assert [(stage.model, stage.samples) for stage in outputs.stages] == [("first", 3), ("second", 3)]
    assert all(stage.compute_ms > 0 and stage.queue_ms >= 0 and stage.batch_size >= 3 for stage in outputs.stages)
    assert (outputs.sample_stages, outputs.unsure) == ((2,), 0)
    assert outputs.queue_ms == pytest.approx(sum(stage.queue_ms for stage in outputs.stages))
    assert outputs.compute_ms == pytest.approx(sum(stage.compute_ms for stage in outputs.stages))
    split = infer(client, "split", 1)
    assert (split.answered_by, split.sample_stages) == (("second@1",), (1,))


def test_an_inference_by_a_model_says_what_it_took(client: Client) -> None:
    outputs = infer(client, "first", 2)
    assert (outputs.model, outputs.version, outputs.answered_by, outputs.stages) == ("first", "1", ("first",), ())
    assert (outputs.sample_stages, outputs.unsure, outputs.batch_size) == ((), 0, 2)
    assert outputs.queue_ms is not None
    assert outputs.compute_ms is not None
    assert outputs.compute_ms > 0


def test_a_streamed_inference_says_which_members_computed(client: Client) -> None:
    requests = [{"image": np.zeros((images, 28, 28), np.uint8)} for images in (1, 2)]
    answers = list(client.infer_stream("unsure", requests))
    for number, answer in enumerate(answers, start=1):
        assert isinstance(answer, Outputs)
        assert (answer.model, answer.answered_by, answer.sample_stages) == ("unsure", ("second",), (2,))
        assert [(stage.model, stage.samples) for stage in answer.stages] == [("first", number), ("second", number)]


def test_samples_that_different_members_answered_are_told_apart() -> None:
    values = {
        "hangtag_model": "first,second",
        "hangtag_stage": "1,2,1",
        "hangtag_stages": "a,b;samples=3;queue-ns=1000000;compute-ns=2500000;batch-size=8,"
        "second@1;samples=1;queue-ns=0;compute-ns=1;batch-size=1",
        "hangtag_unsure": "1",
    }
    response = inference_pb2.ModelInferResponse(model_name="both", model_version="1")
    for key, value in values.items():
        response.parameters[key].string_param = value
    outputs = Outputs(response)
    assert (outputs.answered_by, outputs.sample_stages, outputs.unsure) == (("first", "second"), (1, 2, 1), 1)
    assert outputs.stages[0] == InferenceStage("a,b", 3, 1.0, 2.5, 8)
    assert outputs.stages[1].model == "second@1"
    assert (outputs.queue_ms, outputs.compute_ms, outputs.batch_size) == (None, None, None)


def test_classify_says_who_answered(routed: Server, garment: Path) -> None:
    shown = classify(routed, garment, "--model", "unsure").stdout
    assert "unsure version 1, answered by second: " in shown
    assert " ms computed (first " in shown
    assert "sure version 1, answered by first: " in classify(routed, garment, "--model", "sure").stdout
    assert "first version 1: " in classify(routed, garment, "--model", "first").stdout
    beside = classify(routed, garment, "--model", "unsure", "--model", "first").stdout
    assert beside.count("answered by") == beside.count("answered by second") == 1


def test_json_names_the_member_of_a_route_and_nothing_more_of_a_model(routed: Server, garment: Path) -> None:
    (line,) = classify(routed, garment, "--model", "unsure", "--json").stdout.splitlines()
    answer = json.loads(line)
    assert answer["answered_by"] == "second"
    assert answer["unsure"] is False
    assert [set(stage) for stage in answer["stages"]] == [{"model", "queue_ms", "compute_ms", "batch_size"}] * 2
    (line,) = classify(routed, garment, "--model", "first", "--json").stdout.splitlines()
    assert not {"answered_by", "unsure", "stages"} & json.loads(line).keys()


def test_top_counts_callers_and_says_which_members_answered(
    routed: Server, garment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three calls of a cascade with two stages are three calls, though the server counts nine."""

    def work(_seconds: float) -> None:
        with Client(routed.address) as client:
            for _ in range(3):
                client.classify(garment.read_bytes(), "unsure")

    monkeypatch.setattr("hangtag.serving.client.top.keyboard.sleep", work)
    arguments = ["top", "--once", "--server", routed.address, "--metrics", f"http://{routed.http_address}/metrics"]
    document = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert document["routes"] == {"unsure": {"first": 1.0, "second": 1.0}}
    rates = {row["model"]: row["calls"] * document["seconds"] for row in document["models"]}
    assert {name: round(rate) for name, rate in rates.items() if rate} == {"first": 3, "second": 3, "unsure": 3}
    shown = CliRunner().invoke(main, arguments, env={"COLUMNS": "150"}).stdout
    assert "unsure: first 100.0%, second 100.0% of its samples" in shown
    (total,) = re.findall(r" ([\d,]+) calls/s", shown)
    (own,) = re.findall(r"unsure +1 +([\d,]+) ", shown)
    assert total == own


def test_copies_for_a_shadow_are_no_callers() -> None:
    def after(requests: float, copies: float) -> Snapshot:
        stage = ("both", 1, "one")
        metrics = Metrics(
            stage_requests={stage: requests},
            stage_samples={stage: 4 * requests},
            copies=copies,
            copied_samples=4 * copies,
        )
        return Snapshot(10.0 if requests else 0.0, {}, metrics)

    rows = [Activity(name, "1", 10, 40, 0, None, None, None) for name in ("both", "one", "shadow")]
    assert callers(rows, after(0, 0), after(100, 100)) == (10, 40)
    assert callers(rows, after(0, 0), after(1000, 1000)) == (0, 0)
    assert callers(rows, replace(after(0, 0), metrics=None), after(100, 100)) == (30, 120)


def test_an_answer_for_want_of_time_is_marked() -> None:
    stages = (Stage("first", 0.25, 1.0, 4),)
    answer = Classification("route", "1", (Label("Bag", 0.5, 8),), 0.1, 0.25, 1.0, 4, stages=stages, unsure=True)
    assert cost_line(answer) == (
        "route version 1, answered by first, which was not sure: 0.2 ms queued, 1.0 ms computed"
    )
