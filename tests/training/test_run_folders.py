"""Runs on disk: how a run is found, the label distances in its weights, and files that are damaged."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hangtag.training.catalog import build
from hangtag.training.errors import RunMismatchError
from hangtag.training.runs.config import portable
from hangtag.training.runs.run import Run
from tests.kit.command import invoke, refusal
from tests.kit.garments import LABELS
from tests.kit.voc_files import BARS
from tests.training.small_runs import config

pytestmark = pytest.mark.slow


def make(folder: Path, model: str = "lstm-56", *, summary: dict[str, Any] | None, weights: object = None) -> None:
    """Write a run that counts as finished if it has a summary."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"model": model, "recipe": {"name": "study", "epochs": 10}, "seed": 4})
    )
    metrics = {"epochs": [{}, {}], **({} if summary is None else {"summary": summary})}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    torch.save({"model": build(model).state_dict() if weights is None else weights, "epoch": 1}, folder / "best.pt")


def distances(run: object, runs: Path) -> dict[str, Any]:
    """What `hangtag labels` finds in a run's weights."""
    document: dict[str, Any] = json.loads(invoke("labels", run, "--runs", runs, "--json", "-").stdout)
    return document


def scaled_cosines(embeddings: torch.Tensor) -> npt.NDArray[np.float64]:
    """One minus the cosine of each two rows, of the largest such."""
    units = torch.nn.functional.normalize(embeddings.double())
    raw = 1 - units @ units.T
    scaled: npt.NDArray[np.float64] = (raw / raw.max()).numpy()
    return scaled


# Finding a run.


def test_a_run_is_found_by_its_folder_a_file_in_it_its_name_or_its_model(tmp_path: Path) -> None:
    for at, (name, model, done) in enumerate(
        [("old", "lstm-56", True), ("new", "lstm-56", True), ("unfinished", "lstm-56", False), ("other", "cnn", True)]
    ):
        make(tmp_path / name, model, summary={} if done else None)
        os.utime(tmp_path / name / "metrics.json", (at, at))
    matrices = {name: distances(tmp_path / name, Path("elsewhere"))["distances"] for name in ("old", "new", "other")}
    at_file = str(tmp_path / "old" / "best.pt")
    for asked, expected in (
        (at_file, "old"),
        ("old", "old"),
        ("old/best.pt", "old"),
        ("lstm-56", "new"),
        ("cnn", "other"),
    ):
        assert distances(asked, tmp_path)["distances"] == matrices[expected]
    for name in ("best.pt", "lstm"):
        message = refusal("labels", name, "--runs", tmp_path)
        assert f"no finished run '{name}'" in message
        assert "runs there: new, old, other, unfinished" in message
        assert "Train one with: hangtag train MODEL." in message
    assert "runs there: none" in refusal("labels", "lstm", "--runs", tmp_path / "none")
    message = refusal("labels", "unfinished", "--runs", tmp_path)
    assert "is not finished (2 epochs so far). Continue with: hangtag train lstm-56 " in message
    (tmp_path / "new" / "config.json").write_text('{"seed": 0}')
    assert "config.json names no model" in refusal("labels", tmp_path / "new")


# The label distances in its weights.


@pytest.mark.parametrize(
    ("model", "parameter", "labels"),
    [
        *((model, "classifier.weight", LABELS) for model in ("lstm", "lstm2", "resnet")),
        ("cnn", "classifier.6.weight", LABELS),
        *(
            (model, parameter, labels)
            for model, parameter in (("cnn_rnn", "embeddings.weight"), ("cnn_embedding", "score.weight"))
            for labels in (LABELS, BARS)
        ),
    ],
)
def test_a_networks_embeddings_are_the_rows_of_one_of_its_weights(
    tmp_path: Path, model: str, parameter: str, labels: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    state = build(model, len(labels)).state_dict()
    make(tmp_path / "run", model, summary={"labels": list(labels)}, weights=state)
    measured = distances("run", tmp_path)
    assert tuple(measured["labels"]) == labels
    assert np.allclose(measured["distances"], scaled_cosines(state[parameter][: len(labels)]))  # not a row for END
    kind = "label embeddings" if model == "cnn_rnn" else "weights of the last layer"
    assert measured["provenance"]["from"] == kind
    assert (measured["provenance"]["model"], measured["provenance"]["seed"]) == (model, 4)


def test_weights_without_embeddings_are_refused(tmp_path: Path) -> None:
    for number, weights in enumerate(
        (
            {"features.weight": torch.ones(3, 3), "bias": torch.ones(10)},
            {"embeddings.weight": torch.ones(7, 4)},
            {"quantized.weight": torch.ones(10, 4, dtype=torch.int8)},
            3,
        )
    ):
        make(tmp_path / str(number), "lstm", summary={}, weights=weights)
        message = refusal("labels", tmp_path / str(number))
        assert "best.pt holds no weights with a row for each of the 10 labels" in message


# Files that are damaged.


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(0, 255))
def test_a_damaged_byte_is_noticed_or_harmless_and_a_missing_end_is_noticed(
    tmp_path: Path, where: float, flip: int
) -> None:
    """Where no bit is flipped the rest of the file is cut off."""
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


# What is published of its config.


def test_a_published_config_names_no_folders_of_this_machine() -> None:
    plain = config().as_json()
    paths = "/home/me/models/resnet/1/model.onnx", "models/cnn/2/model.onnx"
    own = plain | {
        "data_dir": "/home/me/data",
        "tensorboard": True,
        "command": ["lstm", "--data-dir", "/home/me/data"],
        "teachers": [{"digest": "0a", "path": path} for path in paths],
        "loss": {"name": "soft-labels", "file": "/home/me/all/of/it.json"},
    }
    published = portable(own)
    assert "/home/me" not in json.dumps(published)
    assert [file["path"] for file in published["teachers"]] == ["resnet/1/model.onnx", "models/cnn/2/model.onnx"]
    assert published["loss"]["file"] == "all/of/it.json"
    different = {"data_dir", "tensorboard", "teachers", "loss", "command"}
    assert {key: published[key] for key in published.keys() - different} == {
        key: plain[key] for key in plain.keys() - different
    }
    assert "/home/me/data" in json.dumps(own)  # left as it was
    assert portable(plain) == plain
