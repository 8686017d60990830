"""``hangtag export --calibrate``: a temperature changes the probabilities, and nothing else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from hangtag.cli import main
from hangtag.export import exporter
from hangtag.export.errors import ExportError, GateError
from hangtag.export.file import torch_export
from hangtag.export.gate.checks import calibration
from hangtag.export.gate.runtime_answers import softmax
from hangtag.export.published import Published
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.data import fashion_mnist
from hangtag.training.data.fashion_mnist import FashionMnist, Split
from hangtag.training.metrics.calibration import reliability
from hangtag.training.metrics.single_label import evaluate
from hangtag.training.runs.run import Run
from tests.export import label_sets
from tests.export.files import exported_as
from tests.export.runs import contents

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def validation() -> Split:
    """500 validation images, of which the network has seen none."""
    return fashion_mnist.load().validation.first(500)


@pytest.fixture(scope="module")
def calibrated(
    learned: tuple[Run, Path], garments: Split, validation: Split, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A repository with an LSTM that has a temperature."""
    run, fp32 = learned
    models = tmp_path_factory.mktemp("calibrated")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch_export, "to_onnx", exported_as(fp32))
        exporter.export(run, models, garments, calibrate_on=validation)
    return models


def answers(published: Published, split: Split) -> dict[str, np.ndarray]:
    runtime = Runtime(published.folder / "model.onnx", provider="cpu")
    batches = [runtime.run({"image": split.images[at : at + 50]}) for at in range(0, len(split), 50)]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_only_the_probabilities_change_and_fit_better(
    precision: str, run: Run, garments: Split, validation: Split, tmp_path: Path
) -> None:
    plain, calibrated = (
        exporter.export(
            run, tmp_path, garments, to=precision, quantize_on=validation.images[:96], calibrate_on=calibrate_on
        )
        for calibrate_on in (None, validation)
    )
    before, after = (answers(each, garments) for each in (plain, calibrated))
    assert np.array_equal(after["logits"], before["logits"])
    temperature = float(calibrated.metadata["temperature"])
    assert temperature != pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(after["probabilities"], softmax(before["logits"] / temperature), atol=1e-6)
    assert after["probabilities"].dtype == np.float32

    # The validation images, on which it was fitted, are less surprising.
    fitted_on = answers(plain, validation)["logits"]
    at_temperature = evaluate((fitted_on / temperature).astype(np.float32), validation.classes).loss
    assert at_temperature < evaluate(fitted_on, validation.classes).loss
    assert calibrated.metadata["temperature_fitted_on"] == "500 validation images"
    assert "temperature" not in plain.metadata

    gates = [json.loads(each.metadata["gate"]) for each in (plain, calibrated)]
    assert gates[0]["agreement"] == gates[1]["agreement"]
    assert plain.metadata["test_accuracy"] == calibrated.metadata["test_accuracy"]
    errors = [reliability(each["probabilities"], garments.classes).error for each in (before, after)]
    assert gates[0]["calibration"] == {
        "images": 300, "bins": 15, "expected_calibration_error": pytest.approx(errors[0], abs=1e-3)
    }  # fmt: skip
    assert gates[1]["calibration"] == {
        "images": 300, "bins": 15, "expected_calibration_error": pytest.approx(errors[1], abs=1e-3),
        "before": pytest.approx(errors[0], abs=1e-3), "temperature": temperature,
    }  # fmt: skip


def test_the_figures_are_printed_shown_reported_and_verified(
    run: Run, garments: Split, validation: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = FashionMnist(validation, validation, garments, "test images")
    monkeypatch.setattr(fashion_mnist, "load", lambda data_dir: whole)
    monkeypatch.setattr(fashion_mnist, "load_test", lambda data_dir: garments)
    monkeypatch.chdir(tmp_path)

    def hangtag(*arguments: str) -> str:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        return " ".join(result.stdout.split())

    printed = hangtag("export", str(run.folder), "--calibrate", "--timing", "none")
    summary = "no logit and no label changed"
    assert summary in printed
    assert "% before the temperature of" in printed
    page = " ".join(Path("reports/export/lstm-1.html").read_text().split())
    assert summary in page
    assert "500 validation images" in page
    shown = hangtag("models", "show", "lstm")
    assert "temperature_fitted_on 500 validation images" in shown
    assert "gate: calibration images 300, bins 15, expected calibration error 0." in shown
    assert "before 0." in shown
    (verified,) = json.loads(hangtag("models", "verify", "lstm", "--json"))
    holds = {finding["check"]: finding["holds"] for finding in verified["findings"]}
    assert holds["parity"]
    assert holds["calibration"]


@pytest.mark.parametrize(
    ("key", "value", "check"),
    [
        ("temperature", "1.0", "parity"),
        ("temperature", "warm", "parity"),
        ("gate", '{"expected_calibration_error": 0.9}', "calibration"),
    ],
)
def test_a_changed_figure_does_not_hold(
    key: str, value: str, check: str, calibrated: Path, garments: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    shutil.copytree(calibrated, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "lstm/1/model.onnx"
    model = onnx.load(file)
    own = {entry.key: entry.value for entry in model.metadata_props}
    if key == "gate":
        gate = json.loads(own["hangtag.gate"])
        gate["calibration"] |= json.loads(value)
        value = json.dumps(gate)
    onnx.helper.set_model_props(model, own | {f"hangtag.{key}": value})
    file.write_bytes(model.SerializeToString())
    monkeypatch.setattr(fashion_mnist, "load_test", lambda data_dir: garments)
    result = CliRunner().invoke(main, ["models", "verify", "lstm", "--models", str(tmp_path), "--json"])
    assert result.exit_code == 1
    (verified,) = json.loads(result.stdout)
    assert [finding["check"] for finding in verified["findings"] if finding["holds"] is False] == [check]


def test_where_no_temperature_fits_nothing_is_published(
    run: Run, garments: Split, validation: Split, tmp_path: Path
) -> None:
    """Classes that the network always gets right: the more certain, the better."""
    right = answers(exporter.export(run, tmp_path / "once", garments), validation)["logits"].argmax(axis=1)
    before = contents(tmp_path)
    with pytest.raises(
        GateError,
        match=r"^calibration: no temperature from 0\.05 to 20 fits 500 images; .* right about 100\.0% of them\. Export "
        r"it without --calibrate\. Nothing was published\.$",
    ):
        exporter.export(
            run, tmp_path / "models", garments, calibrate_on=Split(validation.images, right.astype(np.uint8))
        )
    assert contents(tmp_path) == before


@pytest.mark.parametrize("model", ["cnn_rnn", "sigmoids"])
def test_sets_of_labels_have_no_temperature(model: str, garments: Split, validation: Split, tmp_path: Path) -> None:
    network = (
        label_sets.decisive_cnn_rnn(garments) if model == "cnn_rnn" else label_sets.decisive_scores(model, garments)
    )
    run = label_sets.finished(tmp_path / "run", model, network)
    with pytest.raises(ExportError, match=rf"^{model} answers with sets of labels, and a temperature is fitted to one"):
        exporter.export(run, tmp_path / "models", garments, calibrate_on=validation)
    assert not (tmp_path / "models").exists()


def test_a_file_of_somebody_else_is_not_calibrated() -> None:
    result = CliRunner().invoke(main, ["export", "--onnx", "x.onnx", "--name", "x", "--calibrate"])
    assert result.exit_code == 2
    assert "--calibrate: for a RUN." in result.stderr


# The gate's check, on a file that a fold damaged.

LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]], np.float32)
CLASSES = np.array([0, 2], np.uint8)


def test_a_changed_logit_is_refused() -> None:
    changed = LOGITS.copy()
    changed[1, 2] = np.nextafter(changed[1, 2], np.float32(9))
    with pytest.raises(GateError, match=r"^calibration: the temperature changes the file's logits; worst at test imag"):
        calibration.check({"logits": changed, "probabilities": softmax(changed / 2)}, CLASSES, 2.0, LOGITS)


def test_another_label_by_probabilities_than_by_logits_is_refused() -> None:
    probabilities = softmax(LOGITS / 2)
    probabilities[1] = probabilities[1][::-1].copy() * [1, 0.1, 3]
    with pytest.raises(GateError, match=r"another label than by its logits, for 1 of 2 test images, first for image 1"):
        calibration.check({"logits": LOGITS, "probabilities": probabilities}, CLASSES, 2.0, LOGITS)
