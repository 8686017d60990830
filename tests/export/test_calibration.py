"""``hangtag export --fit-temperature``: a temperature changes only the probabilities."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from scipy.special import log_softmax, softmax

from hangtag.export.errors import GateError
from tests.kit import garments as garments_kit
from tests.kit import onnx_file
from tests.kit.command import contents, invoke
from tests.kit.exported import Exported, Garments, publish
from tests.kit.onnx_file import Array, answers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def few_test_images(learned: Exported, garments: Garments) -> Iterator[None]:
    """Limit commands in this process to a few test images. The fixtures have already loaded all images."""
    with pytest.MonkeyPatch.context() as patch:
        garments_kit.use_few(patch)
        yield


@pytest.fixture
def validation(garments: Garments) -> Garments:
    """500 images on which the network was not trained."""
    return replace(garments, images=garments.images[-500:], classes=garments.classes[-500:])


def calibration_error(probabilities: Array, classes: Array) -> float:
    """The mean distance between confidence and accuracy in 15 bins of equal width (Guo et al.)."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == classes
    bins = np.minimum((confidence * 15).astype(int), 14)
    return float(sum(abs((confidence - right)[bins == each].sum()) for each in range(15)) / len(classes))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_only_the_probabilities_change_and_fit_better(
    precision: str, learned: Exported, few: Garments, validation: Garments, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"to": precision, "graph": learned.graph}
    plain, calibrated = (
        publish(learned.run, tmp_path, few, calibrate_on=calibrate_on, **options) for calibrate_on in (None, validation)
    )
    before, after = (answers(each.folder / "model.onnx", image=few.images) for each in (plain, calibrated))
    assert np.array_equal(after["logits"], before["logits"])
    temperature = float(calibrated.metadata["temperature"])
    assert temperature != pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(after["probabilities"], softmax(before["logits"] / temperature, axis=1), atol=1e-6)
    assert after["probabilities"].dtype == np.float32

    # The fitted temperature raises the log-likelihood of the validation images.
    fitted_on = answers(plain.folder / "model.onnx", image=validation.images)["logits"]
    rows = np.arange(len(validation)), validation.classes
    assert log_softmax(fitted_on / temperature, axis=1)[rows].mean() > log_softmax(fitted_on, axis=1)[rows].mean()
    assert calibrated.metadata["temperature_fitted_on"] == "500 validation images"
    assert "temperature" not in plain.metadata

    gates = [json.loads(each.metadata["gate"]) for each in (plain, calibrated)]
    assert gates[0]["agreement"] == gates[1]["agreement"]
    assert plain.metadata["test_accuracy"] == calibrated.metadata["test_accuracy"]
    errors = [calibration_error(each["probabilities"], few.classes) for each in (before, after)]
    assert gates[0]["calibration"] == {
        "images": 300, "bins": 15, "expected_calibration_error": pytest.approx(errors[0], abs=1e-3)
    }  # fmt: skip
    assert gates[1]["calibration"] == {
        "images": 300, "bins": 15, "expected_calibration_error": pytest.approx(errors[1], abs=1e-3),
        "before": pytest.approx(errors[0], abs=1e-3), "temperature": temperature,
    }  # fmt: skip


def test_where_no_temperature_fits_nothing_is_published(
    learned: Exported, few: Garments, validation: Garments, tmp_path: Path
) -> None:
    """The network classifies all images correctly, so a lower temperature is always better."""
    right = answers(learned.file, image=validation.images)["logits"].argmax(axis=1)
    always_right = replace(validation, classes=right.astype(np.uint8))
    with pytest.raises(
        GateError,
        match=r"^calibration: no temperature from 0\.05 to 20 fits 500 images\. The network classifies 100\.0% of "
        r"these images correctly\. Export it without --fit-temperature\. Nothing was published\.$",
    ):
        publish(learned.run, tmp_path / "models", few, calibrate_on=always_right, graph=learned.graph)
    assert contents(tmp_path) == {}


@pytest.fixture(scope="module")
def by_command(learned: Exported, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder with the models that the command wrote, and the command's output."""
    folder = tmp_path_factory.mktemp("calibrated")
    options = ["--models", folder / "models"]
    result = invoke("export", learned.run.folder, "--fit-temperature", *options)
    return folder, " ".join(result.stdout.split())


def test_the_figures_are_printed_and_shown(by_command: tuple[Path, str]) -> None:
    folder, printed = by_command
    assert "logits and labels unchanged" in printed
    assert "% before scaling by temperature" in printed
    shown = " ".join(invoke("models", "show", "lstm", "--models", folder / "models").stdout.split())
    assert "temperature fitted on 5,000 validation images" in shown
    assert "gate calibration images 100, bins 15, expected calibration error 0." in shown
    assert "before 0." in shown


def test_the_figures_hold_and_changed_ones_do_not(by_command: tuple[Path, str], tmp_path: Path) -> None:
    file = by_command[0] / "models/lstm/1/model.onnx"
    changed: dict[str, dict[str, str]] = {
        "as-it-is": {}, "colder": {"temperature": "1.0"}, "warm": {"temperature": "warm"},
    }  # fmt: skip
    for name, metadata in changed.items():
        (tmp_path / name / "1").mkdir(parents=True)
        onnx.save(onnx_file.with_metadata(file, **metadata), tmp_path / name / "1" / "model.onnx")
    result = invoke("models", "verify", "--models", tmp_path, "--json", exit_code=1)
    broken = {
        verified["model"]: [finding["check"] for finding in verified["findings"] if finding["holds"] is False]
        for verified in json.loads(result.stdout)
    }
    assert broken == {"as-it-is": [], "colder": ["parity"], "warm": ["parity"]}
