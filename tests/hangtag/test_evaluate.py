"""`hangtag evaluate` on a run, a file and a server: the same numbers, and a clear word where there are none."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hangtag.evaluation import pictures, subjects
from hangtag.evaluation.served_subject import ServedSubject
from hangtag.evaluation.single_label import Mistake
from serving.client import Client
from serving.server.app import Server
from serving.server.config import ServerConfig
from serving.server.runtime import Runtime
from tests.export import runs
from tests.hangtag.conftest import SHIPPED, Exported, hangtag
from training import label_distance
from training.data import LABELS, Split
from training.metrics import mean_severity

LSTM = SHIPPED / "lstm/1/model.onnx"
NOBODY = "127.0.0.1:9"


def document(*arguments: object) -> dict[str, Any]:
    """What the command writes as JSON to standard output, and nothing else."""
    result = hangtag("evaluate", *arguments, "--json", "-")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    written: dict[str, Any] = json.loads(result.stdout)
    return written


def figures(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: document[key] for key in document if key != "subject"}


# The same numbers.


def test_a_file_and_its_server_give_identical_figures(server: Server) -> None:
    """All 10,000 test images of the shipped model; the test's own look at them agrees."""
    alone, served = document(LSTM), document("lstm", "--server", server.address)
    assert figures(alone) == figures(served)
    assert (alone["subject"]["kind"], served["subject"]["kind"]) == ("onnx", "server")
    assert served["subject"]["details"] == {"address": server.address, "version": "1"}
    shipped = Runtime(LSTM, provider="cpu").signature.metadata
    assert f"{alone['accuracy']:.4f}" == shipped["test_accuracy"]
    assert alone["data"]["images"] == 10_000


def test_a_run_and_its_export_give_the_same_answers(exported: Exported) -> None:
    run, file = document(exported.run.folder, "--limit", 300), document(exported.file, "--limit", 300)
    assert run["confusion"] == file["confusion"]
    assert run["loss"] == pytest.approx(file["loss"], abs=1e-6)
    assert run["severity"]["mean"] == file["severity"]["mean"]
    assert run["subject"]["details"] == {"model": "lstm", "folder": str(exported.run.folder)}
    # What the training measured on the same 300 images.
    assert run["accuracy"] == exported.run.read_metrics()["summary"]["test"]["accuracy"]


def test_the_document_agrees_with_the_models_own_answers(garments: Split) -> None:
    few = garments.first(400)
    written = document(LSTM, "--limit", 400)
    logits = Runtime(LSTM, provider="cpu").run({"image": few.images})["logits"].astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predicted = logits.argmax(axis=1)
    assert written["schema"] == "hangtag.evaluation/1"
    assert written["labels"] == list(LABELS)
    assert written["accuracy"] == pytest.approx((predicted == few.classes).mean())
    assert written["loss"] == pytest.approx(-np.log(probabilities[np.arange(400), few.classes]).mean(), abs=1e-5)
    matrix = label_distance.default().matrix
    wrong = np.flatnonzero(predicted != few.classes)
    assert written["severity"]["mean"] == pytest.approx(matrix[few.classes[wrong], predicted[wrong]].mean())
    assert written["severity"]["at"]["1"] == pytest.approx(matrix[few.classes, predicted].mean())
    assert written["severity"]["distances"]["digest"] == label_distance.default().digest
    assert len(written["mistakes"]) == len(wrong)
    confidences = [mistake["probability"] for mistake in written["mistakes"]]
    assert confidences == sorted(confidences, reverse=True)
    for mistake in written["mistakes"]:
        image = mistake["image"]
        assert (mistake["true"], mistake["predicted"]) == (LABELS[few.classes[image]], LABELS[predicted[image]])
        assert mistake["probability"] == pytest.approx(probabilities[image].max(), abs=1e-5)
        assert mistake["distance"] == matrix[few.classes[image], predicted[image]]


def test_the_other_split_and_other_distances(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    shipped = label_distance.default()
    own.write_text(label_distance.LabelDistances(shipped.labels, shipped.matrix**2, {"from": "a test"}).text())
    written = document(LSTM, "--limit", 300, "--split", "validation", "--distances", own)
    assert written["data"]["split"] == "validation"
    assert written["severity"]["mean"] == mean_severity(written["confusion"], shipped.matrix**2)
    assert written["severity"]["distances"]["provenance"] == {"from": "a test"}
    assert written["confusion"] != document(LSTM, "--limit", 300)["confusion"]


# How a server is asked.


@pytest.mark.parametrize(("max_batch_size", "sizes"), [(64, {64, 36}), (20, {16, 4}), (1, {1})])
def test_a_server_is_asked_for_as_many_as_it_takes(
    repository: Path, garments: Split, monkeypatch: pytest.MonkeyPatch, max_batch_size: int, sizes: set[int]
) -> None:
    answered: list[int] = []
    infer = Client.infer

    def counting(self: Client, model: str, inputs: Mapping[str, Any], *, version: str = "") -> dict[str, Any]:
        outputs = infer(self, model, inputs, version=version)
        answered.append(len(inputs["image"]))
        return outputs

    monkeypatch.setattr(Client, "infer", counting)
    reported: list[int] = []
    config = ServerConfig(models=repository, port=0, provider="cpu", max_batch_size=max_batch_size)
    with Server(config) as running, ServedSubject("lstm", running.address) as subject:
        outputs = subject.answer(garments.images[:100], reported.append)
    expected = Runtime(LSTM, provider="cpu").run({"image": garments.images[:100]})["logits"]
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-5)
    assert sum(reported) == 100
    assert set(reported) == sizes
    # Besides the 100: one image and one batch, which showed how many go at once.
    assert sum(answered) == 100 + 1 + max(sizes) * (max(sizes) > 1)


def test_a_server_that_goes_away_is_reported(repository: Path, garments: Split) -> None:
    with Server(ServerConfig(models=repository, port=0, provider="cpu", drain_seconds=0)) as running:
        subject = ServedSubject("lstm", running.address)
    with subject, pytest.raises(Exception, match=rf"lstm at {running.address}: no server answers"):
        subject.answer(garments.images[:10], lambda _: None)


# What a person sees.


def test_the_tables(server: Server) -> None:
    result = hangtag("evaluate", "lstm", "--server", server.address, "--limit", 1000)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "lstm on 1,000 test images of fashion-mnist"
    assert max(map(len, lines)) <= 80
    words = " ".join(result.stdout.split())
    written = document(LSTM, "--limit", 1000)
    assert f"accuracy {written['accuracy']:.2%}" in words
    assert f"severity of mistakes {written['severity']['mean']:.4f}" in words
    boot = written["classes"][9]
    assert f"Ankle boot {boot['precision']:.1%} {boot['recall']:.1%} {boot['f1']:.1%} {boot['support']}" in words
    row = next(line for line in lines[-10:] if line.startswith("T-shirt/top"))
    assert [int(cell) for cell in row.split()[1:]] == [count for count in written["confusion"][0] if count]


def test_pictures_are_the_same_for_the_same_figures(tmp_path: Path) -> None:
    result = hangtag("evaluate", LSTM, "--limit", 300, "--pictures", tmp_path / "new" / "folder")
    assert result.exit_code == 0, result.output
    again = hangtag("evaluate", LSTM, "--limit", 300, "--pictures", tmp_path)
    assert again.exit_code == 0
    for name in ("confusion.png", "mistakes.png"):
        path = tmp_path / "new" / "folder" / name
        assert f"wrote {path}" in result.stderr
        assert path.read_bytes() == (tmp_path / name).read_bytes()
    colours = np.asarray(Image.open(tmp_path / "confusion.png").convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 50


@pytest.mark.parametrize(("mistakes", "shown"), [(1, 1), (7, 7), (30, 24)])
def test_each_mistake_has_its_image_in_the_picture(tmp_path: Path, mistakes: int, shown: int) -> None:
    """Image i is all of one grey, which is found in the picture, and is not where it was not asked for."""
    images = np.repeat(np.arange(30, dtype=np.uint8) * 5 + 20, 784).reshape(30, 28, 28)
    listed = [Mistake(image, 0, 1, 0.9, 0.5) for image in reversed(range(30))][:mistakes]
    pictures.confident_mistakes(listed, images, "a test", tmp_path / "mistakes.png")
    grey = np.asarray(Image.open(tmp_path / "mistakes.png").convert("L"))
    areas = [int((np.abs(grey.astype(int) - (255 - images[image, 0, 0])) <= 1).sum()) for image in reversed(range(30))]
    assert all(area > 100 * 100 for area in areas[:shown])
    assert all(area < 1000 for area in areas[shown:])


def test_json_to_a_file_leaves_the_tables_on_standard_output(tmp_path: Path) -> None:
    file = tmp_path / "new" / "figures.json"
    result = hangtag("evaluate", LSTM, "--limit", 100, "--json", file)
    assert "accuracy" in result.stdout
    assert json.loads(file.read_text()) == document(LSTM, "--limit", 100)


def test_without_a_mistake_there_is_no_severity(tmp_path: Path) -> None:
    # The shipped lstm is right on the first three test images.
    result = hangtag("evaluate", LSTM, "--limit", 3, "--pictures", tmp_path)
    assert "severity of mistakes none" in " ".join(result.stdout.split())
    assert document(LSTM, "--limit", 3)["severity"]["mean"] is None
    assert (tmp_path / "mistakes.png").is_file()


# What cannot be evaluated.


def refused(*arguments: object) -> str:
    """The one line that the command ends with, exit code 1."""
    result = hangtag("evaluate", *arguments)
    assert result.exit_code == 1, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def test_runs_that_cannot_be_evaluated(tmp_path: Path, exported: Exported) -> None:
    assert "no finished run 'gone'" in refused("gone", "--runs", tmp_path)
    started = runs.start(tmp_path / "started", "lstm")
    assert "is not finished (0 epochs so far)" in refused(started.folder)
    for name in ("config.json", "metrics.json"):
        (tmp_path / "broken").mkdir(exist_ok=True)
        (tmp_path / "broken" / name).write_bytes((exported.run.folder / name).read_bytes())
    assert "best.pt cannot be read as a checkpoint" in refused(tmp_path / "broken")
    (tmp_path / "broken" / "best.pt").write_bytes(b"PK\3\4 no weights")
    assert "best.pt cannot be read as a checkpoint" in refused(tmp_path / "broken")
    weights = exported.run.load("best.pt")
    weights["model"]["classifier.weight"] = weights["model"]["classifier.weight"][:5]
    type(exported.run)(tmp_path / "broken").save("best.pt", weights)
    assert "do not fit lstm" in refused(tmp_path / "broken")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("two_inputs", "to be evaluated it must take image: UINT8 [any, 28, 28]"),
        ("other_labels", "has the labels label 0, label 1"),
        ("seven_classes", "logits of the shape [50, 7]; the data set's 10 classes need [50, 10]"),
        ("no_logits", "has no output `logits` (only scores)"),
        ("broken_numbers", "not finite for 50 of 50 images, first for image 0"),
    ],
)
def test_files_of_something_else(repository: Path, name: str, message: str) -> None:
    assert message in refused(repository / name / "1/model.onnx", "--limit", 50)


def test_files_that_are_none(tmp_path: Path) -> None:
    assert f"there is no file {tmp_path}/gone.onnx" in refused(tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    said = refused(tmp_path / "text.onnx")
    assert "cannot be loaded by ONNX Runtime" in said
    assert not said.endswith("..\n")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", "has no model 'gone'; the models there: broken_numbers, lstm, no_logits, other_labels"),
        ("two_inputs", "two_inputs at "),
        ("other_labels", "has the labels label 0, label 1"),
        ("seven_classes", "logits of the shape [50, 7]"),
        ("no_logits", "has no output `logits` (only scores)"),
        ("broken_numbers", "not finite for 50 of 50 images"),
    ],
)
def test_served_models_of_something_else(server: Server, name: str, message: str) -> None:
    assert message in refused(name, "--server", server.address, "--limit", 50)


def test_a_version_that_is_not_served(server: Server) -> None:
    said = refused("lstm", "--server", server.address, "--model-version", 7)
    assert "has no model 'lstm' version 7" in said


def test_a_server_that_is_not_there() -> None:
    assert f"no server answers at {NOBODY}" in refused("lstm", "--server", NOBODY)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lstm", "--model-version", 7], "--model-version: of a served model; name its server with --server."),
        (["lstm", "--timeout", 3], "--timeout: of a served model; name its server with --server."),
        (["lstm", "--server", NOBODY, "--timeout", "nan"], "'nan' is not a finite number"),
        (["lstm", "--server", NOBODY, "--runs", "."], "--runs: lstm is not looked for among runs."),
        ([LSTM, "--runs", "."], "is not looked for among runs."),
        (["lstm", "--server", "foo"], "--server foo: name it as HOST:PORT, for example 127.0.0.1:8001."),
        (["lstm", "--server", "http://foo"], "--server http://foo: name it as HOST:PORT"),
        ([LSTM, "--server", NOBODY], "with --server, give the NAME of a model there."),
        ([LSTM, "--data", "hats"], "'hats' is not one of 'fashion-mnist', 'outfits', 'outfits-independent', 'voc2007'"),
    ],
)
def test_options_that_would_go_unused_or_mean_nothing(arguments: list[object], message: str) -> None:
    result = hangtag("evaluate", *arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())


def test_a_variable_that_goes_unused_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANGTAG_EVALUATE_TIMEOUT", "5")
    assert document(LSTM, "--limit", 3)["data"]["images"] == 3


def test_distances_that_are_none(tmp_path: Path) -> None:
    assert "gone.json cannot be read" in refused(LSTM, "--distances", tmp_path / "gone.json")


@pytest.mark.parametrize("option", ["--json", "--pictures"])
def test_where_nothing_can_be_written_is_said_before_the_work(
    tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subjects, "find", lambda *_, **__: pytest.fail("it began"))
    (tmp_path / "file").write_text("")
    assert "cannot write " in refused(LSTM, option, tmp_path / "file" / "figures")
    if option == "--json":
        assert f"cannot write {tmp_path}: Is a directory" in refused(LSTM, option, tmp_path)
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)  # root may write everywhere
    assert "Permission denied" in refused(LSTM, option, tmp_path / "new" / "figures")


def test_a_disk_that_is_full_is_said_in_one_line() -> None:
    result = hangtag("evaluate", LSTM, "--limit", 5, "--json", "/dev/full")
    assert result.exit_code == 1
    assert result.stderr == "Error: cannot write /dev/full: No space left on device\n"


def without(modules: list[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, where these modules cannot be imported."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({modules}))\n"
        f"from hangtag.cli import main; main({[str(argument) for argument in arguments]})"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SHIPPED.parent, check=False)


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        ("torch", ["evaluate", "a-run"], "train"),
        ("matplotlib", ["evaluate", LSTM, "--pictures", "pictures"], "train"),
        ("onnxruntime", ["evaluate", LSTM], "cpu"),
        ("onnx", ["labels", LSTM], "train"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_has_it(
    missing: str, arguments: list[object], extra: str
) -> None:
    ended = without([missing], *arguments)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert len(ended.stderr.splitlines()) == 1
    assert f"needs the Python module '{missing}" in ended.stderr
    assert f"pip install '.[{extra}]'" in ended.stderr


def test_a_served_model_needs_neither_torch_nor_onnx_runtime(server: Server) -> None:
    packages = ["torch", "onnx", "onnxruntime", "matplotlib"]
    ended = without(packages, "evaluate", "lstm", "--server", server.address, "--limit", 100)
    assert ended.returncode == 0, ended.stderr
    assert "lstm on 100 test images" in ended.stdout
