"""VOC 2007 from the archive's files to figures, by the commands of docs/training.md."""

import json
from pathlib import Path

import pytest

from tests.hangtag.conftest import hangtag
from tests.kit import voc_files

pytestmark = pytest.mark.slow


def test_a_network_learns_from_voc_and_is_evaluated_on_it(tmp_path: Path) -> None:
    run, data = tmp_path / "run", ("--data-dir", voc_files.write(tmp_path))
    trained = hangtag(
        "train", "cnn_rnn", "--data", "voc2007", *data, "--epochs", 1, "--threads", 1, "--device", "cpu", "--out", run
    )
    assert trained.exit_code == 0, trained.output
    evaluated = hangtag("evaluate", run, *data, "--pictures", tmp_path / "pictures", "--json", tmp_path / "voc.json")
    assert evaluated.exit_code == 0, evaluated.output
    assert json.loads((tmp_path / "voc.json").read_text())["data"]["images"] == len(voc_files.IMAGES["test"])
    assert list((tmp_path / "pictures").iterdir())
    near = hangtag("labels", run, "--label", "person", "--picture", tmp_path / "labels.png")
    assert near.exit_code == 0, near.output
    assert len(near.stdout.splitlines()) == 20  # the other classes under a line of headings
