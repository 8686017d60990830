"""The report about an export is self-contained and shows checks, pictures and the worst images."""

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from hangtag.export import exporter, report
from hangtag.export.errors import ExportError
from hangtag.export.foreign import intake
from hangtag.export.gate import speed
from hangtag.training.data.fashion_mnist import LABELS, Split
from hangtag.training.metrics.multi_label import decide
from tests import onnx_models
from tests.export import label_sets
from tests.export.conftest import Exported

pytestmark = pytest.mark.slow


def pictures(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


@pytest.fixture(scope="module")
def page(lstm: Exported, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report about a file that answers image 7 otherwise than PyTorch, with timings."""
    published = lstm.published
    proof = published.proof
    answered = {name: rows.copy() for name, rows in proof.answered.items()}
    answered["logits"][7] = np.roll(answered["logits"][7], 1)
    timed = speed.Speed(
        {1: {"file": 0.5, "PyTorch": 2.0}, 64: {"file": 9.0, "PyTorch": 9.9}}, 1, {"torch.compile": "no"}
    )
    changed = dataclasses.replace(published, proof=dataclasses.replace(proof, answered=answered, speed=timed))
    file = tmp_path_factory.mktemp("report") / "reports/lstm-1.html"
    report.write_run_report(changed, changed.images, LABELS, file)
    return file.read_text()


def test_it_lists_each_check_and_the_speed(page: str, lstm: Exported) -> None:
    for check in lstm.published.proof.checks:
        assert check.name in page
    assert "batch 1 in 0.50 ms (4.0x PyTorch), batch 64 in 9.00 ms (1.1x PyTorch), 1 thread" in page
    assert "torch.compile: no" in page
    assert "<th>recipe</th><td>tiny</td>" in page
    assert "<th>LSTM</th><td>1</td>" in page


def test_it_draws_errors_agreement_speed_and_the_worst_images(page: str) -> None:
    drawn = pictures(page)
    assert len(drawn) == 3 + 8
    texts = ["".join(picture.itertext()) for picture in drawn[:3]]
    assert "allowed 0.0001" in texts[0]
    assert "Ankle boot" in texts[1] or "share of PyTorch" in texts[1]
    assert "0.5 ms" in texts[2]


def test_the_first_of_the_worst_images_is_the_one_that_is_answered_otherwise(page: str, lstm: Exported) -> None:
    first = re.findall(r"<figcaption>(.*?)</figcaption>", page)[0]
    logits = lstm.published.proof.expected["logits"][7]
    labels = LABELS[logits.argmax()], LABELS[np.roll(logits, 1).argmax()]
    assert first == f"test image 7: {labels[0]}; the file says {labels[1]}"


@pytest.mark.parametrize(("model", "score"), [("cnn_rnn", "probability"), ("sigmoids", "logit")])
def test_label_sets_are_compared_too(
    model: str, score: str, garments: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a file that answers one canvas with no label, or with all of them, and PyTorch with some."""
    monkeypatch.setattr(exporter, "CANVASES", 100)
    is_path = model == "cnn_rnn"
    network = label_sets.decisive_cnn_rnn(garments) if is_path else label_sets.decisive_scores(model, garments)
    published = exporter.export(label_sets.finished(tmp_path / "run", model, network), tmp_path / "models", garments)
    expected = published.proof.expected
    answered = {name: rows.copy() for name, rows in published.proof.answered.items()}
    if is_path:
        place = int((expected["path"] >= 0).any(axis=1).argmax())
        answered["path"][place] = -1
        some, instead = sorted(set(expected["path"][place].tolist()) - {-1}), "no label"
    else:
        place = 7
        answered["probabilities"][place] = 1.0
        (some,) = (np.flatnonzero(row).tolist() for row in decide(expected["probabilities"][7:8], label_sets.THRESHOLD))
        instead = ", ".join(LABELS)
    changed = dataclasses.replace(published, proof=dataclasses.replace(published.proof, answered=answered))
    report.write_run_report(changed, changed.images, LABELS, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert captions[0] == f"test image {place}: {', '.join(LABELS[label] for label in some)}; the file says {instead}"
    assert not [other for other in captions[1:] if "the file says" in other]
    drawn = ["".join(picture.itertext()) for picture in pictures(page)]
    assert len(drawn) == 2 + 8
    assert f"largest difference of a {score} from PyTorch's" in drawn[0]
    assert "share of PyTorch's answers that the file gives too" in drawn[1]
    assert "100.00%" in drawn[1]


def test_it_refers_to_no_other_file(page: str) -> None:
    assert "<script" not in page
    assert not re.findall(r"""\b(?:src|href)=["'](?!#|data:)""", page)
    assert not re.findall(r"""@import|url\((?!#)""", page)


def test_the_error_about_an_unwritable_report_says_that_the_model_is_published(lstm: Exported, tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("a file, not a folder")
    with pytest.raises(ExportError, match=r"lstm/1 is published, but its report \S+ cannot be written: "):
        report.write_run_report(lstm.published, lstm.published.images, LABELS, tmp_path / "reports/lstm-1.html")


def test_a_foreign_file_gets_a_report_too(tmp_path: Path) -> None:
    file = tmp_path / "theirs.onnx"
    file.write_bytes(onnx_models.free_axis().SerializeToString())
    accepted = intake.accept(file, "theirs", tmp_path / "models", None)
    report.write_file_report(accepted, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "batched: the same answers alone and in batches of 2, 3, 7" in page
    assert "theirs.onnx, SHA-256" in page
    assert len(pictures(page)) == 1
