"""Serves, classifies and load-tests by the command what ships. test_tutorial.py trains and exports before."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from hangtag.training.data.fashion_mnist import LABELS
from tests.kit.command import ROOT, Serving, hangtag, serving
from tests.kit.onnx_file import answers
from tests.kit.shipped import MODELS, latest

GARMENTS = sorted((ROOT / "examples/garments").glob("*.png"))
OUTFITS = sorted((ROOT / "examples/outfits").glob("*.png"))
OUTFIT_MODELS = ROOT / "examples/outfits/models"
SHORT = ("--min-duration", 0.2, "--min-query-count", 20, "--blocks", 2, "--warm-up", 0.05, "--concurrency", 2)
VALID_OR_BUSY = (0, 1)
"""On a busy machine sends may be late, and a run is then invalid."""


def pixels(files: list[Path]) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(Image.open(file)) for file in files])


def classify(server: Serving, model: str, *files: Path) -> list[Any]:
    printed = hangtag("classify", *files, "--model", model, "--server", server.address, "--json", exit_codes=[0])
    return [json.loads(line) for line in printed.stdout.splitlines()]


def test_the_shipped_label_sets_are_classified() -> None:
    """The files are named after their labels. Three of four label sets are right, which fits docs/cnn-rnn.md."""
    expected = answers(OUTFIT_MODELS / "cnn_rnn/1/model.onnx", image=pixels(OUTFITS))
    right = 0
    with serving("--models", OUTFIT_MODELS, "--port", 0, script=True) as server:
        for place, (file, answer) in enumerate(zip(OUTFITS, classify(server, "cnn_rnn", *OUTFITS), strict=True)):
            path = [index for index in expected["path"][place].tolist() if index >= 0]
            assert (answer["model"], answer["task"]) == ("cnn_rnn", "multi_label")
            assert [label["name"] for label in answer["labels"]] == [LABELS[index] for index in path]
            served = [answer["path_probability"], *(label["probability"] for label in answer["labels"])]
            local = [expected["path_probability"][place], *expected["probabilities"][place][path]]
            np.testing.assert_allclose(served, local, atol=1e-4)
            names = "-".join(sorted(re.sub("[/ ]", "-", label["name"].lower()) for label in answer["labels"]))
            right += sorted(names) == sorted(file.stem.partition("-")[2])
        assert (right, len(OUTFITS)) == (3, 4)

        text = hangtag("classify", OUTFITS[0], "--model", "cnn_rnn", "--server", server.address, exit_codes=[0]).stdout
        assert text.startswith(f"{OUTFITS[0].name}: ")
        assert "for the whole set" in text


def test_the_shipped_models_and_their_route_are_as_accurate_on_the_server_as_alone(
    server: Serving, tmp_path: Path
) -> None:
    samples, file, page = ROOT / "examples/test-images.npz", tmp_path / "load.json", tmp_path / "load.html"
    names = ("cnn", "lstm", "fast-and-accurate")
    options = ("--samples", samples, "--accuracy", "--check-caching", "--json", file, "--html", page, *SHORT)
    printed = hangtag("loadtest", *names, "--server", server.address, *options, exit_codes=VALID_OR_BUSY).stdout
    results = json.loads(file.read_text())
    targets = {target["name"]: target for target in results["targets"]}
    correct = {name: targets[name]["accuracy"]["correct"] for name in names}
    with np.load(samples) as arrays:
        images, labels = arrays["image"], arrays["labels"]
    for name in ("cnn", "lstm"):
        target, file = targets[name], latest(name)
        alone = int((answers(file, image=images)["probabilities"].argmax(axis=1) == labels).sum())
        # Other batches round differently, which may change the label of one borderline image.
        assert abs(correct[name] - alone) <= 1
        assert target["answering_version"] == file.parent.name
        assert target["execution_provider"] == "CPUExecutionProvider"
        assert target["onnxruntime_version"] == onnxruntime.__version__
        assert target["file_bytes"] == file.stat().st_size
    assert correct["lstm"] < correct["fast-and-accurate"] <= correct["cnn"]
    route = targets["fast-and-accurate"]
    assert (route["accuracy"]["total"], route["accuracy"]["expected"]) == (len(labels), None)
    assert route["file_bytes"] == targets["lstm"]["file_bytes"] + targets["cnn"]["file_bytes"]
    for run in results["runs"]:
        figures = run["total"]["server"]
        assert figures["requests"] >= run["total"]["queries"]
        assert 0 < figures["compute_infer"] < run["total"]["service_time"]["max"]
    assert all(0.1 < check["speedup"]["ratio"] < 10 for check in results["caching"])  # answers are not cached
    assert f"{len(labels)} samples from " in printed
    assert page.read_text().count("examples/test-images.npz") >= 2
    assert 'aria-label="Accuracy against latency"' in page.read_text()


def test_every_shipped_model_is_served_with_the_answers_of_its_file(server: Serving) -> None:
    models = json.loads(hangtag("models", "list", "--models", MODELS, "--json", exit_codes=[0]).stdout)
    for name in sorted({model["model"] for model in models if model.get("serves")}):
        expected = answers(latest(name), image=pixels(GARMENTS))["probabilities"]
        for answer, row in zip(classify(server, name, *GARMENTS), expected, strict=True):
            assert (answer["model"], answer["version"]) == (name, latest(name).parent.name)
            shown = [label["probability"] for label in answer["labels"]]
            np.testing.assert_allclose(shown, np.sort(row)[::-1][: len(shown)], atol=2e-3)  # int8 depends on the batch
