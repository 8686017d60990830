"""The report about an export is self-contained and shows checks, pictures and the worst images."""

import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import onnx
import pytest

from hangtag.export import report
from tests.kit import onnx_file, onnx_models, runs
from tests.kit.browser import chromium, require_good_looks
from tests.kit.command import invoke
from tests.kit.exported import Export, Exported, Garments, label_sets, published_in
from tests.kit.shipped import latest

pytestmark = pytest.mark.slow


def pictures(page: str) -> list[str]:
    """The text in each picture."""
    drawn = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    return [" ".join("".join(picture.itertext()).split()) for picture in drawn]


def outcomes(page: str) -> dict[str, str]:
    """The outcome of each check, by its name."""
    rows = re.findall(r'<span class="pill \w+">([^<]*)</span></td>\s*<th scope="row">(.*?)</th>', page)
    return {name: outcome for outcome, name in rows}


def captions(page: str) -> list[str]:
    """The captions of the worst images."""
    return re.findall(r"<figcaption class=\"small\">(.*?)</figcaption>", page)


def test_it_lists_each_check_and_what_was_not_run(of_run: Export) -> None:
    page = of_run.page.read_text()
    gate = json.loads(onnx_file.metadata(of_run.folder / "models/lstm/1/model.onnx")["gate"])
    not_run = {"cuda"} if gate["cuda"]["outcome"] == "not run" else set()
    expected = {name: "not run" if name in not_run else "passed" for name in gate if name != "precision"}
    assert outcomes(page) == expected | {"speed": "measured", "torch.compile": "not run"}
    assert "not timed: there is no C++ compiler" in page
    assert "not run: by --timing none" not in page
    assert re.search(r"batch 1 in \S+ ms \(\S+x PyTorch\), batch 64 in \S+ ms \(\S+x PyTorch\), 1 thread", page)
    assert "None: all 10,000 images are answered as PyTorch does." in page
    assert "<b>1</b> LSTM" in page


def test_provenance_is_in_words(of_run: Export) -> None:
    page = of_run.page.read_text()
    provenance = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    assert provenance["recipe"] == "tiny"
    labels = json.loads(onnx_file.metadata(of_run.folder / "models/lstm/1/model.onnx")["labels"])
    assert provenance["labels"] == ", ".join(labels)
    assert re.fullmatch(r"python \S+, onnx \S+, onnxruntime \S+, torch \S+, torch export \S+", provenance["versions"])
    provenance.pop("speed", "")  # figures, which the checks show in words
    assert not [value for value in provenance.values() if "{" in value or "[" in value or "&#34;" in value]


def test_it_draws_errors_agreement_and_speed_and_shows_the_worst_images(
    of_own_file: Export, garments: Garments
) -> None:
    """The first are those that the file answers otherwise; 8 bits have some."""
    page = of_own_file.page.read_text()
    errors, disagreement, speed = pictures(page)
    assert "allowed" in errors
    assert "answers that the file does not give" in disagreement
    assert re.search(r"\b\d+ of \d", disagreement)
    assert "batch 64, ms" in speed
    assert len(re.findall("<img", page)) == len(captions(page)) == 8
    file = of_own_file.folder / "models/lstm-int8/1/model.onnx"
    labels = json.loads(onnx_file.metadata(file)["labels"])
    for caption in captions(page):
        parts = re.fullmatch(r"test image (\d+): (.*); the file says (.*)", caption)
        assert parts, caption
        image = garments.images[int(parts[1])][None]
        answered = [onnx_file.answers(each, image=image)["logits"].argmax() for each in (latest("lstm"), file)]
        assert [labels[label] for label in answered] == [parts[2], parts[3]]


def test_it_refers_to_no_other_file(of_run: Export, of_own_file: Export) -> None:
    for page in (of_run.page.read_text(), of_own_file.page.read_text()):
        assert "<script" not in page
        assert not re.findall(r"""\b(?:src|href)=["'](?!#|data:)""", page)
        assert not re.findall(r"""@import|url\((?!#)""", page)


@pytest.mark.parametrize(("model", "score"), [("cnn_rnn", "probability"), ("sigmoids", "logit")])
def test_label_sets_are_compared_too(
    model: str, score: str, paths: Exported, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """For a file that answers one canvas with no label, or with all of them, and PyTorch with some."""
    is_path = model == "cnn_rnn"
    published = (paths if is_path else label_sets(tmp_path_factory, model)).published
    labels = json.loads(published.metadata["labels"])
    expected = published.proof.expected
    answered = {name: rows.copy() for name, rows in published.proof.answered.items()}
    if is_path:
        place = int((expected["path"] >= 0).any(axis=1).argmax())
        answered["path"][place] = -1
        some, instead = sorted(set(expected["path"][place].tolist()) - {-1}), "no label"
    else:
        place = int((expected["probabilities"] >= runs.THRESHOLD).any(axis=1).argmax())
        answered["probabilities"][place] = 1.0
        some = np.flatnonzero(expected["probabilities"][place] >= runs.THRESHOLD).tolist()
        instead = ", ".join(labels)
    changed = dataclasses.replace(published, proof=dataclasses.replace(published.proof, answered=answered))
    report.write_run_report(changed, changed.images, labels, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert (
        captions(page)[0]
        == f"test image {place}: {', '.join(labels[label] for label in some)}; the file says {instead}"
    )
    assert not [other for other in captions(page)[1:] if "the file says" in other]
    assert outcomes(page)["speed"] == "not run"
    errors, disagreement = pictures(page)
    assert f"largest difference of a {score} from PyTorch's" in errors
    assert "answers that the file does not give" in disagreement
    assert "1 of" in disagreement or not is_path


def test_the_error_about_an_unwritable_report_says_that_the_model_is_published(tmp_path: Path) -> None:
    onnx.save(onnx_models.classifier(), tmp_path / "theirs.onnx")
    (tmp_path / "file").write_text("a file, not a folder")
    folders = ("--models", tmp_path / "models", "--reports", tmp_path / "file/reports")
    result = invoke("import", tmp_path / "theirs.onnx", "--name", "theirs", *folders, exit_code=1)
    assert re.search(r"theirs/1 is published, but its report \S+ cannot be written: ", result.stderr)
    assert (tmp_path / "models/theirs/1/model.onnx").exists()


@pytest.mark.parametrize(
    ("version", "page"),
    [
        ("models/cnn/3", "cnn-3.html"),
        ("other/cnn/3", "other/cnn-3.html"),
        ("{here}/team/shop/cnn/3", "team-shop/cnn-3.html"),
        ("cnn/3", "{name}/cnn-3.html"),
        ("/cnn/3", "root/cnn-3.html"),
    ],
)
def test_each_repository_but_the_default_one_has_a_folder_of_its_own(
    version: str, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = Path("reports") / page.format(name=tmp_path.name)
    assert report.report_path(Path("reports"), Path(version.format(here=tmp_path))) == expected


def test_the_pages_look_right_in_a_browser(of_own_file: Export, tmp_path: Path) -> None:
    """One with differences, and one of somebody else's file with a long name in a long folder."""
    onnx.save(onnx_models.free_axis(), tmp_path / "theirs.onnx")
    long = Path("a-rather-long-path-to-a-model-repository/" * 3)
    theirs = (tmp_path / "theirs.onnx", "--name", "a-model-with-a-rather-long-name")
    published_in(tmp_path, *theirs, "--models", tmp_path / long, command="import")
    pages = [of_own_file.page, *tmp_path.rglob("*.html")]
    assert len(pages) == 2
    shown = outcomes(pages[1].read_text())
    assert (shown["batching"], shown["input"]) == ("passed", "noted")
    with chromium() as browser:
        for page in pages:
            require_good_looks(browser, page)
