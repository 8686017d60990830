"""The report about an export is self-contained and shows checks, pictures and the worst images."""

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from hangtag.export import report
from hangtag.export.errors import ExportError
from hangtag.export.foreign import intake
from hangtag.export.gate import speed
from hangtag.training.data.fashion_mnist import LABELS
from hangtag.training.metrics.multi_label import decide
from tests.export import label_sets
from tests.export.exported import Exported, label_scores
from tests.kit import onnx_models
from tests.kit.browser import chromium, require_good_looks

pytestmark = pytest.mark.slow


def pictures(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def outcomes(page: str) -> dict[str, str]:
    """The outcome of each check, by its name."""
    rows = re.findall(r'<span class="pill \w+">([^<]*)</span></td>\s*<th scope="row">(.*?)</th>', page)
    return {name: outcome for outcome, name in rows}


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
    assert outcomes(page)["torch.compile"] == "not run"
    assert "not timed: no" in page
    assert "<dt>recipe</dt><dd>tiny</dd>" in page
    assert "<b>1</b> LSTM" in page


def test_a_check_that_did_not_run_is_not_said_to_have_passed(page: str, lstm: Exported) -> None:
    ran = {check.name: check.ran for check in lstm.published.proof.checks}
    assert ran["cuda"] is any(session.startswith("CUDA") for session in onnxruntime.get_available_providers())
    shown = outcomes(page)
    assert {name: shown[name] for name in ran} == {name: "passed" if each else "not run" for name, each in ran.items()}


def test_provenance_is_in_words(page: str) -> None:
    provenance = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    assert provenance["labels"] == ", ".join(LABELS)
    assert re.fullmatch(r"python \S+, onnx \S+, onnxruntime \S+, torch \S+, torch export \S+", provenance["versions"])
    assert not [value for value in provenance.values() if "{" in value or "[" in value or "&#34;" in value]


def test_it_draws_errors_agreement_speed_and_the_worst_images(page: str) -> None:
    drawn = pictures(page)
    assert len(drawn) == 3
    assert len(re.findall("<img", page)) == 8
    texts = [" ".join("".join(picture.itertext()).split()) for picture in drawn]
    assert "allowed 0.0001" in texts[0]
    assert "Ankle boot" in texts[1]
    assert "answers that the file does not give" in texts[1]
    assert len(re.findall(r"\b1 of \d+", texts[1])) == 1  # One image is answered otherwise.
    assert "batch 64, ms" in texts[2]


def test_where_all_answers_are_pytorchs_a_sentence_says_so(lstm: Exported, tmp_path: Path) -> None:
    report.write_run_report(lstm.published, lstm.published.images, LABELS, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    count = len(lstm.published.images)
    assert f"None: all {count:,} images are answered as PyTorch does." in page
    assert "not run: by --timing none" not in page
    assert outcomes(page)["speed"] == ("not run" if lstm.published.proof.speed is None else "measured")


def test_the_first_of_the_worst_images_is_the_one_that_is_answered_otherwise(page: str, lstm: Exported) -> None:
    first = re.findall(r"<figcaption class=\"small\">(.*?)</figcaption>", page)[0]
    logits = lstm.published.proof.expected["logits"][7]
    labels = LABELS[logits.argmax()], LABELS[np.roll(logits, 1).argmax()]
    assert first == f"test image 7: {labels[0]}; the file says {labels[1]}"


@pytest.mark.parametrize(("model", "score"), [("cnn_rnn", "probability"), ("sigmoids", "logit")])
def test_label_sets_are_compared_too(
    model: str, score: str, paths: Exported, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """For a file that answers one canvas with no label, or with all of them, and PyTorch with some."""
    is_path = model == "cnn_rnn"
    published = (paths if is_path else label_scores(tmp_path_factory, model)).published
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
    captions = re.findall(r"<figcaption class=\"small\">(.*?)</figcaption>", page)
    assert captions[0] == f"test image {place}: {', '.join(LABELS[label] for label in some)}; the file says {instead}"
    assert not [other for other in captions[1:] if "the file says" in other]
    drawn = ["".join(picture.itertext()) for picture in pictures(page)]
    assert len(drawn) == 2
    assert f"largest difference of a {score} from PyTorch's" in drawn[0]
    assert "answers that the file does not give" in drawn[1]
    assert "1 of" in drawn[1] or not is_path


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
    assert outcomes(page)["batching"] == "passed"
    assert "batched: the same answers alone and in batches of 2, 3, 7" in page
    assert "theirs.onnx, SHA-256" in page
    assert len(pictures(page)) == 1


def test_the_pages_look_right_in_a_browser(page: str, lstm: Exported, tmp_path: Path) -> None:
    """One with differences and timings, one of a folder with a long name without them, one of somebody else's file."""
    (tmp_path / "different.html").write_text(page)
    long = Path("/a-rather-long-path-to-a-model-repository" * 3) / "a-model-with-a-rather-long-name/12"
    renamed = dataclasses.replace(lstm.published, folder=long)
    report.write_run_report(renamed, renamed.images, LABELS, tmp_path / "long.html")
    file = tmp_path / "theirs.onnx"
    file.write_bytes(onnx_models.free_axis().SerializeToString())
    report.write_file_report(intake.accept(file, "theirs", tmp_path / "models", None), tmp_path / "file.html")
    with chromium() as browser:
        for written in sorted(tmp_path.glob("*.html")):
            require_good_looks(browser, written)
