"""Serves, classifies and load-tests the shipped models with the command."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from tests.kit.command import ROOT, Serving, hangtag
from tests.kit.onnx_file import answers
from tests.kit.shipped import MODELS, latest

GARMENTS = sorted((ROOT / "examples/garments").glob("*.png"))
SHORT = ("--min-duration", 0.2, "--min-query-count", 20, "--blocks", 2, "--warm-up", 0.05, "--concurrency", 2)
VALID_OR_BUSY = (0, 1)
"""The load test's exit codes. On a busy machine, it may send requests late, so the run is invalid."""


def test_the_shipped_models_and_their_route_are_as_accurate_on_the_server_as_alone(
    server: Serving, tmp_path: Path
) -> None:
    samples, file, page = ROOT / "examples/test-images.npz", tmp_path / "load.json", tmp_path / "load.html"
    names = ("cnn-int8", "cnn-small-int8", "fast-and-accurate")
    options = ("--samples", samples, "--accuracy", "--json", file, "--html", page, *SHORT)
    printed = hangtag("loadtest", *names, "--server", server.address, *options, exit_codes=VALID_OR_BUSY).stdout
    results = json.loads(file.read_text())
    targets = {target["name"]: target for target in results["targets"]}
    correct = {name: targets[name]["accuracy"]["correct"] for name in names}
    with np.load(samples) as arrays:
        images, labels = arrays["image"], arrays["labels"]
    for name in names[:2]:
        target, file = targets[name], latest(name)
        alone = int((answers(file, image=images)["probabilities"].argmax(axis=1) == labels).sum())
        # Rounding depends on the batch size, and may change the label of one image.
        assert abs(correct[name] - alone) <= 1
        assert target["answering_version"] == file.parent.name
        assert target["execution_provider"] == "CPUExecutionProvider"
        assert target["onnxruntime_version"] == onnxruntime.__version__
        assert target["file_bytes"] == file.stat().st_size
    assert correct["cnn-small-int8"] <= correct["fast-and-accurate"] <= correct["cnn-int8"] + 1
    route = targets["fast-and-accurate"]
    assert (route["accuracy"]["total"], route["accuracy"]["expected"]) == (len(labels), None)
    assert route["file_bytes"] == sum(targets[name]["file_bytes"] for name in names[:2])
    for run in results["runs"]:
        figures = run["total"]["server"]
        assert figures["requests"] >= run["total"]["queries"]
        assert 0 < figures["compute_infer"] < run["total"]["service_time"]["max"]
    assert f"{len(labels)} samples from " in printed
    assert page.read_text().count("examples/test-images.npz") >= 2
    assert 'aria-label="Accuracy against latency"' in page.read_text()


def test_every_shipped_model_is_served_with_the_answers_of_its_file(server: Serving) -> None:
    images = np.stack([np.asarray(Image.open(file)) for file in GARMENTS])
    models = json.loads(hangtag("models", "list", "--models", MODELS, "--json", exit_codes=[0]).stdout)
    for name in sorted({model["model"] for model in models if model.get("serves")}):
        expected = answers(latest(name), image=images)["probabilities"]
        command = ("classify", *GARMENTS, "--model", name, "--server", server.address, "--json")
        served = map(json.loads, hangtag(*command, exit_codes=[0]).stdout.splitlines())
        for answer, row in zip(served, expected, strict=True):
            assert (answer["model"], answer["version"]) == (name, latest(name).parent.name)
            shown = [label["probability"] for label in answer["labels"]]
            # The rounding of int8 depends on the batch.
            np.testing.assert_allclose(shown, np.sort(row)[::-1][: len(shown)], atol=2e-3)
