"""Networks that answer with label sets are exported only if the file gives the same sets as PyTorch."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from hangtag.training.catalog import MULTI_LABEL_NETWORKS, NETWORKS
from hangtag.training.networks.cnn_rnn import CnnRnn, beam_search
from tests.kit import onnx_file, runs
from tests.kit.exported import CANVASES, Exported, Garments, fault, label_sets, publish
from tests.kit.onnx_file import Array, answers

pytestmark = pytest.mark.slow

Change = Callable[[onnx.ModelProto], object]


@pytest.fixture(scope="module")
def canvases(few: Garments) -> Array:
    return runs.canvases(few, CANVASES)


def sets_of(probabilities: Array) -> Array:
    """The labels that reach the threshold, or else the most probable label: bool [n, labels]."""
    reached = probabilities >= runs.THRESHOLD
    most_probable = probabilities.argmax(axis=1)[:, None] == np.arange(probabilities.shape[1])
    sets: Array = reached | (most_probable & ~reached.any(axis=1, keepdims=True))
    return sets


@pytest.mark.parametrize("model", [model for model in MULTI_LABEL_NETWORKS if model != "cnn_rnn"])
def test_a_baseline_is_exported_with_its_threshold(
    model: str, canvases: Array, tmp_path_factory: pytest.TempPathFactory
) -> None:
    exported = label_sets(tmp_path_factory, model)
    metadata = onnx_file.metadata(exported.file)
    assert (metadata["task"], metadata["min_labels"]) == ("multi_label", "1")
    assert json.loads(metadata["threshold"]) == runs.THRESHOLD
    assert json.loads(metadata["gate"])["agreement"]["images"] == CANVASES
    assert f"the same label sets for all of {CANVASES} images" in str(exported.published.summaries)

    objective = NETWORKS[model].objective
    assert objective is not None
    with torch.inference_mode():
        pixels = torch.tensor(canvases).float()[:, None] / 255
        (scores,) = objective.predict(exported.network, pixels)
    probabilities = answers(exported.file, image=canvases)["probabilities"]
    np.testing.assert_allclose(probabilities, scores.numpy(), atol=1e-4)
    np.testing.assert_array_equal(sets_of(probabilities), sets_of(scores.numpy()))
    assert len(set(sets_of(probabilities).sum(axis=1).tolist())) > 1


def test_the_file_finds_the_paths_that_pytorch_finds(paths: Exported, canvases: Array) -> None:
    inputs, outputs = onnx_file.signature(paths.file)
    batch = inputs["image"][1][0]
    assert isinstance(batch, str)
    assert inputs == {"image": ("UINT8", [batch, 64, 64])}
    assert outputs == {
        "path": ("INT64", [batch, 5]), "path_probability": ("FLOAT", [batch]), "probabilities": ("FLOAT", [batch, 10]),
    }  # fmt: skip
    weights = sum(weight.numel() for weight in paths.network.parameters())
    assert 4 * weights < paths.file.stat().st_size < 4.5 * weights

    assert isinstance(paths.network, CnnRnn)
    with torch.inference_mode():
        beam = beam_search(paths.network, torch.tensor(canvases).float()[:, None] / 255)
    assert set((beam.path >= 0).sum(dim=1).tolist()) == set(range(6))
    for size in (1, 7, 64):
        answered = answers(paths.file, size, image=canvases)
        np.testing.assert_array_equal(answered["path"], beam.path.numpy())
        np.testing.assert_allclose(answered["path_probability"], beam.path_probability.numpy(), atol=1e-4)
        np.testing.assert_allclose(answered["probabilities"], beam.probabilities.numpy(), atol=1e-4)


def test_the_metadata_say_how_to_read_a_path_and_hold_provenance_and_proof(paths: Exported) -> None:
    metadata = onnx_file.metadata(paths.file)
    assert (metadata["task"], len(json.loads(metadata["labels"]))) == ("multi_label", 10)
    assert (metadata["max_labels"], metadata["beam_width"]) == ("5", "8")
    assert (metadata["validation_o_f1"], metadata["validation_exact_match"]) == ("0.7500", "0.2500")
    assert (metadata["test_o_f1"], metadata["test_exact_match"]) == ("0.7000", "0.2000")
    assert (metadata["recipe"], metadata["seed"]) == ("tiny", "3")
    assert not {"threshold", "test_accuracy", "validation_accuracy"} & set(metadata)
    assert json.loads(metadata["training"])["config"]["model"] == "cnn_rnn"
    proven = json.loads(metadata["gate"])["parity"]
    assert proven["images"] == CANVASES
    assert proven["ties"] <= 10
    differences = proven["max_probability_difference"]["test"]
    assert ": 'probabilities within " in str(paths.published.summaries)
    assert list(differences) == ["1", "2", "3", "7", "16", "64"]
    assert 0 < max(differences.values()) <= 1e-4


def add_to_bias(label: int, amount: float) -> Change:
    """Add an amount to a label's bias: 0.003 changes only the probabilities, and 30 also changes the paths."""
    return partial(onnx_file.add, name="network.bias", amount=amount, at=label)


def keep_first_probability(model: onnx.ModelProto) -> None:
    text = "<bool[1] first = {1}> { path_probability = Compress <axis = 0> (before, first) }"
    onnx_file.remake(model, "path_probability", text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_to_bias(3, 0.003), r"^parity: batch \d: probabilities differ from PyTorch's by 0\.000\d+, more than"),
        (add_to_bias(3, 30.0), r"^parity: batch 1: paths differ from PyTorch's by \d, .* worst at test image \d"),
        (add_to_bias(0, np.nan), r"^parity: batch 1: .* differ from PyTorch's by "),
        (keep_first_probability, r"batch 2: path probabilities have shape \[4\], expected \[8\]"),
    ],
)
def test_a_file_that_differs_is_refused(
    change: Change, message: str, paths: Exported, few: Garments, tmp_path: Path
) -> None:
    reason = fault(paths, tmp_path, few, change, canvases=CANVASES)
    assert re.search(message, reason), reason


def with_ties(network: CnnRnn) -> CnnRnn:
    """Give the two most frequent labels the same embedding and bias, so that paths beginning with either are tied."""
    with torch.no_grad():
        network.embeddings.weight[4] = network.embeddings.weight[3]
        network.bias[[3, 4]] += 3
        network.bias[4] = network.bias[3]
    return network


def with_weights_of(network: CnnRnn, paths: Exported) -> onnx.ModelProto:
    """The exported graph with the weights of another network, transposed like those of the export."""
    model, replaced = paths.graph, set()
    for tensor in model.graph.initializer:
        before = numpy_helper.to_array(tensor)
        for name, weight in paths.network.state_dict().items():
            for turned in (False, True):
                own, other = (w.numpy().T if turned else w.numpy() for w in (weight, network.state_dict()[name]))
                if np.array_equal(before, own):
                    onnx_file.replace(model, tensor.name, other)
                    replaced.add(name)
    assert replaced == set(network.state_dict())
    return model


def test_tied_paths_may_differ_and_are_counted(paths: Exported, few: Garments, tmp_path: Path) -> None:
    """The file prefers label 3 to label 4 by a millionth, and PyTorch prefers label 4."""
    network = with_ties(runs.decisive_cnn_rnn(few, spread=0.3))
    with torch.no_grad():
        network.bias[3] += 1e-6
    graph = with_weights_of(network, paths)
    with torch.no_grad():
        network.bias[3] -= 2e-6
    run = runs.finished_sets(tmp_path / "run", "cnn_rnn", network.state_dict())
    published = publish(run, tmp_path / "models", few, graph=graph, canvases=20)
    ties = json.loads(published.metadata["gate"])["parity"]["ties"]
    images = runs.canvases(few, 20)
    with torch.inference_mode():
        expected = beam_search(network, torch.tensor(images).float()[:, None] / 255).path.numpy()
    actual = answers(published.folder / "model.onnx", image=images)["path"]
    assert 0 < (actual != expected).any(axis=1).sum() <= ties < 20
    assert f"all 20 images except for {ties} ties" in str(published.summaries)


def test_another_set_by_the_threshold_is_refused(
    few: Garments, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The file predicts wrong labels for an image whose logits the gate does not compare."""
    text = """<int64[2] axes = {1, 2}, int64[1] axis = {1}, float fifty = {50}> {
        equal = Equal(image, picture)
        equals = Cast <to = 1> (equal)
        seen = ReduceMin <keepdims = 0> (equals, axes)
        rows = Unsqueeze(seen, axis)
        added = Mul(rows, fifty)
        logits = Add(before, added)
    }"""
    change = partial(onnx_file.remake, output="logits", text=text, picture=runs.canvases(few, 300)[280])
    exported = label_sets(tmp_path_factory, "sigmoids")
    reason = fault(exported, tmp_path, few, change, canvases=300)
    assert re.search(r"different label sets for 1 of 300 .* image 280\.", reason), reason
