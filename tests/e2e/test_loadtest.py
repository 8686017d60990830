"""Runs `hangtag loadtest` on the real server: accuracy, the Classify method, and the figures of the server itself."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.data.fashion_mnist import Split
from tests.e2e.processes import ROOT, ServerProcess, hangtag, serving

pytestmark = pytest.mark.slow

SAMPLES = 300
SHORT = ("--min-duration", "0.3", "--min-query-count", "20", "--blocks", "2", "--warm-up", "0.05", "--concurrency", "2")


@pytest.fixture(scope="module")
def labelled(garments: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A samples file with images and their labels."""
    file = tmp_path_factory.mktemp("samples") / "garments.npz"
    np.savez(file, image=garments.images[:SAMPLES], labels=np.asarray(garments.classes[:SAMPLES]))
    return file


@pytest.mark.parametrize("method", ["infer", "classify"])
def test_accuracy_through_the_server_is_the_networks_own(
    server: ServerProcess, garments: Split, labelled: Path, tmp_path: Path, method: str
) -> None:
    files = ("--json", tmp_path / "a.json", *(("--html", tmp_path / "a.html") if method == "infer" else ()))
    options = ("--server", server.address, "--samples", labelled, "--accuracy", "--method", method)
    hangtag("loadtest", "lstm", "cnn", *options, *SHORT, *files)
    document = json.loads((tmp_path / "a.json").read_text())
    for target in document["targets"]:
        file = ROOT / f"models/{target['model']}/{target['model_versions'][0]}/model.onnx"
        network = Runtime(file, provider="cpu")
        answers = network.run({"image": garments.images[:SAMPLES]})["probabilities"].argmax(axis=1)
        correct = int((answers == np.asarray(garments.classes[:SAMPLES])).sum())
        # Other batches round differently, which may change the label of one borderline image.
        assert abs(target["accuracy"]["correct"] - correct) <= 1
        assert target["accuracy"]["total"] == SAMPLES
        assert target["answering_version"] == target["model_versions"][0]
        assert target["execution_provider"] == "CPUExecutionProvider"
        assert target["onnxruntime_version"] == onnxruntime.__version__
        assert target["file_bytes"] == file.stat().st_size
        assert target["method"] == method
    for run in document["runs"]:
        server_figures = run["total"]["server"]
        assert server_figures["requests"] >= run["total"]["queries"]
        assert 0 < server_figures["compute_infer"] < run["total"]["service_time"]["max"]
    if method == "infer":
        assert 'aria-label="Accuracy against latency"' in (tmp_path / "a.html").read_text()


def test_a_route_is_tested_beside_its_members_on_the_shipped_images(server: ServerProcess, tmp_path: Path) -> None:
    file, page = tmp_path / "a.json", tmp_path / "a.html"
    options = ("--server", server.address, "--samples", ROOT / "examples/test-images.npz", "--accuracy")
    names = ("cnn", "lstm", "fast-and-accurate")
    process = hangtag("loadtest", *names, *options, *SHORT, "--json", file, "--html", page, exit_codes=(0, 1))
    targets = {target["name"]: target for target in json.loads(file.read_text())["targets"]}
    correct = {name: targets[name]["accuracy"]["correct"] for name in names}
    assert correct["lstm"] < correct["fast-and-accurate"] <= correct["cnn"]
    assert targets["fast-and-accurate"]["accuracy"]["total"] == 500
    assert targets["fast-and-accurate"]["accuracy"]["expected"] is None
    sizes = {name: targets[name]["file_bytes"] for name in names}
    assert sizes["fast-and-accurate"] == sizes["lstm"] + sizes["cnn"]
    assert "500 samples from " in process.stdout
    assert page.read_text().count("examples/test-images.npz") >= 2


def test_answers_are_not_cached(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    more = ("--check-caching", "--json", file)
    hangtag("loadtest", "lstm", "--server", server.address, *SHORT, *more, exit_codes=(0, 1))
    (check,) = json.loads(file.read_text())["caching"]
    assert 0.3 < check["speedup"]["ratio"] < 3


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ServerProcess]]:
    """A model repository with two versions of a model, and a server of both."""
    repository = tmp_path_factory.mktemp("versions")
    for version, model in (("1", "cnn"), ("2", "lstm")):
        latest = max((ROOT / "models" / model).glob("[0-9]*"), key=lambda folder: int(folder.name))
        shutil.copytree(latest, repository / "garments" / version)
    with serving(repository, "--num-versions", "2") as server:
        yield repository, server


@pytest.mark.parametrize("method", ["infer", "classify"])
def test_two_versions_of_a_model_are_compared(
    versions: tuple[Path, ServerProcess], tmp_path: Path, method: str
) -> None:
    repository, server = versions
    file = tmp_path / "a.json"
    old = f"old={server.address}/garments@1"
    options = ("--server", server.address, "--target", old, "--method", method, "--json", file)
    hangtag("loadtest", "garments@2", *options, *SHORT, exit_codes=(0, 1))
    document = json.loads(file.read_text())
    assert {target["name"]: target["answering_version"] for target in document["targets"]} == {
        "garments@2": "2",
        "old": "1",
    }
    sizes = [target["file_bytes"] for target in document["targets"]]
    assert sizes == [next(repository.glob(f"garments/{version}/*.onnx")).stat().st_size for version in (2, 1)]
    for run in document["runs"]:
        assert run["total"]["server"]["requests"] >= run["total"]["queries"]
