"""Multi-label models and data sets by their names, in runs and on the command line."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner

from hangtag.training.catalog import dataset_for
from hangtag.training.cli import train
from hangtag.training.data.outfits import SIZES
from hangtag.training.errors import RunMismatchError, SettingsError
from hangtag.training.runs.run import Run
from tests.training.configs import make_config
from tests.training.multi_label_configs import config_of

pytestmark = pytest.mark.slow


def test_runs_on_different_data_sets_are_different_runs(tmp_path: Path) -> None:
    one, other = (replace(config_of("cnn_rnn"), dataset=name) for name in ("outfits", "outfits-independent"))
    assert one.run_name == "cnn_rnn-outfits-tiny-seed0"
    assert make_config().run_name == "lstm-tiny-seed0"
    tmp_path.mkdir(exist_ok=True)
    Run(tmp_path).start(one)
    with pytest.raises(RunMismatchError, match="another dataset"):
        Run(tmp_path).start(other)


def test_a_config_without_a_data_set_is_one_of_fashion_mnist(tmp_path: Path) -> None:
    Run(tmp_path).start(make_config())
    path = tmp_path / "config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    del config["dataset"]
    path.write_text(json.dumps(config))
    Run(tmp_path).start(make_config())


@pytest.mark.parametrize(
    ("name", "model", "picked"),
    [(None, "lstm", "fashion-mnist"), (None, "cnn_rnn", "outfits"), ("outfits-independent", "sigmoids", None)],
)
def test_a_network_has_a_default_data_set_and_may_use_another(name: str | None, model: str, picked: str | None) -> None:
    assert dataset_for(name, model) == (picked or name)


@pytest.mark.parametrize(("name", "model"), [("outfits", "lstm"), ("fashion-mnist", "cnn_rnn"), ("voc2007", "cnn")])
def test_a_data_set_that_a_model_cannot_learn_from_is_refused(name: str, model: str) -> None:
    with pytest.raises(SettingsError, match=f"{model} cannot learn from {name}: it takes"):
        dataset_for(name, model)


# The command


def test_the_command_trains_on_outfits_and_reports_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "validation", "test"):
        monkeypatch.setitem(cast(dict[str, int], SIZES), split, 64)
    arguments = ["cnn_embedding", "--data", "outfits-independent", "--epochs", "1", "--threads", "1", "--device", "cpu"]
    outcome = CliRunner().invoke(train, [*arguments, "--out", str(tmp_path)])
    assert outcome.exit_code == 0, outcome.output
    assert "cnn_embedding-outfits-independent-multi-label-seed0: data from" in outcome.output
    assert re.search(
        r"best epoch 1: validation O-F1 [\d.]+%, validation exact match [\d.]+%, test O-F1", outcome.output
    )
    config = Run(tmp_path).read_config()
    assert (config["dataset"], config["recipe"]["name"]) == ("outfits-independent", "multi-label")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["lstm", "--data", "outfits"], "--data outfits: lstm cannot learn from outfits: it takes fashion-mnist"),
        (["sigmoids", "--recipe", "study"], "no such recipe for sigmoids; it has: multi-label"),
        (["cnn_rnn", "--loss", "soft-labels"], "--loss: cnn_rnn has a loss of its own"),
    ],
)
def test_the_command_refuses_what_does_not_fit_before_it_reads_any_data(
    arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    outcome = CliRunner().invoke(train, [*arguments, "--data-dir", str(tmp_path / "nowhere")])
    assert outcome.exit_code == 2
    assert complaint in outcome.output
