"""Another precision of a file that hangtag exported: what the new file says of itself, and what is refused."""

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from hangtag.cli import main
from hangtag.export import file_exporter
from hangtag.export.errors import ExportError, GateError
from hangtag.export.file import onnx_model, reference_answers
from hangtag.export.published import Published
from hangtag.training.data import fashion_mnist
from hangtag.training.data.fashion_mnist import Split
from tests.export.runs import contents
from tests.kit.shipped import latest

pytestmark = pytest.mark.slow


def export(file: Path, models: Path, garments: Split, to: str = "int8") -> Published:
    images = fashion_mnist.load_test().images[-64:]
    return file_exporter.export(file, f"lstm-{to}", models, garments, images, to=to, timed=to == "int8")


@pytest.fixture(scope="module")
def published(garments: Split, tmp_path_factory: pytest.TempPathFactory) -> Published:
    return export(latest("lstm"), tmp_path_factory.mktemp("shop"), garments)


def test_the_file_keeps_its_origin_and_has_figures_of_its_own(published: Published, garments: Split) -> None:
    original = onnx_model.metadata(onnx.load(latest("lstm")))
    written = onnx_model.metadata(onnx.load(published.folder / "model.onnx"))
    for key in ("recipe", "seed", "trained", "training", "labels", "validation_accuracy", "reference", "data_digest"):
        assert written[key] == original[key]
    assert written["precision"] == "int8"
    assert written["made_of"].endswith(original["graph_digest"])
    gate = json.loads(written["gate"])
    assert gate["precision"] == "int8"
    assert gate["agreement"]["images"] == len(garments)
    assert float(written["test_accuracy"]) == pytest.approx(gate["agreement"]["accuracy"], abs=1e-4)
    assert json.loads(written["parity"])["against"] == "fp32 file"
    assert list(json.loads(written["speed"])["median_ms"]["1"]) == ["file", "fp32 file"]
    assert reference_answers.read(written) is not None
    assert "of the FP32 file at batch" in str(published.proof)
    assert onnx_model.digest(onnx.load(published.folder / "model.onnx")) == written["graph_digest"]


def test_the_file_is_smaller_and_answers_alike_in_any_batch(published: Published) -> None:
    assert (published.folder / "model.onnx").stat().st_size < 0.5 * latest("lstm").stat().st_size
    differences = published.proof.figures("batching")["max_difference"]
    assert isinstance(differences, dict)
    assert set(differences.values()) == {0.0}


def test_half_precision_too(garments: Split, tmp_path: Path) -> None:
    assert export(latest("cnn"), tmp_path, garments.first(64), "fp16").folder == tmp_path / "lstm-fp16/1"


def refusal(file: Path, folder: Path, garments: Split) -> str:
    before = contents(folder)
    with pytest.raises(ExportError) as caught:
        export(file, folder / "models", garments)
    assert contents(folder) == before
    return str(caught.value)


def changed(folder: Path, **metadata: str) -> Path:
    """The shipped lstm with other metadata."""
    model = onnx.load(latest("lstm"))
    for entry in model.metadata_props:
        entry.value = metadata.get(entry.key.removeprefix("hangtag."), entry.value)
    (folder / "changed.onnx").write_bytes(model.SerializeToString())
    return folder / "changed.onnx"


def test_a_changed_graph_is_refused(garments: Split, tmp_path: Path) -> None:
    model = onnx.load(latest("lstm"))
    model.graph.node[0].name = "another name"
    (tmp_path / "changed.onnx").write_bytes(model.SerializeToString())
    message = refusal(tmp_path / "changed.onnx", tmp_path, garments)
    assert "its graph or weights are not those that were exported. Give --calibration" in message


@pytest.mark.parametrize(("key", "value"), [("precision", "int8"), ("task", "multi_label"), ("data_digest", "0" * 64)])
def test_a_file_of_another_kind_is_refused(key: str, value: str, garments: Split, tmp_path: Path) -> None:
    message = refusal(changed(tmp_path, **{key: value}), tmp_path, garments)
    assert f"has {key} {value}, and another precision is made of" in message


def test_a_file_that_answers_otherwise_fails_the_gate(
    garments: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversion that loses the classifier's bias."""

    def without_bias(model: onnx.ModelProto, to: str, images: object) -> onnx.ModelProto:
        broken = onnx.ModelProto()
        broken.CopyFrom(model)
        (bias,) = [tensor for tensor in broken.graph.initializer if list(tensor.dims) == [10]]
        bias.CopyFrom(onnx.numpy_helper.from_array(1e3 * (onnx.numpy_helper.to_array(bias) + 1), bias.name))
        return broken

    monkeypatch.setattr("hangtag.export.file.precision.convert", without_bias)
    before = contents(tmp_path)
    with pytest.raises(GateError, match=r"logits differ from the FP32 file's by .* Nothing was published"):
        export(latest("lstm"), tmp_path / "models", garments)
    assert contents(tmp_path) == before


def test_the_command_names_the_model_after_the_network(
    garments: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fashion_mnist.FashionMnist(garments, garments, garments, "tests")
    monkeypatch.setattr(fashion_mnist, "load", lambda data_dir: whole)
    arguments = ["--models", str(tmp_path / "models"), "--reports", str(tmp_path / "reports"), "--timing", "none"]
    command = ["export", "--onnx", str(latest("lstm")), "--precision", "int8", *arguments]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"published {tmp_path / 'models/lstm-int8/1'}\n")
    assert "label" in next((tmp_path / "reports").rglob("lstm-int8-1.html")).read_text()
    refused = CliRunner().invoke(main, [*command, "--labels", "x.txt"])
    assert refused.exit_code == 2
    assert "--labels: for other people's files" in refused.stderr
