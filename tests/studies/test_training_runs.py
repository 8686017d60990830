"""A short run of each study that trains, by `make studies-check`: it records the figures of its page."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hangtag.training.data.fashion_mnist import Split
from hangtag.training.networks.bfloat16 import cpu_computes_lstms_in_bf16
from studies import results
from studies.accuracy import report as accuracy
from studies.label_sets import report as label_sets
from studies.mistakes import report as mistakes
from studies.page import ROOT
from studies.train_step import report as train_step
from studies.train_step.torch_worker import WAYS
from studies.train_step.worker import worker
from tests.studies.run_study import measured, study

pytestmark = [pytest.mark.studies, pytest.mark.timeout(900)]

NEEDS_BF16 = pytest.mark.skipif(not cpu_computes_lstms_in_bf16(), reason="this CPU computes no LSTM in bfloat16")


@pytest.mark.parametrize(
    ("name", "run", "page"),
    [
        ("accuracy", "lstm-study-seed0", lambda file: accuracy.page(accuracy.read(file), None)),
        ("mistakes", "lstm-soft-labels-seed0", lambda file: mistakes.page(mistakes.read(file))),
        ("label_sets", "sigmoids-outfits-seed0", lambda file: label_sets.page(label_sets.read(file))),
    ],
)
def test_a_short_training_run_is_recorded_for_the_page(
    tmp_path: Path, name: str, run: str, page: Callable[[Path], str]
) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")  # mistakes evaluates what ships
    out = tmp_path / "results.jsonl"
    words = (name, "run", "--only", run, "--out", out, "--", "--epochs", "1", "--limit", "1000")
    assert f"recorded {run}" in study(*words, folder=tmp_path)
    lines = results.read(out)
    shown = results.read(ROOT / "studies" / name / "results.jsonl")
    for key, line in lines.items():
        assert line.keys() == shown[key].keys()
    # As many epochs as the other runs, with which it could not be compared otherwise.
    lines[run] |= {key: shown[run][key] for key in ("epochs",) if key in shown[run]}
    results.write(out, (shown | lines).values())
    assert page(out) != page(ROOT / "studies" / name / "results.jsonl")
    assert f"recorded {run}" in study(*words, folder=tmp_path)  # which trains nothing: the run is finished


def test_a_larger_batch_trains_the_same_network(tmp_path: Path) -> None:
    words = ("train_step", "batch", "--seeds", "1", "--epochs", "1", "--limit", "300", "--precision", "fp32")
    lines, text = measured(tmp_path / "batch.jsonl", train_step.batch_part, *words)
    names = ["32 at 0.001", "128 at 0.001", "128 at 0.002", "128 at 0.004"]
    assert list(lines) == ["conditions", *names]
    assert all(0 < lines[name]["test_accuracy"][0] < 1 and lines[name]["epoch_seconds"][0] > 0 for name in names)
    assert "| 128 | 0.002 | " in text


@NEEDS_BF16
def test_the_profile_of_a_training_step_has_every_way(tmp_path: Path) -> None:
    words = ("train_step", "profile", "--repeats", "1")
    lines, text = measured(tmp_path / "profile.jsonl", train_step.profile_part, *words)
    assert any(row["operator"] == "aten::mkldnn_rnn_layer_backward" for row in lines["operators"]["rows"])
    ways = [row["way"] for row in lines["ways"]["rows"]]
    assert len(ways) > 4
    assert all(f"| {way} | " in text for way in ways)
    assert all(0 < row["fastest_ms"] <= row["median_ms"] for row in lines["ways"]["rows"])


@NEEDS_BF16
@pytest.mark.parametrize("way", WAYS)
def test_a_worker_answers_each_request_with_the_milliseconds_of_a_step(
    tmp_path: Path, garments: Split, way: str
) -> None:
    """The names of two networks after one another: one was once trained in the place of the other."""
    few = garments.first(32 * 4)
    np.savez(tmp_path / "images.npz", images=few.images, classes=few.classes)
    names = ("64", "128") if way == "product" else ("lstm", "lstm-56")
    with worker(
        [sys.executable, "-m", "studies.train_step.torch_worker", way, "1", tmp_path / "images.npz"]
    ) as working:
        assert all(0 < working.step_ms(name, 2) < 60_000 for name in names)


@NEEDS_BF16
@pytest.mark.skipif(not (ROOT / ".venv-keras").exists(), reason="needs Keras: run 'make .venv-keras/.keras'")
def test_a_training_step_is_compared_with_kerass(tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"

    def page(file: Path) -> str:
        times: Any = accuracy.read_step_times(file)
        return accuracy.page(accuracy.read(), times)

    lines, text = measured(out, page, "train_step", "run", "--repeats", "3", "--threads", "1")
    assert lines["conditions"]["product_gflops"] > 0
    assert all({"keras", "plain", "compiled", "hangtag"} == lines[name]["median_ms"].keys() for name in ("lstm", "cnn"))
    assert "Time per training step" in text
