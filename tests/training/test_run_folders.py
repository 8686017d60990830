"""The folders of runs: damaged files, and the config that is published in exported files."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hangtag.training.errors import RunMismatchError
from hangtag.training.runs.config import key_of, portable
from hangtag.training.runs.run import Run
from tests.training.small_runs import config

pytestmark = pytest.mark.slow


# Damaged files.


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(0, 255))
def test_a_damaged_byte_is_noticed_or_harmless_and_a_missing_end_is_noticed(
    tmp_path: Path, where: float, flip: int
) -> None:
    run, weight = Run(tmp_path), torch.arange(500.0)
    run.save("best.pt", {"model": weight})
    contents = bytearray((tmp_path / "best.pt").read_bytes())
    place = int(where * len(contents))
    if flip:
        contents[place] ^= flip
    else:
        del contents[place:]
    (tmp_path / "best.pt").write_bytes(contents)
    try:
        state = run.load("best.pt")
    except RunMismatchError:
        return
    assert flip
    assert torch.equal(state["model"], weight)


# Runs of earlier releases.


def test_a_run_with_a_loss_that_is_gone_cannot_be_continued(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.start(config())
    stored = run.config | {"loss": {"name": "soft-labels", "beta": 5.0, "weight": 0.5, "distances": "0a"}}
    (run.folder / "config.json").write_text(json.dumps(stored))
    with pytest.raises(RunMismatchError, match=r"holds a run with another loss\.name and .* Choose another --out"):
        run.start(config())


# A run's config, as it is published in exported files.


def test_a_malformed_config_belongs_to_no_run() -> None:
    of_a_run = config().as_json()
    malformed = of_a_run | {"model": [1], "environment": None, "recipe": 3}
    assert {key_of(malformed), key_of(of_a_run)} != {key_of(of_a_run)}


def test_a_published_config_names_no_folders_of_this_machine() -> None:
    plain = config().as_json()
    paths = "/home/me/models/resnet/1/model.onnx", "models/cnn/2/model.onnx"
    own = plain | {
        "data_dir": "/home/me/data",
        "command": ["lstm", "--data-dir", "/home/me/data"],
        "teachers": [{"digest": "0a", "path": path} for path in paths],
        "start_from": {"digest": "0b", "path": "/home/me/all/of/it.pt"},
    }
    published = portable(own)
    assert "/home/me" not in json.dumps(published)
    assert [file["path"] for file in published["teachers"]] == ["resnet/1/model.onnx", "models/cnn/2/model.onnx"]
    assert published["start_from"]["path"] == "all/of/it.pt"
    different = {"data_dir", "teachers", "start_from", "command"}
    assert {key: published[key] for key in published.keys() - different} == {
        key: plain[key] for key in plain.keys() - different
    }
    assert "/home/me/data" in json.dumps(own)  # the run's own config is not changed
    assert portable(plain) == plain
