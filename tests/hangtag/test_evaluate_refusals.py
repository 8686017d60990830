"""When ``hangtag evaluate`` refuses an option without effect, or a model that it cannot evaluate, it says why."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from hangtag.serving.server.process.server import Server
from tests.kit.command import invoke, refusal, without
from tests.kit.onnx_models import publish_route
from tests.kit.other_servers import Answer, web_server
from tests.kit.shipped import latest

LSTM = latest("lstm")
UNUSED_ADDRESS = "127.0.0.1:9"


def refused(*arguments: object) -> str:
    return refusal("evaluate", *arguments)


def test_runs_that_cannot_be_evaluated(tmp_path: Path, trained: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for file in ("config.json", "metrics.json"):
        shutil.copy(trained / file, folder)
    assert "best.pt cannot be read as a checkpoint" in refused(folder)
    (folder / "best.pt").write_bytes(b"PK\3\4 no weights")
    assert "best.pt cannot be read as a checkpoint" in refused(folder)
    weights = torch.load(trained / "best.pt", weights_only=True)
    weights["model"]["classifier.weight"] = weights["model"]["classifier.weight"][:5]
    torch.save(weights, folder / "best.pt")
    for name in (folder, folder / "best.pt"):
        assert "do not fit lstm-56" in refused(name)
    (folder / "config.json").write_text('{"seed": 0}')
    assert "config.json lacks the model or the recipe" in refused(folder)
    assert "models/cnn" in refused("lstm", "--runs", tmp_path)  # the message suggests a published model


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("two_inputs", "two_inputs"),
        ("other_labels", "has the labels label 0; label 1"),
        ("seven_classes", "of the shape [50, 7] for 50 images, but the data set's 10 classes need the shape [50, 10]"),
        ("no_logits", "which the metrics need. Its outputs are: scores."),
        ("broken_numbers", "not finite for 50 of 50 images, first for image 0"),
    ],
)
def test_models_of_something_else(repository: Path, server: Server, name: str, hint: str) -> None:
    garments = ("--data", "fashion-mnist", "--limit", 50)
    assert hint in refused(repository / name / "1/model.onnx", *garments)
    assert hint in refused(name, "--server", server.address, *garments)


def test_models_and_servers_that_are_not_there(server: Server) -> None:
    assert "served: broken_numbers, lstm, no_logits" in refused("gone", "--server", server.address)
    assert "version '7' of 'lstm' is not served" in refused("lstm", "--server", server.address, "--model-version", 7)
    assert f"no server answers at {UNUSED_ADDRESS}" in refused("lstm", "--server", UNUSED_ADDRESS)


def test_a_route_without_a_server(tmp_path: Path) -> None:
    message = refused(publish_route(tmp_path, "both", "split = {cnn = 100}") / "both")
    assert f"{tmp_path / 'both'} is a route" in message
    assert "hangtag evaluate both --server HOST:PORT." in message


def test_files_that_are_none(tmp_path: Path) -> None:
    assert f"{tmp_path}/gone.onnx" in refused(tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    assert "cannot be loaded by ONNX Runtime" in refused(tmp_path / "text.onnx")
    known = "--data hats: there is no such data set. Choose from fashion-mnist, outfits, outfits-"
    assert known in refused(LSTM, "--data", "hats")


@pytest.mark.parametrize(
    ("parameters", "hint"),
    [
        *(({"hangtag.labels": text}, "") for text in ("[" * 100_000, "9" * 5000, "5", "null", "\ud800")),
        ({"hangtag.threshold": "high"}, "threshold"),
        ({}, "busy"),  # the server is ready, but refuses calls with images
    ],
    ids=lambda value: repr(value)[:40],
)
def test_servers_whose_answers_cannot_be_used(parameters: dict[str, str], hint: str) -> None:
    config = {"parameters": {key: {"string_value": text} for key, text in parameters.items()}}

    def respond(path: str) -> Answer:
        if path.endswith("/infer"):
            return 503, {}, b'{"error": "busy"}'
        return 200, {}, json.dumps(config).encode()

    with web_server(respond) as address:
        message = refused("sets", "--server", f"http://{address}", "--data", "fashion-mnist", "--limit", 2)
    assert address in message
    assert hint in message


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("lstm --model-version 7", "--model-version: only for served models"),
        ("lstm --timeout 3", "--timeout: only for served models"),
        (f"lstm --server {UNUSED_ADDRESS} --timeout nan", "nan is not a finite number"),
        (f"lstm --server {UNUSED_ADDRESS} --runs .", "--runs: lstm is not a run."),
        (f"{LSTM} --runs .", "is not a run."),
        ("lstm --server foo", "HOST:PORT"),
        ("lstm --server grpc://foo", "'grpc://foo' is not an address"),
        (f"{LSTM} --server {UNUSED_ADDRESS}", "With --server, give the NAME"),
    ],
)
def test_options_that_would_go_unused_or_mean_nothing(arguments: str, hint: str) -> None:
    assert hint in " ".join(invoke("evaluate", *arguments.split(), exit_code=2).stderr.split())


@pytest.mark.parametrize("option", ["--json", "--pictures"])
def test_an_unwritable_file_is_reported_before_the_work(tmp_path: Path, option: str) -> None:
    """The message is about the option although the model is missing too."""
    (tmp_path / "file").write_text("")
    missing = tmp_path / "gone.onnx"
    for place in (tmp_path / "file/figures", *([tmp_path] if option == "--json" else [])):
        assert f"cannot write {place}" in refused(missing, f"{option}={place}")


def test_a_served_model_needs_neither_torch_nor_onnx_runtime(server: Server) -> None:
    packages = ["torch", "onnx", "onnxruntime", "matplotlib"]
    ended = without(packages, "evaluate", "lstm", "--server", server.address, "--limit", 100)
    assert ended.returncode == 0, ended.stderr
    assert "lstm on 100 test images" in ended.stdout
