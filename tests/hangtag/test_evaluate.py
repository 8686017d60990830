"""``hangtag evaluate`` on a run, a file and a server: the numbers that it prints, writes and draws are the same."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from hangtag import Client
from hangtag.serving.server.process.server import Server
from hangtag.training.data.dataset import Split
from hangtag.training.data.fashion_mnist import LABELS
from tests.kit.command import hangtag, invoke, last_line
from tests.kit.onnx_file import answers, metadata
from tests.kit.server import server as running_server
from tests.kit.shipped import latest

LSTM = latest("lstm")
GARMENTS = ("--data", "fashion-mnist")  # the file does not name its data set


def document(*arguments: object, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The JSON document that the command prints."""
    result = invoke("evaluate", *arguments, "--json", variables=variables)
    assert result.stderr == ""
    written: dict[str, Any] = json.loads(result.stdout)
    return written


def words(*arguments: object) -> str:
    return " ".join(invoke("evaluate", *arguments).stdout.split())


def figures(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: document[key] for key in document if key != "subject"}


def test_a_file_and_its_server_give_identical_figures(server: Server) -> None:
    """On all 10,000 test images, the file and the server reach the accuracy that is recorded in the file's metadata."""
    alone, served = document(LSTM), document("lstm", "--server", server.address)
    assert figures(alone) == figures(served)
    assert (alone["subject"]["kind"], served["subject"]["kind"]) == ("onnx", "server")
    assert served["subject"]["details"] == {"address": server.address, "version": LSTM.parent.name}
    assert f"{alone['accuracy']:.4f}" == metadata(LSTM)["test_accuracy"]
    assert alone["data"]["images"] == 10_000


@pytest.mark.parametrize(("max_batch_size", "largest"), [(64, 64), (20, 16), (1, 1)])
def test_a_request_has_at_most_the_servers_max_batch_size(repository: Path, max_batch_size: int, largest: int) -> None:
    settings: dict[str, Any] = {"http_port": -1, "provider": "cpu", "max_batch_size": max_batch_size}
    with running_server(repository, **settings) as running, Client(running.address) as client:
        served = document("lstm", "--server", running.address, "--limit", 100)
        (counted,) = (each for each in client.statistics() if each.name == "lstm")
    alone = document(LSTM, "--limit", 100)
    assert served["confusion"] == alone["confusion"]
    assert served["loss"] == pytest.approx(alone["loss"], abs=1e-5)
    # The command sends one more batch to learn the largest batch size.
    assert counted.inference_count == 100 + largest * (largest > 1)
    assert counted.inference_stats.success.count == -(-100 // largest) + (largest > 1)


def test_a_run_and_its_export_give_the_same_answers(trained: Path, proven: Path) -> None:
    run, file = document(trained), document(proven / "lstm-56")
    assert run["confusion"] == file["confusion"]
    assert run["loss"] == pytest.approx(file["loss"], abs=1e-6)
    trial = "trained on 300 images only"
    assert run["subject"]["details"] == {"model": "lstm-56", "folder": str(trained), "trial": trial}
    # The training run measured its test accuracy on the same images.
    summary = json.loads((trained / "metrics.json").read_text())["summary"]
    assert run["accuracy"] == summary["test"]["accuracy"]
    shown = words(trained, "--limit", 100)
    assert shown.startswith(f"{trained.name} ({trial}) on 100 test images of fashion-mnist")


def test_the_document_agrees_with_the_models_own_answers(tmp_path: Path, garments: Split) -> None:
    """A temperature in the file changes only the calibration error and the probabilities in the list of mistakes."""
    model, calibrated, few = onnx.load(LSTM), tmp_path / "calibrated.onnx", garments.first(400)
    (place,) = [at for at, node in enumerate(model.graph.node) if node.op_type == "Softmax"]
    plain = model.graph.node[place].input[0]
    model.graph.node.insert(place, onnx.helper.make_node("Add", [plain] * 2, ["surer"]))  # a temperature of 0.5
    model.graph.node[place + 1].input[0] = "surer"
    onnx.save(model, calibrated)
    written, right = document(calibrated, "--limit", 400), answers(calibrated, image=few.images)
    before = document(LSTM, "--limit", 400)
    assert [key for key in figures(before) if before[key] != written[key]] == ["calibration_error", "mistakes"]
    logits, confidence = right["logits"].astype(np.float64), right["probabilities"].max(axis=1)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predicted = logits.argmax(axis=1)
    assert written["schema"] == "hangtag.evaluation/2"
    assert written["labels"] == list(LABELS)
    assert written["accuracy"] == pytest.approx((predicted == few.classes).mean())
    assert written["loss"] == pytest.approx(-np.log(probabilities[np.arange(400), few.classes]).mean(), abs=1e-5)
    bins = [(confidence > at / 15) & (confidence <= (at + 1) / 15) for at in range(15)]
    excess = (predicted == few.classes) - confidence
    assert written["calibration_error"] == pytest.approx(sum(abs(excess[each].sum()) for each in bins) / 400, abs=1e-5)
    wrong = np.flatnonzero(predicted != few.classes)
    second = np.argsort(-probabilities, axis=1)[wrong, 1]
    assert written["second"] == pytest.approx((second == few.classes[wrong]).mean())
    matrix = np.array(json.loads(metadata(LSTM)["label_distances"]))  # the file has the distances between labels
    assert written["severity"] == pytest.approx(matrix[few.classes[wrong], predicted[wrong]].mean())
    assert len(written["mistakes"]) == len(wrong)
    confidences = [mistake["probability"] for mistake in written["mistakes"]]
    assert confidences == sorted(confidences, reverse=True)
    for mistake in written["mistakes"]:
        image = mistake["image"]
        assert (mistake["true"], mistake["predicted"]) == (LABELS[few.classes[image]], LABELS[predicted[image]])
        assert mistake["probability"] == pytest.approx(confidence[image], abs=1e-5)
        assert mistake["distance"] == matrix[few.classes[image], predicted[image]]


def test_a_file_whose_rows_depend_on_each_other_is_evaluated_one_image_at_a_time(repository: Path) -> None:
    """A single image gets the same answer from both files. ``reverses`` returns a batch's answers in reverse order."""
    one, other = (figures(document(repository / name, *GARMENTS, "--limit", 100)) for name in ("straight", "reverses"))
    assert one == other


def test_the_other_split() -> None:
    # An environment variable for calls to a server is ignored when a file is evaluated.
    options = ("--limit", 300, "--split", "validation")
    written = document(LSTM, *options, variables={"HANGTAG_EVALUATE_TIMEOUT": "5"})
    assert (written["data"]["images"], written["data"]["split"]) == (300, "validation")
    assert written["confusion"] != document(LSTM, "--limit", 300)["confusion"]


# Output and pictures.


def test_the_tables(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "new" / "figures.json"
    options = ("--server", server.address, "--limit", 1000, f"--json={file}")
    lines = invoke("evaluate", "lstm", *options, variables={"COLUMNS": "100"}).stdout.splitlines()
    assert lines[0] == "lstm on 1,000 test images of fashion-mnist"
    assert max(map(len, lines)) <= 80
    shown = " ".join(" ".join(lines).split())
    written = json.loads(file.read_text())
    assert f"accuracy {written['accuracy']:.2%}" in shown
    assert f"severity of mistakes {written['severity']:.4f}" in shown
    assert f"true label second {written['second']:.2%}" in shown
    boot = written["classes"][9]
    assert f"Ankle boot {boot['precision']:.1%} {boot['recall']:.1%} {boot['f1']:.1%} {boot['support']}" in shown
    row = next(line for line in lines[-10:] if line.startswith("T-shirt/top"))
    assert [int(cell) for cell in row.split()[1:]] == [count for count in written["confusion"][0] if count]


def test_pictures_are_the_same_for_the_same_figures(tmp_path: Path) -> None:
    folders = (tmp_path / "new" / "folder", tmp_path)
    printed = [invoke("evaluate", LSTM, "--limit", 300, "--pictures", folder).stderr for folder in folders]
    for name in ("confusion.png", "mistakes.png"):
        assert f"wrote {folders[0] / name}" in printed[0]
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    colours = np.asarray(Image.open(tmp_path / "confusion.png").convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 50


def test_a_model_may_make_no_mistake(tmp_path: Path) -> None:
    # The shipped lstm misclassifies none of the first three test images.
    assert "0 of 3 images wrong" in words(LSTM, "--limit", 3, "--pictures", tmp_path)
    assert (tmp_path / "mistakes.png").is_file()
    written = document(LSTM, "--limit", 3)
    assert written["second"] is written["severity"] is None


def test_a_full_disk_is_reported_in_one_line() -> None:
    done = hangtag("evaluate", LSTM, "--limit", 5, "--json=/dev/full", exit_codes=[1])
    assert last_line(done.stderr) == "Error: cannot write /dev/full: No space left on device"
