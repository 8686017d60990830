"""Another precision of a file that hangtag exported: what the new file says of itself, and what is refused."""

import json
from pathlib import Path

import onnx
import pytest

from tests.kit import onnx_file
from tests.kit.command import invoke, refusal
from tests.kit.exported import Export, repository_in
from tests.kit.shipped import MODELS, latest

pytestmark = pytest.mark.slow


def arguments(folder: Path, file: Path, precision: str = "int8") -> list[object]:
    return ["export", "--onnx", file, "--precision", precision, "--timing", "none", *repository_in(folder)]


def test_the_file_keeps_its_origin_and_has_figures_of_its_own(of_own_file: Export) -> None:
    assert of_own_file.stdout.startswith("published models/lstm-int8/1\n")  # named after the network
    assert "of the FP32 file at batch" in of_own_file.stdout
    file = of_own_file.folder / "models/lstm-int8/1/model.onnx"
    original, written = onnx_file.metadata(latest("lstm")), onnx_file.metadata(file)
    for key in (
        "recipe", "seed", "trained", "training", "labels", "validation_accuracy", "reference", "reference_labels",
        "data_digest",
    ):  # fmt: skip
        assert written[key] == original[key]
    assert written["precision"] == "int8"
    assert written["made_of"].endswith(original["graph_digest"])
    assert written["graph_digest"] != original["graph_digest"]
    gate = json.loads(written["gate"])
    assert gate["precision"] == "int8"
    assert gate["agreement"]["images"] == 10_000
    assert float(written["test_accuracy"]) == pytest.approx(gate["agreement"]["accuracy"], abs=1e-4)
    assert json.loads(written["parity"])["against"] == "fp32 file"
    assert list(json.loads(written["speed"])["median_ms"]["1"]) == ["file", "fp32 file"]
    assert set(gate["batching"]["max_difference"].values()) == {0.0}
    assert file.stat().st_size < 0.5 * latest("lstm").stat().st_size


def test_what_the_file_says_of_itself_holds(of_own_file: Export) -> None:
    """PyTorch's answers are in it still."""
    result = invoke("models", "verify", "--models", of_own_file.folder / "models", "--json")
    (verified,) = json.loads(result.stdout)
    holds = {finding["check"]: finding["holds"] for finding in verified["findings"]}
    assert all(holds.values()), holds
    assert {"file", "parity", "agreement", "batching"} <= set(holds)


def test_half_precision_too(tmp_path: Path) -> None:
    """Of the study's network, which is steep nowhere."""
    result = invoke(*arguments(tmp_path, MODELS / "lstm/1/model.onnx", "fp16"))
    assert result.stdout.startswith(f"published {tmp_path / 'models/lstm-fp16/1'}\n")


def test_a_changed_graph_a_file_of_another_kind_and_labels_are_refused(tmp_path: Path) -> None:
    model, changed = onnx.load(latest("lstm")), tmp_path / "changed.onnx"
    model.graph.node[0].name = "another name"
    onnx.save(model, changed)
    message = refusal(*arguments(tmp_path, changed), unchanged=tmp_path)
    assert "its graph or weights are not those that were exported. Give --calibration" in message
    for key, value in (("precision", "int8"), ("task", "multi_label"), ("data_digest", "0" * 64)):
        onnx.save(onnx_file.with_metadata(latest("lstm"), **{key: value}), changed)
        message = refusal(*arguments(tmp_path, changed), unchanged=tmp_path)
        assert f"has {key} {value}, and another precision is made of" in message
    message = refusal(*arguments(tmp_path, latest("lstm")), "--labels", "x.txt", exit_code=2)
    assert "--labels: for other people's files" in message
