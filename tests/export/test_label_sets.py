"""Networks that answer with label sets: the file gives the same sets as PyTorch, or is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from hangtag.cli import main
from hangtag.export import exporter
from hangtag.export.errors import ExportError, GateError
from hangtag.export.file import torch_export
from hangtag.export.gate import runtime_answers
from hangtag.export.gate.checks import label_path
from hangtag.export.gate.proof import GateData
from hangtag.export.network import checkpoint
from hangtag.export.network.served_network import LabelPath, LabelThreshold
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.catalog import MULTI_LABEL_NETWORKS, NETWORKS
from hangtag.training.data import fashion_mnist
from hangtag.training.data.fashion_mnist import LABELS, Split
from hangtag.training.data.multi_label import MAX_LABELS, Canvases
from hangtag.training.metrics.multi_label import decide
from hangtag.training.networks.cnn_rnn import BEAM_WIDTH, CnnRnn, beam_search
from hangtag.training.networks.inference import normalise
from hangtag.training.runs.run import Run
from tests.export import label_sets, runs
from tests.export.exported import Exported, label_scores
from tests.export.files import exported_as, prove_file, write

pytestmark = pytest.mark.slow

BASELINES = [model for model in MULTI_LABEL_NETWORKS if model != "cnn_rnn"]


@pytest.fixture(scope="module")
def canvases(garments: Split) -> Canvases:
    return label_sets.canvases(garments, 150)


def network_of(paths: Exported) -> CnnRnn:
    assert isinstance(paths.network, CnnRnn)
    return paths.network


def metadata_of(file: Path) -> dict[str, str]:
    return {entry.key.removeprefix("hangtag."): entry.value for entry in onnx.load(file).metadata_props}


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_the_graph_takes_bytes_and_gives_the_path_and_the_probabilities(paths: Exported) -> None:
    graph = onnx.load(paths.file).graph
    (image,) = graph.input
    batch = dims(image)[0]
    assert isinstance(batch, str)
    assert (image.name, image.type.tensor_type.elem_type, dims(image)) == ("image", TensorProto.UINT8, [batch, 64, 64])
    assert [(out.name, out.type.tensor_type.elem_type, dims(out)) for out in graph.output] == [
        ("path", TensorProto.INT64, [batch, 5]),
        ("path_probability", TensorProto.FLOAT, [batch]),
        ("probabilities", TensorProto.FLOAT, [batch, 10]),
    ]
    weights = sum(weight.numel() for weight in paths.network.parameters())
    assert 4 * weights < paths.file.stat().st_size < 4.5 * weights  # each weight is there, and once


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
def test_the_file_finds_the_paths_that_pytorch_finds(paths: Exported, canvases: Canvases, batch_size: int) -> None:
    images = canvases[:batch_size]
    outputs = Runtime(paths.file, provider="cpu").run({"image": images})
    with torch.inference_mode():
        beam = beam_search(network_of(paths), normalise(torch.tensor(images)))
    np.testing.assert_array_equal(outputs["path"], beam.path.numpy())
    np.testing.assert_allclose(outputs["path_probability"], beam.path_probability.numpy(), atol=1e-4)
    np.testing.assert_allclose(outputs["probabilities"], beam.probabilities.numpy(), atol=1e-4)


def test_the_paths_compared_are_of_every_length(paths: Exported, canvases: Canvases) -> None:
    """Otherwise their parity would prove little."""
    with torch.inference_mode():
        path = beam_search(network_of(paths), normalise(torch.tensor(canvases))).path
    assert set((path >= 0).sum(dim=1).tolist()) == set(range(MAX_LABELS + 1))


def test_a_thousand_canvases_are_compared(paths: Exported) -> None:
    figures: dict[str, Any] = paths.published.proof.figures("parity")
    assert figures["images"] == 1000
    differences = figures["max_probability_difference"]
    assert list(differences["test"]) == ["1", "2", "3", "7", "16", "64"]
    assert 0 < max(differences["test"].values()) <= 1e-4
    assert figures["ties"] <= 10
    assert "; probabilities within " in str(paths.published.proof)


def test_the_command_publishes_them_and_says_how_close_they_are(
    paths: Exported, garments: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the graph that the exporter made of the same weights before, and few canvases."""
    monkeypatch.setattr(torch_export, "to_onnx", exported_as(paths.file))
    monkeypatch.setattr(fashion_mnist, "load_test", lambda data_dir: garments)
    monkeypatch.setattr(exporter, "CANVASES", 100)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["export", str(paths.run.folder), "--models", "shop", "--timing", "none"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("published shop/cnn_rnn/1\n")
    assert "  parity       probabilities within " in result.stdout


def test_the_metadata_says_how_to_read_the_answer_and_holds_the_provenance(paths: Exported) -> None:
    metadata = metadata_of(paths.file)
    assert (metadata["task"], json.loads(metadata["labels"])) == ("multi_label", list(LABELS))
    assert (metadata["max_labels"], metadata["beam_width"]) == (str(MAX_LABELS), str(BEAM_WIDTH))
    assert (metadata["validation_o_f1"], metadata["validation_exact_match"]) == ("0.7500", "0.2500")
    assert (metadata["test_o_f1"], metadata["test_exact_match"]) == ("0.7000", "0.2000")
    assert (metadata["recipe"], metadata["seed"]) == ("tiny", "3")
    assert not {"threshold", "test_accuracy", "validation_accuracy"} & set(metadata)
    proven = json.loads(metadata["parity"])
    assert (proven["against"], proven["images"]) == ("pytorch", 1000)
    assert json.loads(metadata["training"])["config"]["model"] == "cnn_rnn"


@pytest.mark.parametrize("model", BASELINES)
def test_a_baseline_is_exported_with_its_threshold(
    model: str, canvases: Canvases, tmp_path_factory: pytest.TempPathFactory
) -> None:
    exported = label_scores(tmp_path_factory, model)
    metadata = metadata_of(exported.file)
    assert (metadata["task"], metadata["min_labels"]) == ("multi_label", "1")
    assert json.loads(metadata["threshold"]) == label_sets.THRESHOLD
    assert json.loads(metadata["parity"])["images"] == 300
    assert "the same label sets for all of 300 images" in str(exported.published.proof)

    outputs = Runtime(exported.file, provider="cpu").run({"image": canvases})
    with torch.inference_mode():
        objective = NETWORKS[model].objective
        assert objective is not None
        answer = objective(torch.arange(10)).predict(exported.network, normalise(torch.tensor(canvases)))
    scores = answer.scores.numpy()
    np.testing.assert_allclose(outputs["probabilities"], scores, atol=1e-4)
    sets = decide(scores, label_sets.THRESHOLD)
    np.testing.assert_array_equal(decide(outputs["probabilities"], label_sets.THRESHOLD), sets)
    assert len(set(sets.sum(axis=1).tolist())) > 1


@pytest.mark.parametrize("missing", ["labels", "thresholds"])
def test_a_run_without_labels_or_thresholds_is_refused(missing: str, garments: Split, tmp_path: Path) -> None:
    run = label_sets.finished(tmp_path / "run", "cnn_rnn", CnnRnn())
    metrics = run.read_metrics()
    del metrics["summary"][missing]
    run.write_metrics(metrics)
    _refused(run, tmp_path, garments, "lacks the labels and thresholds of cnn_rnn")


def test_weights_for_another_number_of_labels_are_refused(garments: Split, tmp_path: Path) -> None:
    run = label_sets.finished(tmp_path / "run", "cnn_rnn", CnnRnn(labels=20))
    _refused(run, tmp_path, garments, "do not fit cnn_rnn (Error(s) in loading state_dict")


def _refused(run: Run, tmp_path: Path, garments: Split, message: str) -> None:
    before = runs.contents(tmp_path)
    with pytest.raises(ExportError) as refused:
        exporter.export(run, tmp_path / "models", garments)
    assert message in str(refused.value)
    assert str(refused.value).endswith("Train anew with: hangtag train cnn_rnn --out FOLDER")
    assert runs.contents(tmp_path) == before


def test_a_network_that_diverged_is_refused(paths: Exported, canvases: Canvases) -> None:
    broken = checkpoint.load(paths.run)
    assert isinstance(broken, LabelPath)
    broken.network.get_parameter("project_image.bias").data.fill_(torch.nan)
    with pytest.raises(GateError, match=r"own outputs are not finite for 150 of 150 test images, first for image 0"):
        prove_file(broken, paths.file, GateData(canvases))


def changed(paths: Exported, folder: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(paths.file)
    change(model)
    return write(folder, model)


def set_bias(label: int, value: float) -> Callable[[onnx.ModelProto], None]:
    """Add to a label's bias: 0.05 changes some paths, and the probabilities of the others."""

    def change(model: onnx.ModelProto) -> None:
        (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == "network.bias"]
        bias = numpy_helper.to_array(tensor).copy()
        bias[label] += value
        tensor.CopyFrom(numpy_helper.from_array(bias, tensor.name))

    return change


@pytest.mark.parametrize(("value", "how"), [(0.003, "probabilities differ"), (30.0, "another path is found")])
def test_a_weight_that_differs_is_refused(
    paths: Exported, canvases: Canvases, tmp_path: Path, value: float, how: str
) -> None:
    file = changed(paths, tmp_path, set_bias(3, value))
    with pytest.raises(
        GateError,
        match=rf"for \d+ of \d+ images the file answers otherwise than PyTorch, by more than 0\.0001 and not "
        rf"because paths are tied; worst at image \d+, where {how}\. Nothing was published",
    ):
        prove_file(LabelPath(network_of(paths)).eval(), file, GateData(canvases))


def test_a_file_that_answers_nan_is_refused(paths: Exported, canvases: Canvases, tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"^parity: batch 1: for 4 of 4 images the file answers otherwise"):
        prove_file(
            LabelPath(network_of(paths)).eval(), changed(paths, tmp_path, set_bias(0, np.nan)), GateData(canvases)
        )


def test_rows_that_are_missing_are_refused(paths: Exported, canvases: Canvases, tmp_path: Path) -> None:
    def first_alone(model: onnx.ModelProto) -> None:
        (last,) = [node for node in model.graph.node if "path_probability" in node.output]
        last.output[list(last.output).index("path_probability")] = "all"
        model.graph.node.append(helper.make_node("Compress", ["all", "first"], ["path_probability"], axis=0))
        model.graph.initializer.append(numpy_helper.from_array(np.array([True]), "first"))

    with pytest.raises(GateError, match=r"batch 2: all path_probability together have shape \[4\], expected \[8\]"):
        prove_file(LabelPath(network_of(paths)).eval(), changed(paths, tmp_path, first_alone), GateData(canvases))


def test_another_signature_is_refused(paths: Exported, canvases: Canvases) -> None:
    with pytest.raises(
        GateError, match=r"^contract: the file has image: .*; expected image: .*probabilities: FP32 \[a"
    ):
        prove_file(LabelPath(CnnRnn(labels=4)), paths.file, GateData(canvases))


def with_ties(network: CnnRnn) -> CnnRnn:
    """Two labels with the same embedding and bias, the commonest by far: a path is as likely with either first."""
    with torch.no_grad():
        network.embeddings.weight[4] = network.embeddings.weight[3]
        network.bias[[3, 4]] += 3
        network.bias[4] = network.bias[3]
    return network


def with_weights_of(network: CnnRnn, paths: Exported) -> Callable[[onnx.ModelProto], None]:
    """Replace the weights of the exported network, some of which the export transposed, by those of another."""

    def change(model: onnx.ModelProto) -> None:
        replaced = set()
        for tensor in model.graph.initializer:
            before = numpy_helper.to_array(tensor)
            for name, weight in paths.network.state_dict().items():
                for turned in (False, True):
                    own, other = (w.numpy().T if turned else w.numpy() for w in (weight, network.state_dict()[name]))
                    if np.array_equal(before, own):
                        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(other), tensor.name))
                        replaced.add(name)
        assert replaced == set(network.state_dict())

    return change


def test_tied_paths_may_differ_and_are_counted(
    paths: Exported, garments: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's label 3 is ahead of its label 4 by a millionth, PyTorch's by a millionth behind: either is right."""
    monkeypatch.setattr(label_path, "BATCH_SIZES", (1, 64))
    canvases = label_sets.canvases(garments, 20)
    network = with_ties(label_sets.decisive_cnn_rnn(garments, spread=0.3))
    with torch.no_grad():
        network.bias[3] += 1e-6
    file = changed(paths, tmp_path, with_weights_of(network, paths))
    with torch.no_grad():
        network.bias[3] -= 2e-6
    tied = LabelPath(network).eval()
    proof = prove_file(tied, file, GateData(canvases))
    ties: Any = proof.figures("parity")["ties"]
    with torch.inference_mode():
        expected = tied(torch.tensor(canvases))[0].numpy()
    actual = Runtime(file, provider="cpu").run({"image": canvases})["path"]
    assert 0 < (actual != expected).any(axis=1).sum() <= ties < len(canvases)
    assert f"but {ties} ties of 20 images" in str(proof)
    assert json.loads(proof.metadata["parity"])["ties"] == ties


def test_another_set_by_the_threshold_is_refused(
    canvases: Canvases, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph is right, but not for every image: label 0 is added where the last of the canvases is seen."""
    exported = label_scores(tmp_path_factory, "sigmoids")
    sets = LabelThreshold(exported.network, 10, label_sets.THRESHOLD, rivals=False)
    assert prove_file(sets.eval(), exported.file, GateData(canvases)).figures("agreement")["images"] == 150

    images = np.zeros((300, 64, 64), np.uint8)
    images[260:] = canvases[:40]  # beyond those whose logits are compared
    model: Any = onnx.load(exported.file)
    (first,) = [node for node in model.graph.node if node.op_type == "Conv"][:1]
    (kernel,) = [tensor for tensor in model.graph.initializer if tensor.name == first.input[1]]
    kernel.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(kernel), kernel.name))  # nothing to a black image
    file = write(tmp_path, model)
    monkeypatch.setattr(runtime_answers, "artificial_images", lambda height, width: {})  # they would differ first
    with pytest.raises(GateError, match=r"another set of labels than PyTorch for \d+ of 300 .* image 2[6-9]\d\."):
        prove_file(sets, file, GateData(images))
