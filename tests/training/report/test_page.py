"""The page of a run shows what its files hold, and says what it cannot show."""

import base64
import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from hangtag.training.catalog import build
from hangtag.training.data.fashion_mnist import FashionMnist
from hangtag.training.metrics.single_label import log_probabilities
from hangtag.training.networks.inference import predict
from hangtag.training.report.page import run_page
from hangtag.training.runs import overview
from hangtag.training.runs.run import REPORT, Run
from tests.kit.browser import chromium, require_good_looks
from tests.training.command import hangtag, one_error

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(finished: tuple[Path, Result]) -> str:
    """The page that the command wrote at the end of its run."""
    return (finished[0] / REPORT).read_text()


def test_the_command_writes_the_page_that_its_files_give(finished: tuple[Path, Result], page: str) -> None:
    assert f"wrote {finished[0] / REPORT}" in finished[1].stderr
    assert run_page(overview.read(finished[0])) == page
    assert not re.findall(r"""<script|\b(?:src|href)=["'](?!#|data:)""", page)
    with chromium() as browser:
        require_good_looks(browser, finished[0] / REPORT)


def test_it_has_curves_figures_recipe_and_provenance(finished: tuple[Path, Result], page: str) -> None:
    pictures = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    assert [picture.get("aria-label") for picture in pictures] == [
        "accuracy by epoch", "loss by epoch", "learning rate by epoch",
    ]  # fmt: skip
    run = Run(finished[0])
    figures, config = run.read_metrics()["summary"], run.read_config()
    for split in ("validation", "test"):
        assert f"<b>{figures[split]['accuracy']:.2%}</b>" in page
    assert "<dt>learning rate</dt><dd>0.001</dd>" in page
    assert f"<dt>torch</dt><dd>{config['environment']['torch']}</dd>" in page
    assert f"<dt>data digest</dt><dd>{config['data_digest']}</dd>" in page


def test_the_matrix_is_that_of_the_validation_split(finished: tuple[Path, Result], page: str) -> None:
    (table,) = re.findall(r'<table class="matrix">.*?</table>', page, re.DOTALL)
    counts = [int(cell or 0) for cell in re.findall(r"<td[^>]*>(\d*)</td>", table)]
    confusion = np.array(Run(finished[0]).read_metrics()["summary"]["validation"]["confusion"])
    assert counts == confusion.ravel().tolist()
    depths = [int(depth) for depth in re.findall(r"--depth: (\d+)%", table)]
    mistakes = confusion - np.diag(confusion.diagonal())
    assert len(depths) == (mistakes > 0).sum()
    deepest = mistakes.max()
    assert max(depths) == 55
    assert re.findall(r"--depth: 55%[^>]*>(\d+)<", table)[0] == str(deepest)


def test_the_images_are_those_with_the_highest_loss(
    finished: tuple[Path, Result], page: str, whole: FashionMnist
) -> None:
    validation = whole.validation.first(640)
    network = build("lstm")
    network.load_state_dict(Run(finished[0]).load("best.pt")["model"])
    logarithms = log_probabilities(predict(network, validation.images))
    losses = -logarithms[np.arange(640), validation.classes]
    expected = np.sort(losses)[::-1][:24]
    shown = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="validation image (\d+)">', page)
    assert losses[[int(index) for _, index in shown]] == pytest.approx(expected, abs=1e-4)
    for png, index in shown:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))
        assert np.array_equal(255 - pixels, validation.images[int(index)])
    assert f"; loss {expected[0]:.2f}</figcaption>" in page


def without_worst(_: dict[str, Any], metrics: dict[str, Any]) -> None:
    del metrics["summary"]["worst"]


def without_data(config: dict[str, Any], _: dict[str, Any]) -> None:
    config["data_dir"] = "/nowhere"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without_worst, "An earlier hangtag trained this run, and did not record them."),
        (without_data, "The images cannot be read: /nowhere lacks "),
    ],
)
def test_it_says_why_it_shows_no_images(
    finished: tuple[Path, Result],
    tmp_path: Path,
    change: Callable[[dict[str, Any], dict[str, Any]], None],
    sentence: str,
) -> None:
    contents = {name: json.loads((finished[0] / name).read_text()) for name in ("config.json", "metrics.json")}
    change(contents["config.json"], contents["metrics.json"])
    for name, content in contents.items():
        (tmp_path / name).write_text(json.dumps(content))
    changed = run_page(overview.read(tmp_path))
    assert sentence in changed
    assert "<img" not in changed
    assert '<table class="matrix">' in changed


def test_a_run_of_an_earlier_hangtag_has_no_learning_rates(finished: tuple[Path, Result], tmp_path: Path) -> None:
    metrics = Run(finished[0]).read_metrics()
    for row in metrics["epochs"]:
        del row["learning_rate"]
    shutil.copy(finished[0] / "config.json", tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert 'aria-label="learning rate by epoch"' not in run_page(overview.read(tmp_path))


def test_an_unfinished_run_has_curves_alone(broken_off: Path) -> None:
    begun = run_page(overview.read(broken_off))
    assert "<b>1 of 4</b>" in begun
    assert 'aria-label="accuracy by epoch"' in begun
    assert "Mistakes" not in begun


@pytest.mark.usefixtures("few_test_images")
def test_a_page_that_cannot_be_written_is_one_line_after_a_whole_run(raw_dir: Path, tmp_path: Path) -> None:
    arguments = ["train", "lstm", "--data-dir", str(raw_dir), "--device", "cpu", "--threads", "1"]
    (tmp_path / REPORT).mkdir()
    message = one_error(hangtag([*arguments, "--limit", "64", "--epochs", "1"], tmp_path))
    assert message == f"Error: cannot write {tmp_path / REPORT}: Is a directory"
    assert Run(tmp_path).is_finished()
