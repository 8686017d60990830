"""`hangtag evaluate` on a run, a file and a server: the same numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hangtag.evaluation.cascade import members
from hangtag.evaluation.served_subject import ServedSubject
from hangtag.export.file import temperature
from hangtag.serving.client import Client
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.data.fashion_mnist import LABELS, Split, load_test
from hangtag.training.labels import distance as label_distance
from hangtag.training.metrics.severity import mean_severity
from tests.hangtag.conftest import LSTM, classifier_of, document
from tests.kit.exported import Exported
from tests.kit.shipped import MODELS

pytestmark = pytest.mark.slow


def figures(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: document[key] for key in document if key != "subject"}


def test_a_file_and_its_server_give_identical_figures(server: Server) -> None:
    """All 10,000 test images of the shipped model; the test's own look at them agrees."""
    alone, served = document(LSTM), document("lstm", "--server", server.address)
    assert figures(alone) == figures(served)
    assert (alone["subject"]["kind"], served["subject"]["kind"]) == ("onnx", "server")
    assert served["subject"]["details"] == {"address": server.address, "version": LSTM.parent.name}
    shipped = Runtime(LSTM, provider="cpu").signature.metadata
    assert f"{alone['accuracy']:.4f}" == shipped["test_accuracy"]
    assert alone["data"]["images"] == 10_000


def test_a_route_on_a_server_is_right_as_often_as_its_curve_says(tmp_path: Path) -> None:
    for name in ("lstm", "cnn"):
        (tmp_path / name).symlink_to(MODELS / name)
    (tmp_path / "both").mkdir()
    (tmp_path / "both/route.toml").write_text(
        'cascade = ["lstm", "cnn"]\naccept = {output = "probabilities", at_least = 0.7}'
    )
    with Server(ServerConfig(models=tmp_path, port=0, http_port=-1, provider="cpu")) as running:
        served = document("both", "--server", running.address, "--limit", 800)
    tried = members.measure(tmp_path, ["lstm", "cnn"], split="test", limit=800).curve()
    (at,) = [point for point in tried.points if point.threshold == 0.7]
    assert served["accuracy"] == pytest.approx(at.accuracy)
    assert at.accuracy not in tried.alone
    assert served["subject"]["details"]["version"] == "1"


def test_a_run_and_its_export_give_the_same_answers(exported: Exported) -> None:
    run, file = document(exported.run.folder, "--limit", 300), document(exported.file, "--limit", 300)
    assert run["confusion"] == file["confusion"]
    assert run["loss"] == pytest.approx(file["loss"], abs=1e-6)
    assert run["severity"]["mean"] == file["severity"]["mean"]
    trial = "trained on the first 32 images only"
    assert run["subject"]["details"] == {"model": "lstm", "folder": str(exported.run.folder), "trial": trial}
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
    nearest = (probabilities @ matrix).argmin(axis=1)
    missed = np.flatnonzero(nearest != few.classes)
    assert written["severity"]["nearest"] == {
        "accuracy": pytest.approx(1 - len(missed) / 400),
        "mean": pytest.approx(matrix[few.classes[missed], nearest[missed]].mean()),
    }
    second = np.argsort(-probabilities, axis=1)[wrong, 1]
    assert written["severity"]["second"] == pytest.approx((second == few.classes[wrong]).mean())
    assert written["severity"]["distances"]["digest"] == label_distance.default().digest
    assert len(written["mistakes"]) == len(wrong)
    confidences = [mistake["probability"] for mistake in written["mistakes"]]
    assert confidences == sorted(confidences, reverse=True)
    for mistake in written["mistakes"]:
        image = mistake["image"]
        assert (mistake["true"], mistake["predicted"]) == (LABELS[few.classes[image]], LABELS[predicted[image]])
        assert mistake["probability"] == pytest.approx(probabilities[image].max(), abs=1e-5)
        assert mistake["distance"] == matrix[few.classes[image], predicted[image]]


def test_a_temperature_changes_the_calibration_error_and_the_confidence_alone(tmp_path: Path) -> None:
    calibrated = tmp_path / "calibrated.onnx"
    calibrated.write_bytes(temperature.fold(onnx.load(LSTM), 0.5).SerializeToString())
    before, after = (document(file, "--limit", 400) for file in (LSTM, calibrated))
    changed = [key for key in figures(before) if before[key] != after[key]]
    assert changed == ["calibration_error", "mistakes"]
    assert before["calibration_error"] == pytest.approx(error_of(LSTM), abs=1e-5)
    assert after["calibration_error"] == pytest.approx(error_of(calibrated), abs=1e-5)
    surer = [{**mistake, "probability": None} for mistake in after["mistakes"]]
    assert sorted(map(str, surer)) == sorted(str({**mistake, "probability": None}) for mistake in before["mistakes"])
    assert after["mistakes"][0]["probability"] > before["mistakes"][0]["probability"]


def error_of(file: Path) -> float:
    """The expected calibration error on the first 400 test images, bin by bin."""
    few = load_test().first(400)
    probabilities = Runtime(file, provider="cpu").run({"image": few.images})["probabilities"].astype(np.float64)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == few.classes
    bins = [(confidence > at / 15) & (confidence <= (at + 1) / 15) for at in range(15)]
    return float(sum(abs(right[each].mean() - confidence[each].mean()) * each.mean() for each in bins if each.any()))


def test_a_file_whose_rows_depend_on_each_other_is_evaluated_one_image_at_a_time(tmp_path: Path) -> None:
    """Alone, each image gets the same answer from both files; together, one file exchanges the answers."""
    files = {reverses: tmp_path / f"reverses-{reverses}.onnx" for reverses in (False, True)}
    for reverses, file in files.items():
        file.write_bytes(classifier_of(reverses=reverses).SerializeToString())
    one, other = (figures(document(file, "--limit", 100)) for file in files.values())
    assert one == other


def test_the_other_split_and_other_distances(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    shipped = label_distance.default()
    own.write_text(label_distance.LabelDistances(shipped.labels, shipped.matrix**2, {"from": "a test"}).text())
    written = document(LSTM, "--limit", 300, "--split", "validation", "--distances", own)
    assert written["data"]["split"] == "validation"
    assert written["severity"]["mean"] == mean_severity(written["confusion"], shipped.matrix**2)
    assert written["severity"]["distances"]["provenance"] == {"from": "a test"}
    assert written["confusion"] != document(LSTM, "--limit", 300)["confusion"]


# How a server is called.


@pytest.mark.parametrize(("max_batch_size", "sizes"), [(64, {64, 36}), (20, {16, 4}), (1, {1})])
def test_a_request_has_at_most_the_servers_max_batch_size(
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
    config = ServerConfig(models=repository, port=0, http_port=-1, provider="cpu", max_batch_size=max_batch_size)
    with Server(config) as running, ServedSubject("lstm", running.address) as subject:
        outputs = subject.answer(garments.images[:100], reported.append)
    expected = Runtime(LSTM, provider="cpu").run({"image": garments.images[:100]})["logits"]
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-5)
    assert sum(reported) == 100
    assert set(reported) == sizes
    # Besides the 100: one image and one batch, which showed how many go at once.
    assert sum(answered) == 100 + 1 + max(sizes) * (max(sizes) > 1)


def test_a_server_that_goes_away_is_reported(repository: Path, garments: Split) -> None:
    with Server(ServerConfig(models=repository, port=0, http_port=-1, provider="cpu", drain_seconds=0)) as running:
        subject = ServedSubject("lstm", running.address)
    with subject, pytest.raises(Exception, match=rf"lstm at {running.address}: no server answers"):
        subject.answer(garments.images[:10], lambda _: None)
