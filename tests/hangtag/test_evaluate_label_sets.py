"""``hangtag evaluate`` on multi-label models: a run, its export and a server give the same numbers."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hangtag.evaluation import metrics
from hangtag.evaluation.subject import EvaluationError
from hangtag.training.data.dataset import Split
from tests.kit.command import ROOT, invoke, refusal
from tests.kit.exported import Exported
from tests.kit.server import server
from tests.kit.shipped import latest

LIMIT = 40
OUTFITS = ROOT / "examples/outfits/models"


def document(*arguments: object) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(invoke("evaluate", *arguments, "--limit", LIMIT, "--json").stdout)
    return written


@pytest.mark.parametrize("model", ["cnn_rnn", "sigmoids"])
def test_a_run_its_export_and_its_server_agree(model: str, sigmoids: Exported) -> None:
    """``sigmoids`` selects labels by a threshold, ``cnn_rnn`` one by one. The shipped ``cnn_rnn`` has no run."""
    models = OUTFITS if model == "cnn_rnn" else sigmoids.models
    sources = (models / model, *([sigmoids.run.folder] if model == "sigmoids" else []))
    file, *others = (document(source, "--data", "outfits") for source in sources)
    with server(models, http_port=-1, provider="cpu") as running:
        others.append(document(model, "--server", running.address))
    assert file["data"]["dataset"] == "outfits"
    assert 0 < file["figures"]["o_f1"] < 1
    for other in others:
        assert other["data"] == file["data"]
        assert other["subject"]["task"] == "multi_label"
        assert other["classes"] == file["classes"]
        # Images with equal scores may be ranked in either order.
        assert other["figures"].pop("mean_ap") == pytest.approx(file["figures"]["mean_ap"], abs=0.01)
        assert other["figures"] == pytest.approx({key: file["figures"][key] for key in other["figures"]}, abs=1e-6)
        assert [mistake["image"] for mistake in other["mistakes"]] == [mistake["image"] for mistake in file["mistakes"]]
    if model == "cnn_rnn":
        probabilities = [mistake["probability"] for mistake in file["mistakes"]]
        assert probabilities == sorted(probabilities, reverse=True)


def test_the_table_and_the_picture(tmp_path: Path) -> None:
    of = (OUTFITS / "cnn_rnn", "--data", "outfits-independent", "--split", "validation")
    shown = " ".join(invoke("evaluate", *of, "--limit", LIMIT, "--pictures", tmp_path).stdout.split())
    assert f"on {LIMIT} validation images of outfits-independent" in shown
    written = document(*of)
    assert f"O-F1 {written['figures']['o_f1']:.2%}" in shown
    assert f"exact match {written['figures']['exact_match']:.2%}" in shown
    assert not (tmp_path / "confusion.png").exists()
    with Image.open(tmp_path / "mistakes.png") as picture:
        grey = np.asarray(picture.convert("L"))
    assert (grey < 90).sum() > 24 * 100 * 100  # canvases have a dark background


def test_questions_that_do_not_fit(sigmoids: Exported, tmp_path: Path) -> None:
    lstm = latest("lstm")
    assert "is a single_label model" in refusal("evaluate", lstm, "--data", "outfits")
    assert "is a multi_label model" in refusal("evaluate", sigmoids.run.folder, "--data", "fashion-mnist")
    assert "predicts sets of labels, but --samples" in refusal("evaluate", sigmoids.run.folder, "--samples", "csv:one")
    copy = Path(shutil.copytree(sigmoids.run.folder, tmp_path / "other-labels"))
    metrics = json.loads((copy / "metrics.json").read_text())
    metrics["summary"]["labels"].reverse()
    (copy / "metrics.json").write_text(json.dumps(metrics))
    assert "has the labels Ankle boot; Bag" in refusal("evaluate", copy, "--data", "outfits", "--limit", 5)


def test_a_network_that_learned_from_voc_is_evaluated_on_it(voc: Path, tmp_path: Path) -> None:
    files = ("--pictures", tmp_path / "pictures", "--json", tmp_path / "voc.json")
    invoke("evaluate", voc / "run", *files)  # the run records --data-dir
    document = json.loads((tmp_path / "voc.json").read_text())
    assert (document["data"]["dataset"], document["data"]["images"]) == ("voc2007", 3)
    assert list((tmp_path / "pictures").iterdir())


# Hand-computed metrics.


def subject(threshold: float | None = None) -> Any:
    """The description of a model that is never run."""
    return SimpleNamespace(name="a test", task="multi_label", threshold=threshold)


TRUTH = Split(np.zeros((4, 1, 1), np.uint8), np.array([[1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 1]], bool))
LABELS3 = ("a", "b", "c")
PATH = np.array([[1, 0, -1], [2, -1, -1], [2, -1, -1], [1, -1, -1]])
PROBABILITIES = np.where((PATH[:, :, None] == np.arange(3)).any(axis=1), 0.9, 0.1).astype(np.float32)


def test_each_label_has_its_figures_and_the_worst_sets_come_first() -> None:
    result = metrics.measure(subject(0.5), {"probabilities": PROBABILITIES}, TRUTH, LABELS3)
    a, _, c = result.classes
    assert (a.precision, a.recall, a.support) == pytest.approx((1, 1 / 2, 2))
    assert (c.precision, c.recall, c.support) == pytest.approx((1 / 2, 1 / 2, 2))
    other, smaller = result.mistakes
    assert (other.image, other.true, other.predicted, other.probability) == (2, ("a",), ("c",), None)
    assert (smaller.image, smaller.true, smaller.predicted) == (3, ("b", "c"), ("b",))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"logits": PROBABILITIES}, "has no output probabilities, which the metrics need. Its outputs are: logits."),
        (
            {"probabilities": PROBABILITIES[:, :2]},
            r"shape \[4, 2\] for 4 images, but the data set's 3 classes need the shape \[4, 3\]",
        ),
        ({"probabilities": PROBABILITIES * np.nan, "path": PATH}, "not finite"),
        ({"probabilities": PROBABILITIES, "path": PATH + 1}, "other than the 3 labels of the data set"),
        ({"probabilities": PROBABILITIES}, "decides with a threshold"),
    ],
)
def test_answers_that_do_not_fit(outputs: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        metrics.measure(subject(), outputs, TRUTH, LABELS3)
