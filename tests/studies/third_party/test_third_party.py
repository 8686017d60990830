"""The study of third-party models in other precisions: what it measures of a small network, and its table."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from studies import results
from studies.third_party import report, run
from studies.third_party.models import MODELS, ThirdPartyModel
from tests.kit import networks

pytestmark = pytest.mark.slow


def test_it_records_what_the_gate_found_and_the_page_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_bytes(networks.sensitive().SerializeToString())
    model = ThirdPartyModel("small", "adds", "model.onnx", networks.samples)
    monkeypatch.setattr("studies.third_party.models.PACKAGES", tmp_path)
    monkeypatch.setattr(run, "PACKAGES", tmp_path)
    monkeypatch.setattr(run, "MODELS", (model,))
    monkeypatch.setattr(run, "AGREE_AT_LEAST", {"int8": "95"})
    out = tmp_path / "results.jsonl"
    result = CliRunner().invoke(run.main, ["--samples", "400", "--out", str(out)])
    assert result.exit_code == 0, result.output
    line = results.read(out)["small int8"]
    assert line["agreement"]["share"] >= 0.95
    assert (line["fp32_layers"], line["layers"]) == (["fragile"], 3)
    assert line["megabytes"] > 0
    assert set(line["median_ms"]) == {"1", "64"}


def test_a_missing_package_is_named_before_anything_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.third_party.models.PACKAGES", tmp_path)
    result = CliRunner().invoke(run.main, ["--out", str(tmp_path / "results.jsonl")])
    assert result.exit_code == 1
    assert "magika and rapidocr-onnxruntime not installed: 'make others' sets up .venv-others." in result.output


def test_the_table_has_shares_sizes_and_times(tmp_path: Path) -> None:
    conditions: results.Line = {
        "run": "conditions", "command": "python -m studies third_party run", "date": "2026-01-01",
        "processor": "a processor", "cpus": 2, "versions": {"ONNX Runtime": "1.2"}, "instructions": ["AVX2", "AMX"],
    }  # fmt: skip
    line: results.Line = {
        "run": "magika int8",
        "agreement": {"share": 0.998, "least": 0.995, "samples": 1500, "at_least_with_95_percent_confidence": 0.9876},
        "layers": 20, "fp32_layers": ["a", "b"], "megabytes": 1.0, "original_megabytes": 4.0,
        "median_ms": {"1": {"file": 0.5, "original": 1.0}},
    }  # fmt: skip
    results.write(tmp_path / "results.jsonl", [conditions, line])
    text = report.part(tmp_path / "results.jsonl")
    row = "| `magika` | int8 | 99.5 % | 99.80 % | at least 98.76 % | 2 of 20 | 1.00 MB (25%) | 0.5 ms (2.00x) |  |"
    assert row in text.splitlines()
    assert "1,500 samples with which the file was not made" in text
    assert "on 2 CPUs (a processor with AVX2, AMX; ONNX Runtime 1.2)" in text


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.package)
def test_samples_are_the_same_every_time(model: ThirdPartyModel) -> None:
    samples = model.samples(4)
    assert len(samples) == 4
    assert (samples == model.samples(4)).all()
