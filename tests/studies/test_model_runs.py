"""A short run of each study of exported files, by `make studies-check`: it records the figures of its page."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hangtag.training.session import cpu_computes_lstms_in_bf16
from studies import results
from studies.accuracy import report as accuracy
from studies.calibration import section
from studies.cascades import report as cascades
from studies.exported import report as exported
from studies.label_sets import report as label_sets
from studies.mistakes import report as mistakes
from studies.page import ROOT
from studies.shipped import readme_part, route
from studies.shipped import run as shipped_run
from studies.shipped.models import read_all, read_precisions
from studies.third_party import report as third_party
from studies.third_party.models import MODELS as THIRD_PARTY
from studies.train_step import report as train_step
from tests.kit.shipped import MODELS, latest
from tests.studies.run_study import measured, repository, study

pytestmark = [pytest.mark.studies, pytest.mark.timeout(900)]

IMAGES = 400


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def test_shipped_load_tests_everything_that_ships(out: Path) -> None:
    shipped = [*read_all(MODELS), *read_precisions(MODELS)]
    output = study("shipped", "run", "--seconds", "1", "--out", out, exit_codes=(0, 1))
    if not out.exists():  # On a busy machine the load test calls itself invalid, and has all figures nevertheless.
        assert "INVALID" in output
        document = json.loads((ROOT / "reports/shipped.json").read_text())
        results.write(out, shipped_run.lines(document, route.definition(MODELS)))
    lines, text = results.read(out), readme_part.part(shipped, out)
    assert lines["fast-and-accurate, accuracy"]["images"] == 10_000
    for model in shipped:
        assert f"| `{model.name}` version {model.version} | " in text
        # ONNX Runtime sums in another order than PyTorch, so an image of 10,000 may change its label.
        recorded = float(model.metadata["test_accuracy"])
        assert lines[f"{model.name}, accuracy"]["accuracy"] == pytest.approx(recorded, abs=2e-4)


def test_calibration_fits_a_temperature(tmp_path: Path, out: Path) -> None:
    models = repository(tmp_path / "models", "lstm")
    shipped = read_all(models)
    words = ("calibration", "run", "--models", models, "--limit", f"{IMAGES}")
    lines, text = measured(out, lambda file: "\n".join(section.lines_of(shipped, file)), *words)
    line = lines["lstm"]
    assert line["validation_images"] == line["test_images"] == sum(line["after"]["bins"]["counts"]) == IMAGES
    assert line["after"]["cross_entropy"] != line["before"]["cross_entropy"]
    errors = " → ".join(f"{line[side]['error']:.2%}".replace("%", " %") for side in ("before", "after"))
    assert errors in text
    assert section.diagram(section.read(shipped, out)).axes


def test_cascades_keep_their_times(out: Path) -> None:
    study("cascades", "times", "--out", out)
    lines, text = measured(out, cascades.part, "cascades", "run", "--limit", f"{IMAGES}")
    assert 0 < lines["times"]["microseconds"]["lstm"] < lines["times"]["microseconds"]["cnn"]
    for split in lines["lstm, lstm2, cnn"]["splits"]:
        assert split["images"] == IMAGES
        assert split["accuracy"][0] == pytest.approx(split["alone"][0])
    assert text.count("| `lstm`, `lstm2`, `cnn` |") == len(cascades.LOSSES)


def test_exported_times_a_file_and_judges_its_goal(tmp_path: Path, out: Path) -> None:
    models = repository(tmp_path / "models", "lstm", "cnn-int8")
    words = ("exported", "run", "--models", models, "--timing", "eager", "--rounds", "1")
    lines, text = measured(out, exported.part, *words)
    assert list(lines["lstm"]["median_ms"]) == ["1", "64"]
    assert list(lines["lstm"]["median_ms"]["1"]) == ["file", "PyTorch"]
    assert ("nodes" in lines["lstm"]) is not lines["lstm"]["reached"]
    assert lines["cnn-int8"]["reached"] is None  # its FP32 file is not there
    assert lines["cnn-int8"]["accuracy_lost"] <= lines["cnn-int8"]["may_lose"]
    assert "| `lstm` | 1.5x PyTorch at batch 1 | " in text
    assert " LSTM " in study("exported", "profile", latest("lstm"))


@pytest.mark.skipif(
    not all(model.file() for model in THIRD_PARTY), reason="needs magika and RapidOCR: run 'make others'"
)
def test_third_party_converts_a_model(out: Path) -> None:
    words = ("third_party", "run", "--only", "magika int8", "--samples", "300")
    lines, text = measured(out, third_party.part, *words)
    line = lines["magika int8"]
    assert line["agreement"]["share"] >= 0.995
    assert line["megabytes"] < line["original_megabytes"]
    assert set(line["median_ms"]) == {"1", "64"}
    assert "| `magika` | int8 | " in text
    assert all((model.samples(4) == model.samples(4)).all() for model in THIRD_PARTY)


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
