"""`hangtag evaluate` on models of several labels: the same numbers from a run, its export and a server."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hangtag.evaluation import multi_label
from hangtag.evaluation.errors import EvaluationError
from hangtag.evaluation.subject import Array, Outputs, Progress, Subject
from hangtag.export.file import torch_export
from hangtag.export.network import checkpoint
from hangtag.serving.client import Client
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from hangtag.training.data.fashion_mnist import LABELS, Split
from hangtag.training.runs.run import Run
from tests.hangtag.conftest import LSTM, hangtag
from tests.kit import label_sets
from tests.kit.exported import Exported, label_paths

pytestmark = pytest.mark.slow

LIMIT = 40


@pytest.fixture(scope="module")
def garments_few(garments: Split) -> Split:
    return garments.first(300)


@pytest.fixture(scope="session")
def cnn_rnn(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Random weights that give paths of every length."""
    return label_paths(tmp_path_factory)


def _exported(run: Run, models: Path) -> Path:
    """The run's file, without what `hangtag export` proves about it."""
    file = models / run.model / "1/model.onnx"
    file.parent.mkdir(parents=True)
    served = checkpoint.load(run)
    file.write_bytes(torch_export.to_onnx(served, served.metadata | {"labels": json.dumps(LABELS)}).SerializeToString())
    return file


def document(*arguments: object) -> dict[str, Any]:
    result = hangtag("evaluate", *arguments, "--limit", LIMIT, "--json", "-")
    assert result.exit_code == 0, result.output
    written: dict[str, Any] = json.loads(result.stdout)
    return written


def refused(*arguments: object) -> str:
    result = hangtag("evaluate", *arguments, "--limit", 5)
    assert result.exit_code == 1, result.output
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def test_a_run_its_export_and_its_server_agree(cnn_rnn: Exported) -> None:
    run, file = (document(source, "--data", "outfits") for source in (cnn_rnn.run.folder, cnn_rnn.file))
    models = cnn_rnn.file.parents[2]
    with Server(ServerConfig(models=models, port=0, http_port=-1, provider="cpu")) as server:
        served = document("cnn_rnn", "--server", server.address)
    assert served["data"] == file["data"] == run["data"]
    assert run["data"]["dataset"] == "outfits"
    for other in (file, served):
        assert other["classes"] == run["classes"]
        # Images that are level with each other may be ranked either way.
        assert other["figures"].pop("mean_ap") == pytest.approx(run["figures"]["mean_ap"], abs=0.01)
        assert other["figures"] == pytest.approx({key: run["figures"][key] for key in other["figures"]}, abs=1e-6)
        assert [mistake["image"] for mistake in other["mistakes"]] == [mistake["image"] for mistake in run["mistakes"]]
    assert served["subject"]["task"] == "multi_label"
    assert 0 < run["figures"]["o_f1"] < 1
    probabilities = [mistake["probability"] for mistake in run["mistakes"]]
    assert probabilities == sorted(probabilities, reverse=True)


def test_a_baseline_decides_by_its_threshold_wherever_it_is(
    garments_few: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = label_sets.decisive_scores("sigmoids", garments_few)
    run = label_sets.finished(tmp_path / "run", "sigmoids", network)
    file = _exported(run, tmp_path / "models")
    here, there = (document(source, "--data", "outfits") for source in (run.folder, file))
    assert here["figures"] == pytest.approx(there["figures"], abs=1e-6)
    assert here["classes"] == there["classes"]
    with Server(ServerConfig(models=tmp_path / "models", port=0, http_port=-1, provider="cpu")) as server:
        served = document("sigmoids", "--server", server.address)
        monkeypatch.setattr(Client, "parameters", lambda *_, **__: {})
        assert "which its server does not give" in refused("sigmoids", "--server", server.address)
        monkeypatch.setattr(Client, "parameters", lambda *_, **__: {"hangtag.threshold": "high"})
        assert "whose hangtag.labels or hangtag.threshold cannot be read" in refused(
            "sigmoids", "--server", server.address
        )
    assert served["figures"] == pytest.approx(there["figures"], abs=1e-6)
    assert served["classes"] == there["classes"]


def test_the_table_and_the_picture(cnn_rnn: Exported, tmp_path: Path) -> None:
    arguments = (cnn_rnn.file, "--data", "outfits-independent", "--split", "validation", "--limit", LIMIT)
    result = hangtag("evaluate", *arguments, "--pictures", tmp_path)
    assert result.exit_code == 0, result.output
    assert f"on {LIMIT} validation images of outfits-independent" in " ".join(result.stdout.split())
    written = document(cnn_rnn.file, "--data", "outfits-independent", "--split", "validation")
    words = " ".join(result.stdout.split())
    assert f"O-F1 {written['figures']['o_f1']:.2%}" in words
    assert f"exact match {written['figures']['exact_match']:.2%}" in words
    assert not (tmp_path / "confusion.png").exists()
    with Image.open(tmp_path / "mistakes.png") as picture:
        grey = np.asarray(picture.convert("L"))
    assert (grey < 90).sum() > 24 * 100 * 100  # the canvases' dark ground


def test_questions_that_do_not_fit(cnn_rnn: Exported) -> None:
    assert "is a single_label model and cannot be evaluated on outfits" in refused(LSTM, "--data", "outfits")
    assert "is a multi_label model and cannot be evaluated on fashion-mnist" in refused(
        cnn_rnn.run.folder, "--data", "fashion-mnist"
    )
    unused = hangtag("evaluate", cnn_rnn.file, "--distances", LSTM)
    assert unused.exit_code == 2
    assert "predicts sets of labels; distances apply to single labels" in " ".join(unused.stderr.split())


# Figures that are computed by hand.


class FakeSubject(Subject):
    """A subject with a threshold of the test's choice. It is never run."""

    kind, name, task, details = "run", "a test", "multi_label", {}

    def __init__(self, threshold: float | None = None) -> None:
        self.threshold = threshold

    def answer(self, images: Array, report: Progress) -> Outputs:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


TRUTH = np.array([[1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 1]], bool)
LABELS3 = ("a", "b", "c")
PATH = np.array([[1, 0, -1], [2, -1, -1], [2, -1, -1], [1, -1, -1]])
PROBABILITIES = np.where((PATH[:, :, None] == np.arange(3)).any(axis=1), 0.9, 0.1).astype(np.float32)


def test_sets_by_hand() -> None:
    outputs = {"path": PATH, "probabilities": PROBABILITIES, "path_probability": np.array([0.1, 0.2, 0.3, 0.4])}
    result = multi_label.measure(FakeSubject(), outputs, TRUTH, LABELS3)
    assert result.figures["exact_match"] == pytest.approx(2 / 4)
    assert result.figures["o_precision"] == pytest.approx(4 / 5)
    assert result.figures["o_recall"] == pytest.approx(4 / 6)
    a, _, c = result.classes
    assert (a.precision, a.recall, a.support) == pytest.approx((1, 1 / 2, 2))
    assert (c.precision, c.recall, c.support) == pytest.approx((1 / 2, 1 / 2, 2))
    confident, other = result.mistakes
    assert (confident.image, confident.true, confident.predicted, confident.probability) == (3, ("b", "c"), ("b",), 0.4)
    assert (other.image, other.true, other.predicted) == (2, ("a",), ("c",))


def test_without_path_probabilities_the_worst_come_first() -> None:
    decided = multi_label.measure(FakeSubject(0.5), {"probabilities": PROBABILITIES}, TRUTH, LABELS3)
    assert [(mistake.image, mistake.probability) for mistake in decided.mistakes] == [(2, None), (3, None)]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"logits": PROBABILITIES}, "must answer 4 images with probabilities .4, 3., not none"),
        ({"probabilities": PROBABILITIES[:, :2]}, r"not probabilities of the shape \[4, 2\]"),
        ({"probabilities": PROBABILITIES * np.nan, "path": PATH}, "not finite"),
        ({"probabilities": PROBABILITIES, "path": PATH + 1}, "other labels than the 3"),
        ({"probabilities": PROBABILITIES}, "decides by a threshold"),
    ],
)
def test_answers_that_do_not_fit(outputs: dict[str, Array], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        multi_label.measure(FakeSubject(), outputs, TRUTH, LABELS3)


def test_other_labels_than_the_data_sets(cnn_rnn: Exported, tmp_path: Path) -> None:
    metrics = cnn_rnn.run.read_metrics()
    metrics["summary"]["labels"] = list(reversed(LABELS))
    copy = type(cnn_rnn.run)(tmp_path)
    for name in ("config.json", "best.pt"):
        (tmp_path / name).write_bytes((cnn_rnn.run.folder / name).read_bytes())
    copy.write_metrics(metrics)
    assert "has the labels Ankle boot, Bag" in refused(tmp_path, "--data", "outfits")
