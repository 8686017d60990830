"""A run's page, report.html, shows the contents of the run's files, and states what it cannot show."""

import base64
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.kit import garments
from tests.kit.browser import chromium, require_good_looks
from tests.kit.command import invoke, refusal
from tests.training.small_runs import Finished, command, logits, read

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(finished: Finished) -> str:
    """The page that the command wrote at the end of the run."""
    return (finished.folder / "report.html").read_text()


def shown(run: Path, file: Path) -> str:
    """The page of a run that `hangtag runs show` writes."""
    invoke("runs", "show", run, "--html", file)
    return file.read_text()


def test_the_command_writes_a_page_that_needs_no_other_file(finished: Finished, page: str, tmp_path: Path) -> None:
    assert shown(finished.folder, tmp_path / "again.html").strip() == page.strip()
    assert not re.findall(r"""<script|\b(?:src|href)=["'](?!#|data:)""", page)
    with chromium() as browser:
        require_good_looks(browser, finished.folder / "report.html")


def test_it_has_curves_figures_recipe_and_provenance(finished: Finished, page: str) -> None:
    pictures = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    assert [picture.get("aria-label") for picture in pictures] == [
        "accuracy by epoch", "loss by epoch", "learning rate by epoch",
    ]  # fmt: skip
    axis = [float(tick) for tick in re.findall(r"([\d.]+)\s*%", "".join(pictures[0].itertext()))]
    highest = max(row["validation_accuracy"] for row in read(finished.folder)["epochs"])
    assert 60 * highest < max(axis) <= 100
    figures, config = read(finished.folder)["summary"], read(finished.folder, "config.json")
    for split in ("validation", "test"):
        assert f"<b>{figures[split]['accuracy']:.2%}</b>" in page
    assert "<dt>learning rate</dt><dd>0.001</dd>" in page
    assert f"<dt>torch</dt><dd>{config['environment']['torch']}</dd>" in page
    assert f"<dt>data digest</dt><dd>{config['data_digest']}</dd>" in page


def test_the_matrix_is_that_of_the_validation_split(finished: Finished, page: str) -> None:
    (table,) = re.findall(r'<table class="matrix">.*?</table>', page, re.DOTALL)
    counts = [int(cell or 0) for cell in re.findall(r"<td[^>]*>(\d*)</td>", table)]
    confusion = np.array(read(finished.folder)["summary"]["validation"]["confusion"])
    assert counts == confusion.ravel().tolist()
    depths = [int(depth) for depth in re.findall(r"--depth: (\d+)%", table)]
    mistakes = confusion - np.diag(confusion.diagonal())
    assert len(depths) == (mistakes > 0).sum()
    assert max(depths) == 55
    assert re.findall(r"--depth: 55%[^>]*>(\d+)<", table)[0] == str(mistakes.max())


def test_of_many_labels_the_worst_and_the_most_frequent_mistakes_are_listed(finished: Finished, tmp_path: Path) -> None:
    metrics = read(finished.folder)
    counts = np.diag([9] * 41)
    counts[3, 5], counts[5, 3] = 2, 7
    metrics["summary"]["labels"] = [f"label {number}" for number in range(41)]
    metrics["summary"]["validation"]["confusion"] = counts.tolist()
    (tmp_path / "config.json").write_text((finished.folder / "config.json").read_text())
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    listed = shown(tmp_path, tmp_path / "page.html")
    assert "matrix" not in listed.partition("<body")[2]
    rows = re.findall(r"<tr><td>([^<]*)</td><td>([^<]*)</td><td>(\d+)</td></tr>", listed)
    assert rows == [("label 5", "label 3", "7"), ("label 3", "label 5", "2")]
    assert "Labels with a higher F1, which are left out: 1." in listed
    assert re.findall(r"<tr><td>([^<]*)</td><td>[^<]* %</td>", listed)[:2] == ["label 3", "label 5"]


def test_the_images_are_those_with_the_highest_loss(finished: Finished, page: str) -> None:
    validation = garments.whole().validation.first(640)
    answers, classes = logits(finished.folder, validation.images), torch.tensor(validation.classes).long()
    losses = torch.nn.functional.cross_entropy(answers, classes, reduction="none").numpy()
    expected = np.sort(losses)[::-1][:24]
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="validation image (\d+)">', page)
    assert losses[[int(index) for _, index in pictures]] == pytest.approx(expected, abs=1e-4)
    for png, index in pictures:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))
        assert np.array_equal(255 - pixels, validation.images[int(index)])
    assert f"; loss {expected[0]:.2f}</figcaption>" in page


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ("figures", "An earlier version of hangtag trained this run, and did not record these images."),
        ("data", "The images cannot be read: /nowhere lacks "),
    ],
)
def test_it_says_why_it_shows_no_images(finished: Finished, tmp_path: Path, lost: str, reason: str) -> None:
    config, metrics = read(finished.folder, "config.json"), read(finished.folder)
    if lost == "data":
        config["data_dir"] = "/nowhere"
    else:
        del metrics["summary"]["worst"]
        for row in metrics["epochs"]:
            del row["learning_rate"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    changed = shown(tmp_path, tmp_path / "page.html")
    assert reason in changed
    assert "<img" not in changed
    assert '<table class="matrix">' in changed
    assert ('aria-label="learning rate by epoch"' in changed) == (lost == "data")


def test_an_unfinished_run_has_curves_alone(broken_off: Path, tmp_path: Path) -> None:
    begun = shown(broken_off, tmp_path / "page.html")
    assert "<b>1 of 4</b>" in begun
    assert 'aria-label="accuracy by epoch"' in begun
    assert "Mistakes" not in begun


def test_a_page_that_cannot_be_written_is_one_line_after_a_whole_run(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    message = refusal(*command("lstm"), "--out", tmp_path)
    assert message == f"cannot write {tmp_path / 'report.html'}: Is a directory"
    assert "summary" in read(tmp_path)
